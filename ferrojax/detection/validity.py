"""Which combinations of thermal model, transmission, detector and route are right, all in one table.

FastThermal counts what leaves its band limit K. Against explicit phonons on a fine grid a ring is within 2 % if it
ends well within K, where the band's folding over has not begun, or if it starts well within and ends well beyond K
(benchmarks/bench_fast_rings.py).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ferrojax.detection.detectors import Detector
from ferrojax.detection.request import Request
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal
from ferrojax.optics import Probe

WITHIN = 0.68
"""FastThermal: outer angle of a detector that ends within the band limit, as part of it."""
CLEAR = 0.84
"""Explicit phonons: part of the band limit up to which rings are within 2 %, and beyond which 3 to 25 % are missing
(benchmarks/bench_explicit_rings.py)."""
STARTS, ENDS = 1.6, 1.12
"""FastThermal: a ring that takes what is lost starts below K/STARTS and ends above K·ENDS."""
COARSE, FINE = 0.1, 0.03
"""Å per pixel between which FastThermal's own sampling lies."""
AIRY = 1.22
"""Diameter of a probe's disc, in λ/α."""
FAST_FRACTION = 0.9
"""FastThermal's band limit as part of Nyquist."""
ROUNDED = 1.08
"""A grid may come out finer than its ceiling by this factor, for the sake of the Fourier transform."""

FORBIDDEN: tuple[tuple[Callable[[Request], bool], str, str, str], ...] = (
    (
        lambda r: isinstance(r.thermal, FastThermal) and r.numerics.transmission != "renormalised",
        "transmission",
        "loses norm of its own, which FastThermal would count as HAADF",
        'use "renormalised", or FrozenPhonons',
    ),
    (
        lambda r: r.numerics.route == "matrix" and r.tilt.ndim > 1,
        "route",
        'the "matrix" route takes one tilt for all positions',
        'use route="probes"',
    ),
    (
        lambda r: r.numerics.route == "matrix" and is_traced(r.probe.semiangle),
        "route",
        'the "matrix" route takes a fixed semi-angle',
        'use route="probes"',
    ),
)
"""(whether a request has it, field, what is wrong, remedy)."""


def check_combination(request: Request) -> None:
    """Refuse combinations that cannot be right whatever the grid."""
    for has, field, problem, remedy in FORBIDDEN:
        if has(request):
            raise InputError(field, getattr(request.numerics, field), problem, remedy)


def fast_sampling(detectors: Mapping[str, Detector], wavelength: float) -> float:
    """The coarsest sampling (Å per pixel) at which FastThermal is right for every detector; FINE where none is."""
    for sampling in np.geomspace(COARSE, FINE, 100).tolist():
        reach = FAST_FRACTION * 0.5 / sampling * wavelength * 1e3
        if all(_fast_is_right(d, reach) and _fast_is_right(d, ROUNDED * reach) for d in detectors.values()):
            return sampling
    return FINE


def explicit_sampling(detectors: Mapping[str, Detector], wavelength: float, fraction: float, ceiling: float) -> float:
    """The coarsest sampling (Å per pixel, at most `ceiling`) whose band limit, that part of Nyquist, lies well beyond
    where every detector ends."""
    ends = max((d.outer + d.soft for d in detectors.values() if np.isfinite(d.outer)), default=0.0)
    return min(ceiling, CLEAR * fraction * 0.5 * wavelength * 1e3 / max(ends, 1e-9))


def _fast_is_right(detector: Detector, reach: float) -> bool:
    if detector.outer + detector.soft <= WITHIN * reach:
        return True
    starts, ends = detector.inner + detector.soft, detector.outer - detector.soft
    return detector.takes_lost and starts * STARTS <= reach and ends >= ENDS * reach


def check_window(window: float, probe: Probe) -> None:
    """Refuse a window (Å) that is narrower than the probe's disc: hardly a wave of it lies in the aperture."""
    if is_traced(probe.semiangle):
        return
    disc = AIRY * probe.wavelength / (float(probe.semiangle) * 1e-3)
    if window < disc:
        problem = f"is narrower than the disc of a probe of {float(probe.semiangle):g} mrad, {disc:.1f} Å"
        raise InputError("window", f"{window:g} Å", problem, 'use "auto", a wider one, or None for the whole box')


def check_lit(grids: Sequence[Grid], probe: Probe) -> None:
    """Refuse grids of which no frequency lies inside the aperture."""
    if is_traced(probe.semiangle):
        return
    limit = float(probe.semiangle) + probe.edge / 2
    for grid in grids:
        least = float(grid.k.min()) * probe.wavelength * 1e3
        if least >= limit:
            shown = f"({grid.extent[1]:.1f}, {grid.extent[0]:.1f}) Å"
            problem = f"is so narrow that its first frequency lies at {least:.2f} mrad, outside the semi-angle"
            raise InputError("box", shown, problem, "use a larger box or window, or a Grid without offset")


def check_reach(
    detectors: Mapping[str, Detector], reach: float, fast: bool, probe: Probe, clear: float = CLEAR
) -> None:
    """Refuse angles that the grid's band limit (`reach`, mrad) and the thermal model cannot represent.

    clear: part of the band limit up to which rings are right where phonons are explicit; beyond, it is said.
    """
    for name, d in detectors.items():
        span = f"{name} {d.inner:g}–{d.outer:g} mrad"
        if fast and not _fast_is_right(d, reach):
            best = fast_sampling({name: d}, probe.wavelength)
            finer = f"use a sampling of at most {best:.3f} Å, or None, or FrozenPhonons"
            remedy = finer if best > FINE else "use FrozenPhonons, or a detector that starts further in"
            where = "starts or ends too close to" if d.takes_lost else "ends too close to or beyond"
            raise InputError("detector", span, f"{where} FastThermal's band limit of {reach:.0f} mrad", remedy)
        end = d.outer + d.soft
        if fast or end <= clear * reach:
            continue
        if end <= reach:
            warnings.warn(
                f"detector: {span} ends close to the grid's band limit of {reach:.0f} mrad, where waves fold over: it "
                f"may come out 3 to 25 % low; use a sampling {clear * reach / end:.2f} times this one, or None",
                stacklevel=5,
            )
            continue
        remedy = f"use a sampling {clear * reach / end:.2f} times this one"
        remedy = remedy if end < np.inf else "give a finite outer angle"
        remedy += ", or FastThermal" if d.takes_lost else ""
        raise InputError("detector", span, f"reaches beyond the grid's band limit of {reach:.0f} mrad", remedy)
    semiangle = probe.semiangle
    if not is_traced(semiangle) and float(semiangle) + probe.edge / 2 > reach:
        remedy = f"use a sampling {reach / float(semiangle):.2f} times this one"
        raise InputError("sampling", f"band limit {reach:.0f} mrad", "too coarse for the semi-angle", remedy)
