"""What is asked of a simulation, checked in one place before anything is planned."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.checks import any_traced
from ferrojax.crystal import Atoms, check_atoms
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.detection.detectors import Detector
from ferrojax.detection.numerics import Numerics
from ferrojax.detection.scan import Scan
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal, FrozenPhonons, SlicePlan, ThermalModel, draws_composition
from ferrojax.multislice.given import STEEPEST, guarded_atoms, guarded_tilt, plan_given
from ferrojax.multislice.slices import depths_given
from ferrojax.optics import PlaneWave, Probe


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
        _check_types(probe, scan, detectors, thermal)
        if not any_traced(probe):
            probe.guarded()
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
            _checked_depths(thicknesses, plan),
            numerics,
            plan_given(plan, atoms, numerics.slice_thickness),
            _checked_devices(devices),
        )


def guarded(request: Request, slices: SlicePlan, barred: str | None, widest: float | None) -> Request:
    """The request; what of it is traced is checked as the program runs: values, a source that must be zero (`barred`
    says why), and the semi-angle (mrad) that positions were planned for."""
    probe, tilt = request.probe.guarded(), guarded_tilt(request.tilt)
    if barred is not None:  # the source is not used then, and what is not used is not checked
        problem = f"source_size: {barred}; blur the signal afterwards, or fix it"
        tilt = eqx.error_if(tilt, (probe.source_size > 0).any(), problem)
    if widest is not None:
        problem = f"semiangle: traced, with a source (traced or not 0), it must be at most {widest:g} mrad"
        tilt = eqx.error_if(tilt, probe.semiangle + probe.edge / 2 > widest, problem)
    atoms = guarded_atoms(request.atoms, slices)
    return eqx.tree_at(lambda r: (r.atoms, r.probe, r.tilt), request, (atoms, probe, tilt))


def _check_types(probe, scan, detectors, thermal) -> None:
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
        bools = not is_traced(array) and np.asarray(tilt).dtype == bool
    except (TypeError, ValueError) as error:
        raise InputError("tilt", tilt, problem, "e.g. (3.0, 0.0)") from error
    if bools:
        raise InputError("tilt", tilt, problem, "e.g. (3.0, 0.0)")
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


def _checked_depths(thicknesses: Any, plan: Any) -> tuple[float, ...] | None:
    if thicknesses is not None and plan is not None:
        remedy = "give thicknesses to plan_slices, or leave the plan out"
        raise InputError("thicknesses", thicknesses, "are those of the plan when one is given", remedy)
    return depths_given(thicknesses)


def _checked_devices(devices: Any) -> tuple[Any, ...] | None:
    """Devices of JAX, at least one; None: all local ones."""
    if devices is None:
        return None
    given = tuple(devices) if isinstance(devices, list | tuple) else ()
    if not given or not all(isinstance(d, jax.Device) for d in given):
        raise InputError("devices", devices, "is no list of JAX's devices", "give jax.local_devices()[:n], or None")
    return given
