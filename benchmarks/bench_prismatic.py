"""The engine against stored results of Prismatic for one silicon cell at rest, 100 kV.

usage: FERROJAX_REFERENCE_DATA=FOLDER python benchmarks/bench_prismatic.py [OUT_FOLDER]
FOLDER holds prismatic_si100_reference. Prismatic's grid is 16 × 16 over 5.43 Å and it keeps beams −4 to 3 on either
axis; both are matched here. Potentials: "exact" is Kirkland's by structure factor, "pixel mean" the same atom averaged
over every pixel within Prismatic's bound, as that code makes it.
"""

import os
import sys
from pathlib import Path
from time import perf_counter

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from common import RESULTS, write_result
from scipy.special import erf

from ferrojax.constants import interaction_constant, wavelength
from ferrojax.crystal import Atoms
from ferrojax.grid import Grid
from ferrojax.multislice import (
    multislice,
    plan_slices,
    projected_potential,
    projected_transform,
    propagator,
    slab,
    slice_tables,
)

CELL, PIXELS, ENERGY = 5.43, 16, 100e3
STEP = CELL / 4
GRID = Grid((PIXELS, PIXELS), (CELL / PIXELS, CELL / PIXELS))
SLICE = {(0, 2): 0, (2, 0): 0, (1, 1): 0, (3, 3): 0, (1, 3): 1, (3, 1): 1, (0, 0): 3, (2, 2): 3}
"""Quarters of the cell (x, y) -> Prismatic's slice, read off its stored potential: it puts two planes in the first."""
FILES = {"Si100_2D_3D_DPC_potential_2slices": 10.0, "Si100_3D": 30.0, "Si100_4D": 30.0}
"""File -> semi-angle, mrad."""


def silicon() -> Atoms:
    """The cell as Prismatic slices it."""
    position = [[x * STEP, y * STEP, (s + 0.5) * STEP] for (x, y), s in SLICE.items()]
    return Atoms(position, [14] * 8, (CELL, CELL, CELL))


def pixel_mean_potential(bound: float) -> np.ndarray:
    """One atom at the origin, V·Å, averaged over 8 × 8 points in every pixel up to `bound` Å on either axis."""
    pixel, fine = GRID.sampling[0], 8
    index = np.arange(-int(np.ceil(bound / pixel)), int(np.ceil(bound / pixel)) + 1)
    x = (index[:, None] + (np.arange(fine) - (fine - 1) / 2) / fine).ravel() * pixel
    value = projected_potential("Si", np.hypot(x[:, None], x[None]), "kirkland")
    mean = value.reshape(len(index), fine, len(index), fine).mean((1, 3))
    cell = np.zeros(GRID.shape)
    np.add.at(cell, (index[:, None] % PIXELS, index[None] % PIXELS), mean)
    return cell


