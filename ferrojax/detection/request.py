"""What is asked of a simulation, checked in one place before anything is planned."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.crystal import Atoms, check_atoms
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.detection.detectors import Detector
from ferrojax.detection.numerics import Numerics
from ferrojax.detection.scan import Scan
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal, FrozenPhonons, SlicePlan, ThermalModel, draws_composition
from ferrojax.optics import PlaneWave, Probe

STEEPEST = 100.0
"""mrad of mis-tilt that a propagator's ramp bears: beyond, the crystal should be cut along another zone axis."""


class Request(eqx.Module):
    """The arguments of `simulate`. tilt: (2,), or (rows, cols, 2) for every position, mrad."""

    atoms: Atoms
    probe: Probe
    scan: Scan
    detectors: dict[str, Detector]
    thermal: ThermalModel
    tilt: Float[Array, "*positions 2"]
    thicknesses: tuple[float, ...] | None = eqx.field(static=True)
    numerics: Numerics
    plan: SlicePlan | None
    devices: tuple[Any, ...] | None = eqx.field(static=True)

    @staticmethod
    def of(
        specimen: tuple[Any, Any, Any, Any], thermal: Any, tilt: Any, thicknesses: Any, numerics: Numerics, plan: Any,
        devices: Sequence[Any] | None,
    ) -> "Request":  # fmt: skip
        """Checked for type and value; specimen: (atoms, probe, scan, detectors)."""
        atoms, probe, scan, detectors = specimen
        check_atoms(atoms)
        _check_types(probe, scan, detectors, thermal, plan)
        _warn_at_rest(atoms, thermal)
        if isinstance(numerics.sampling, Grid):
            numerics.sampling.check_spans(*atoms.box[:2])
        return Request(
            atoms,
            probe,
            scan,
            dict(detectors),
            thermal,
            _checked_tilt(tilt, scan),
            _checked_thicknesses(thicknesses, plan),
            numerics,
            _checked_plan(plan, atoms, numerics),
            None if devices is None else tuple(devices),
        )


def guarded_tilt(request: Request, barred: str | None) -> Float[Array, "*positions 2"]:
    """The tilt, with the values checked at run time that are traced: its own, and a source that must be zero."""
    tilt = request.tilt
    if is_traced(tilt):
        bad = ~(jnp.abs(tilt) <= STEEPEST)
        tilt = eqx.error_if(tilt, bad.any(), f"tilt: must be finite and within {STEEPEST:g} mrad")
    if barred is not None:
        problem = f"source_size: {barred}; blur the signal afterwards, or fix it"
        tilt = eqx.error_if(tilt, (request.probe.source_size > 0).any(), problem)
    return tilt


def _check_types(probe, scan, detectors, thermal, plan) -> None:
    if not isinstance(probe, Probe):
        wave = isinstance(probe, PlaneWave)
        remedy = "use exit_wave for a plane wave" if wave else "give fj.Probe(energy in eV, semiangle in mrad)"
        raise InputError("probe", type(probe).__name__, "is no Probe", remedy)
    if not isinstance(scan, Scan):
        raise InputError("scan", type(scan).__name__, "is no Scan", "give fj.Scan.grid(start, end, shape)")
    if not isinstance(detectors, Mapping) or not all(isinstance(d, Detector) for d in detectors.values()):
        shown = type(detectors).__name__ if not isinstance(detectors, Mapping) else str(detectors)
        raise InputError("detectors", shown, "must name each detector", "e.g. {'haadf': AnnularDetector(60, 170)}")
    if not detectors:
        raise InputError("detectors", "{}", "none given", "e.g. {'haadf': AnnularDetector(60, 170)}")
    if not (thermal is None or isinstance(thermal, FrozenPhonons | FastThermal)):
        raise InputError("thermal", thermal, "is no thermal model", "give fj.FrozenPhonons(8) or fj.FastThermal(8)")
    if not (plan is None or isinstance(plan, SlicePlan)):
        raise InputError("plan", type(plan).__name__, "is no SlicePlan", "make it with fj.plan_slices(atoms)")


def _warn_at_rest(atoms: Atoms, thermal: ThermalModel) -> None:
    """Say which elements a thermal model does not move, because files without displacement parameters give 0."""
    if thermal is None or is_traced(atoms.thermal_rms):
        return
    number, rms = np.array(atoms.number), np.asarray(atoms.thermal_rms)
    moved = set(number[rms.reshape(len(number), -1).any(1)].tolist())
    still = [SYMBOLS[z] for z in sorted(set(atoms.number) - moved)]
    if still and not draws_composition(atoms, thermal):
        kind, verb = type(thermal).__name__, "do not move" if len(still) > 1 else "does not move"
        remedy = "give it in Å per axis, or leave thermal out"
        warnings.warn(f"thermal: under {kind} {', '.join(still)} {verb}, thermal_rms is 0; {remedy}", stacklevel=4)


def _checked_tilt(tilt: Any, scan: Scan) -> Float[Array, "*positions 2"]:
    """(2,) or (rows, cols, 2) mrad; components may be traced one by one."""
    problem = f"needs (x, y) in mrad, or one for each of {scan.shape}"
    try:
        array = jnp.asarray(tilt, jnp.result_type(float))
    except (TypeError, ValueError) as error:
        raise InputError("tilt", tilt, problem, "e.g. (3.0, 0.0)") from error
    if array.shape not in ((2,), (*scan.shape, 2)):
        raise InputError("tilt", array.shape, problem, "e.g. (3.0, 0.0)")
    if is_traced(array):
        return array
    if not np.isfinite(np.asarray(array)).all():
        raise InputError("tilt", "NaN or infinity", "must be finite", "give (x, y) in mrad")
    worst = float(np.abs(np.asarray(array)).max())
    if worst > STEEPEST:
        remedy = "give mrad, or cut the crystal along a nearer zone axis with oriented_supercell"
        raise InputError("tilt", worst, f"must lie within {STEEPEST:g} mrad", remedy)
    return array


def _checked_thicknesses(thicknesses: Any, plan: SlicePlan | None) -> tuple[float, ...] | None:
    if thicknesses is None:
        return None
    if plan is not None:
        asked = f"{thicknesses}"
        remedy = "give thicknesses to plan_slices, or leave the plan out"
        raise InputError("thicknesses", asked, "are those of the plan when one is given", remedy)
    try:
        values = np.asarray(thicknesses, float)
    except (TypeError, ValueError) as error:
        raise InputError("thicknesses", thicknesses, "must be numbers", "give a list in Å, e.g. [50.0]") from error
    if values.ndim != 1 or not len(values):
        raise InputError("thicknesses", thicknesses, "must be a list of depths", "give Å, e.g. [50.0, 100.0]")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise InputError("thicknesses", thicknesses, "must be positive and finite", "give Å, e.g. [50.0, 100.0]")
    return tuple(float(v) for v in values)


def _checked_plan(plan: SlicePlan | None, atoms: Atoms, numerics: Numerics) -> SlicePlan | None:
    """A plan that was made for these atoms, with which no other slice thickness is asked for."""
    if plan is None:
        if is_traced(atoms.position):
            raise InputError("position", "traced", "cannot be sorted into slices", "pass plan=plan_slices(atoms)")
        return None
    plan.check_specimen(atoms)
    if numerics.slice_thickness is not None:
        remedy = "give it to plan_slices, or leave the plan out"
        raise InputError("slice_thickness", numerics.slice_thickness, "is the plan's when one is given", remedy)
    return plan
