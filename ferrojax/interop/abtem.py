"""abTEM as an independent engine: the only place that imports it.

abTEM's arrays are (x, y); everything here returns (rows, cols) = (y, x).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ferrojax.crystal import Atoms
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.detection import AnnularDetector, Scan
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.optics import Probe

ROUNDING = 1e-5
"""Occupancies that sum to one in float32 may miss it by so much."""


@contextmanager
def _quiet(precision: str = "float64") -> Iterator[Any]:
    """abTEM without progress bars or foreign warnings, in double precision unless speed counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import abtem

        settings = {
            "precision": precision,
            "diagnostics.progress_bar": False,
            "diagnostics.task_level_progress": False,
        }
        with abtem.config.set(settings):
            yield abtem


def _ase(atoms: Atoms):
    """ASE's Atoms without the atoms of zero occupancy; refuses partial ones, which abTEM would count whole."""
    import ase

    share = np.asarray(atoms.occupancy, float)
    partial = (share > 0) & (share < 1 - ROUNDING)
    if partial.any():
        raise InputError(
            "occupancy",
            f"{share[partial][0]:.3g} of atom {np.flatnonzero(partial)[0]}",
            "is partial, and abTEM has whole atoms only",
            "draw whole ones with ferrojax.draw_occupancy(atoms, seed)",
        )
    kept = np.flatnonzero(share)
    if kept.size == 0:
        raise InputError("occupancy", share.max(), "leaves no atom in the specimen", "give atoms of occupancy 1")
    symbols = [SYMBOLS[z] for z in np.array(atoms.number)[kept]]
    return ase.Atoms(symbols, positions=np.asarray(atoms.position, float)[kept], cell=atoms.box, pbc=True)


def _potential(abtem: Any, atoms: Atoms, grid: Grid, slice_thickness: float, parametrization: str) -> Any:
    return abtem.Potential(
        _ase(atoms),
        gpts=grid.shape[::-1],
        slice_thickness=slice_thickness * (1 + 1e-6),  # a whole number of slices must not become one more
        parametrization=parametrization,
        projection="infinite",
    )


def _probe(abtem: Any, probe: Probe, tilt: tuple[float, float]) -> Any:
    return abtem.Probe(
        energy=probe.energy,
        semiangle_cutoff=float(probe.semiangle),
        defocus=float(probe.defocus),
        aberrations={name: float(value) for name, value in probe.aberrations.items()},
        soft=False,
        tilt=tilt,
    )


def exit_wave(
    atoms: Atoms,
    energy: float,
    grid: Grid,
    slice_thickness: float = 2.0,
    tilt: tuple[float, float] = (0.0, 0.0),
    parametrization: str = "lobato",
) -> np.ndarray:
    """abTEM's exit wave of a plane wave, (rows, cols) complex."""
    with _quiet() as abtem:
        wave = abtem.PlaneWave(energy=energy, tilt=tilt)
        return wave.multislice(_potential(abtem, atoms, grid, slice_thickness, parametrization)).compute().array.T


def diffraction_pattern(
    atoms: Atoms,
    probe: Probe,
    position: tuple[float, float],
    grid: Grid,
    slice_thickness: float = 2.0,
    tilt: tuple[float, float] = (0.0, 0.0),
    parametrization: str = "lobato",
) -> np.ndarray:
    """abTEM's convergent-beam pattern with the probe at (x, y) Å, (rows, cols), zero frequency in the centre."""
    with _quiet() as abtem:
        scan = abtem.CustomScan([position])
        waves = _probe(abtem, probe, tilt).multislice(
            _potential(abtem, atoms, grid, slice_thickness, parametrization), scan=scan
        )
        pattern = waves.diffraction_patterns(max_angle=None).compute().array
        return pattern.reshape(pattern.shape[-2:]).T


def scan_annular(
    atoms: Atoms,
    probe: Probe,
    scan: Scan,
    detectors: dict[str, AnnularDetector],
    grid: Grid,
    slice_thickness: float = 2.0,
    tilt: tuple[float, float] = (0.0, 0.0),
    parametrization: str = "lobato",
    precision: str = "float64",
) -> dict[str, np.ndarray]:
    """abTEM's annular signals at every scan position, name -> (rows, cols), fractions of the beam."""
    with _quiet(precision) as abtem:
        positions = np.asarray(scan.position, float).reshape(-1, 2)
        rings = [abtem.AnnularDetector(d.inner, d.outer) for d in detectors.values()]
        signals = _probe(abtem, probe, tilt).scan(
            _potential(abtem, atoms, grid, slice_thickness, parametrization),
            scan=abtem.CustomScan(positions),
            detectors=rings,
        )
        signals = signals if isinstance(signals, list) else [signals]
        return {
            name: np.asarray(s.compute().array).reshape(scan.shape) for name, s in zip(detectors, signals, strict=True)
        }


def scan_pixelated(
    atoms: Atoms, probe: Probe, scan: Scan, max_angle: float, sampling: float, slice_thickness: float = 2.0
) -> np.ndarray:
    """abTEM's diffraction patterns up to `max_angle` (mrad) at every scan position, (rows, cols, ky, kx), in single
    precision, on the whole periodic box."""
    with _quiet("float32") as abtem:
        positions = np.asarray(scan.position, float).reshape(-1, 2)
        potential = abtem.Potential(
            _ase(atoms), sampling=sampling, slice_thickness=slice_thickness, parametrization="lobato"
        )
        camera = abtem.PixelatedDetector(max_angle=max_angle)
        waves = _probe(abtem, probe, (0.0, 0.0)).scan(potential, scan=abtem.CustomScan(positions), detectors=camera)
        pattern = np.asarray(waves.compute().array)
        return np.swapaxes(pattern, -1, -2).reshape(*scan.shape, *pattern.shape[:-3:-1])


def scan_prism(
    atoms: Atoms,
    probe: Probe,
    shape: tuple[int, int],
    detector: AnnularDetector,
    sampling: float,
    interpolation: int,
    slice_thickness: float = 2.0,
    downsample: bool = False,
) -> np.ndarray:
    """abTEM's PRISM image of the whole periodic box, (rows, cols), fraction of the beam.

    downsample: the scattering matrix to its band limit before it is read, abTEM's own default, which is faster.
    abTEM's scattering matrix knows no tilt: shear the atoms instead (x − z·tan tx).
    """
    with _quiet("float32") as abtem:
        potential = abtem.Potential(
            _ase(atoms), sampling=sampling, slice_thickness=slice_thickness, parametrization="lobato"
        )
        matrix = abtem.SMatrix(
            potential=potential,
            energy=probe.energy,
            semiangle_cutoff=float(probe.semiangle),
            interpolation=interpolation,
            downsample=downsample,
            store_on_host=True,
        )
        grid = abtem.GridScan(start=(0, 0), end=atoms.box[:2], gpts=shape[::-1], endpoint=False)
        ctf = abtem.CTF(
            semiangle_cutoff=float(probe.semiangle),
            energy=probe.energy,
            defocus=float(probe.defocus),
            soft=False,
            **{name: float(value) for name, value in probe.aberrations.items()},
        )
        rings = [abtem.AnnularDetector(detector.inner, detector.outer)]
        image = matrix.scan(scan=grid, detectors=rings, ctf=ctf).compute()
        image = image[0] if isinstance(image, list) else image
        return np.asarray(image.array).T