def kept_beams() -> np.ndarray:
    """1 for the beams −4 to 3 on both axes, FFT order."""
    beam = np.fft.fftfreq(PIXELS, 1 / PIXELS)
    inside = (beam >= -PIXELS // 4) & (beam < PIXELS // 4)
    return (inside[:, None] & inside[None]).astype(float)


def aperture(semiangle: float) -> np.ndarray:
    """Prismatic's soft aperture, an error function half a beam wide, with unit norm."""
    inside = semiangle * 1e-3 / wavelength(ENERGY) - GRID.k
    edge = 0.5 * (1 + erf(inside * 2 * CELL))
    return edge / np.sqrt((edge**2).sum())


def patterns(semiangle: float, probe_step: float, bound: float | None) -> np.ndarray:
    """(exits, probes, probes, rows, cols) in FFT order after two and four slices; bound None: exact potential."""
    atoms = silicon()
    plan = plan_slices(atoms, STEP, [2 * STEP, 4 * STEP])
    every = np.ones(GRID.shape)
    tables = slice_tables(plan.elements, GRID, ENERGY, "conventional", every, parametrization="kirkland")
    if bound is not None:
        phase = interaction_constant(ENERGY) * np.fft.fft2(pixel_mean_potential(bound)).real
        tables = eqx.tree_at(lambda t: t.phase, tables, jnp.asarray(phase[None], tables.phase.dtype))
    kernel = propagator(GRID, ENERGY, plan.slice_thickness, jnp.zeros(2), kept_beams())
    at = np.arange(0, CELL, probe_step)
    ky, kx = GRID.frequencies
    ramp_x, ramp_y = (np.exp(-2j * np.pi * np.outer(at, k)) for k in (kx, ky))
    spectrum = aperture(semiangle) * ramp_y[:, None, :, None] * ramp_x[None, :, None, :]
    psi = jnp.fft.ifft2(jnp.asarray(spectrum.reshape(-1, *GRID.shape)), norm="ortho")
    waves = multislice(psi, slab(atoms.position, atoms.occupancy, plan, tables), kernel, lambda p, _: p)
    intensity = np.abs(np.fft.fft2(waves, norm="ortho")) ** 2
    return intensity.reshape(2, len(at), len(at), *GRID.shape)


def rings(pattern: np.ndarray, count: int) -> np.ndarray:
    """Sums over rings of 1 mrad: (..., count)."""
    ring = np.floor(GRID.k * wavelength(ENERGY) * 1e3).astype(int)
    return np.stack([pattern[..., ring == n].sum(-1) for n in range(count)], -1)


def beams(pattern: np.ndarray) -> np.ndarray:
    """The kept beams, −4 to 3 on either axis: (..., 8, 8)."""
    half = slice(PIXELS // 4, 3 * PIXELS // 4)
    return np.fft.fftshift(pattern, axes=(-2, -1))[..., half, half]


def centre_of_mass(pattern: np.ndarray) -> np.ndarray:
    """First moment in 1/Å along (x, y), not divided by the sum."""
    ky, kx = GRID.frequencies
    return np.stack([(pattern * kx).sum((-1, -2)), (pattern * ky[:, None]).sum((-1, -2))], -1)


def compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Relative L2 difference, correlation, and ratio of the sums."""
    return {
        "relative_L2": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
        "correlation": float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]),
        "sum_ratio": float(ours.sum() / theirs.sum()),
    }


def potential_figures(folder: Path) -> dict:
    """Sum over the pixels of four atoms, as Prismatic's first slice holds, and the stored picture itself."""
    stored = np.load(folder / "Si100_2D_3D_DPC_potential_2slices.npz")["realslices.ppotential.realslice"]
    pixel = GRID.sampling[0] * GRID.sampling[1]
    sums = {p: 4 * float(projected_transform("Si", np.zeros(1), p)[0]) / pixel for p in ("kirkland", "lobato")}
    mean = pixel_mean_potential(5.0)
    ours = mean + np.roll(mean, (PIXELS // 2, PIXELS // 2), (0, 1))
    return {
        "prismatic_sums": stored.sum((0, 1)),
        "sums_of_four_atoms": sums,
        "sum_ratio": {p: s / float(stored[..., 0].sum()) for p, s in sums.items()},
        "pixel_mean_last_slice": compared(ours, stored[..., 3]),
    }


def image_figures(folder: Path, name: str, bound: float | None) -> dict:
    """Every stored array of one file against ours at the same depth."""
    stored = np.load(folder / f"{name}.npz")
    semiangle, step = FILES[name], 0.5 if name == "Si100_4D" else 0.25
    found = {}
    exits = patterns(semiangle, step, bound)
    for key in (k for k in stored.files if k.endswith(("realslice", "datacube")) and "ppotential" not in k):
        theirs, depth = np.swapaxes(stored[key], 0, 1), int(key.split("depth")[1][:4])  # Prismatic's arrays are (x, y)
        pattern = exits[1 if name == "Si100_3D" else depth]
        if "virtual" in key:
            ours = rings(pattern, theirs.shape[-1])
            mean, other = ours.mean((0, 1)), theirs.mean((0, 1))
            bright = other > 1e-3
            extra = {"ring_mrad": np.flatnonzero(bright) + 0.5, "ring_ratio": mean[bright] / other[bright]}
        elif "CBED" in key:
            ours, extra, theirs = beams(pattern), {}, np.swapaxes(theirs, 2, 3)
        else:
            ours, extra = centre_of_mass(pattern), {}
        figures = {**compared(ours, theirs), **extra}
        if "CoM" in key:
            del figures["sum_ratio"]  # of two sums that are zero by symmetry
        found[key.split(".")[1]] = figures
    return found


def main(folder: str) -> None:
    data = os.environ.get("FERROJAX_REFERENCE_DATA")
    if not data:
        sys.exit("FERROJAX_REFERENCE_DATA names no folder of reference data")
    reference = Path(data) / "prismatic_si100_reference"
    start = perf_counter()
    figures = {"potential": potential_figures(reference), "images": {}}
    print(figures["potential"])
    for name in FILES:
        bound = 5.0 if "potential" in name else 2.0
        for label, chosen in (("exact", None), ("pixel mean", bound)):
            found = image_figures(reference, name, chosen)
            figures["images"].setdefault(name, {})[label] = found
            for key, value in found.items():
                print(name, label, key, {k: np.round(v, 4) for k, v in value.items()}, flush=True)
    print("written to", write_result("prismatic", {**figures, "seconds": perf_counter() - start}, folder))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(RESULTS))
