"""Which combinations of thermal model, transmission, detector and route are right, all in one table.

FastThermal counts what leaves its band limit K. Against explicit phonons on a fine grid a ring is within 2 % if it
ends well within K, where the band's folding over has not begun, or if it starts well within and ends well beyond K
(benchmarks/bench_fast_rings.py).
"""

from collections.abc import Callable, Mapping

import numpy as np

from ferrojax.detection.detectors import Detector
from ferrojax.detection.request import Request
from ferrojax.errors import InputError, is_traced
from ferrojax.multislice import FastThermal
from ferrojax.optics import Probe

WITHIN = 0.68
"""FastThermal: outer angle of a detector that ends within the band limit, as part of it."""
STARTS, ENDS = 1.6, 1.12
"""FastThermal: a ring that takes what is lost starts below K/STARTS and ends above K·ENDS."""
COARSE, FINE = 0.1, 0.03
"""Å per pixel between which FastThermal's own sampling lies."""
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


def _fast_is_right(detector: Detector, reach: float) -> bool:
    if detector.outer + detector.soft <= WITHIN * reach:
        return True
    starts, ends = detector.inner + detector.soft, detector.outer - detector.soft
    return detector.takes_lost and starts * STARTS <= reach and ends >= ENDS * reach


def check_reach(detectors: Mapping[str, Detector], reach: float, fast: bool, probe: Probe) -> None:
    """Refuse angles that the grid's band limit (`reach`, mrad) and the thermal model cannot represent."""
    for name, d in detectors.items():
        span = f"{name} {d.inner:g}–{d.outer:g} mrad"
        if fast and not _fast_is_right(d, reach):
            best = fast_sampling({name: d}, probe.wavelength)
            finer = f"use a sampling of at most {best:.3f} Å, or None, or FrozenPhonons"
            remedy = finer if best > FINE else "use FrozenPhonons, or a detector that starts further in"
            where = "starts or ends too close to" if d.takes_lost else "ends too close to or beyond"
            raise InputError("detector", span, f"{where} FastThermal's band limit of {reach:.0f} mrad", remedy)
        end = d.outer + d.soft
        if fast or end <= reach:
            continue
        remedy = f"use a sampling {reach / end:.2f} times this one" if end < np.inf else "give a finite outer angle"
        remedy += ", or FastThermal" if d.takes_lost else ""
        raise InputError("detector", span, f"reaches beyond the grid's band limit of {reach:.0f} mrad", remedy)
    semiangle = probe.semiangle
    if not is_traced(semiangle) and float(semiangle) + probe.edge / 2 > reach:
        remedy = f"use a sampling {reach / float(semiangle):.2f} times this one"
        raise InputError("sampling", f"band limit {reach:.0f} mrad", "too coarse for the semi-angle", remedy)
