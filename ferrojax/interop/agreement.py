"""One experiment on two engines: the same specimen, grid and optics through ferrojax and through abTEM."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ferrojax.crystal import Atoms
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.interop import abtem
from ferrojax.multislice import band, exit_wave, is_partial, multislice, plan_slices, propagator, slab, slice_tables
from ferrojax.optics import PlaneWave, Probe, probe_spectrum

EXIT_WAVE, CBED = "exit wave", "CBED"
BOUNDS = {EXIT_WAVE: 1e-4, CBED: 1e-3}
"""Largest relative L2 difference of two correct engines on one grid; images: IMAGE_BOUND."""
IMAGE_BOUND = 1e-3


class Experiment(eqx.Module):
    """What both engines compute: exit wave of a plane wave, one convergent-beam pattern, one image a detector.

    tilt: mrad (x, y). slice_thickness: Å. cbed_position: (x, y) Å. parametrization: "lobato" or "kirkland".
    """

    atoms: Atoms
    probe: Probe
    scan: Scan
    detectors: Mapping[str, AnnularDetector]
    grid: Grid
    cbed_position: tuple[float, float] = eqx.field(static=True)
    tilt: tuple[float, float] = eqx.field(static=True, default=(0.0, 0.0))
    slice_thickness: float = eqx.field(static=True, default=2.0)
    parametrization: str = eqx.field(static=True, default="lobato")


def with_abtem(experiment: Experiment) -> dict[str, np.ndarray]:
    """abTEM's exit wave (complex), pattern (zero frequency in the centre) and images, each (rows, cols)."""
    e = experiment
    shared = e.grid, e.slice_thickness, e.tilt, e.parametrization
    return {
        EXIT_WAVE: abtem.exit_wave(e.atoms, e.probe.energy, *shared),
        CBED: abtem.diffraction_pattern(e.atoms, e.probe, e.cbed_position, *shared),
        **abtem.scan_annular(e.atoms, e.probe, e.scan, dict(e.detectors), *shared),
    }


def with_ferrojax(experiment: Experiment, transmission: str) -> dict[str, np.ndarray]:
    """The same from ferrojax; transmission "abtem" mirrors that code's potential on and off the pixels."""
    e = experiment
    options = {
        "tilt": e.tilt,
        "slice_thickness": e.slice_thickness,
        "transmission": transmission,
        "parametrization": e.parametrization,
    }
    images = simulate(e.atoms, e.probe, e.scan, e.detectors, sampling=e.grid, window=None, route="probes", **options)
    return {
        EXIT_WAVE: np.asarray(exit_wave(e.atoms, PlaneWave(e.probe.energy), e.grid, **options)),
        CBED: _pattern(e, transmission),
        **{name: np.asarray(image.data) for name, image in images.items()},
    }


def _pattern(e: Experiment, transmission: str) -> np.ndarray:
    plan = plan_slices(e.atoms, e.slice_thickness)
    tables = slice_tables(
        plan.elements,
        e.grid,
        e.probe.energy,
        transmission,
        parametrization=e.parametrization,
        partial=is_partial(e.atoms),
    )
    limit = e.grid.band_limit(*band(transmission)[:2])
    kernel = propagator(e.grid, e.probe.energy, plan.slice_thickness, jnp.asarray(e.tilt), limit)
    ky, kx = e.grid.frequencies
    x, y = e.cbed_position
    ramp = np.exp(-2j * np.pi * (kx[None] * x + ky[:, None] * y))
    psi = jnp.fft.ifft2(probe_spectrum(e.probe, e.grid) * jnp.asarray(ramp), norm="ortho")[None]
    wave = multislice(
        psi, slab(*plan.merged(e.atoms.position, e.atoms.occupancy), plan, tables), kernel, lambda p, _: p
    )[-1, 0]
    return np.fft.fftshift(np.abs(np.fft.fft2(wave, norm="ortho")) ** 2)


def relative_differences(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """name -> ‖ours − theirs‖/‖theirs‖, after a common phase of the waves and on the smaller of two patterns."""
    return {name: _relative(*_alike(name, np.asarray(ours[name]), np.asarray(theirs[name]))) for name in theirs}


def _alike(name: str, ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if name == EXIT_WAVE:
        phase = np.vdot(ours, theirs)
        return ours * phase / abs(phase), theirs
    if name == CBED:
        shape = tuple(min(n) for n in zip(ours.shape, theirs.shape, strict=True))
        return _centre(ours, shape), _centre(theirs, shape)
    return ours, theirs


def _centre(pattern: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The part of that shape round the zero frequency, which sits at n // 2."""
    first = [n // 2 - m // 2 for n, m in zip(pattern.shape, shape, strict=True)]
    return pattern[first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]]


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def bound(name: str) -> float:
    """The largest difference that `name` may show."""
    return BOUNDS.get(name, IMAGE_BOUND)


def clear_of_slice_edges(atoms: Atoms, slice_thickness: float) -> Atoms:
    """The same specimen with no atom nearer to the edge of its slice than a tenth (slice_thickness: Å, a ceiling).

    Where in its slice an atom lies is nothing to either engine, but abTEM may put one that lies on an edge, or outside
    the box, into another slice than ours: a question of no right or wrong, so a cross-check leaves it out.
    """
    plan = plan_slices(atoms, slice_thickness)
    index, present = np.asarray(plan.index), np.asarray(plan.present) > 0
    position = np.array(atoms.position, float)
    top = np.broadcast_to(np.arange(len(index))[:, None, None], index.shape)[present] * plan.slice_thickness
    near, far = top + 0.1 * plan.slice_thickness, top + 0.9 * plan.slice_thickness
    position[index[present], 2] = np.clip(position[index[present], 2], near, far)
    return Atoms(position, atoms.number, atoms.box, atoms.thermal_rms, atoms.occupancy)
