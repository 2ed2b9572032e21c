"""What a mean over few phonon configurations is worth, by how their displacements are drawn, at equal cost.

usage: python benchmarks/bench_variance.py [REPEATS]     (about 15 s a repeat on one core)
PbTiO3, 2 × 2 cells, polar (0.1, 0.05) Å, tilt (4, −2) mrad, 200 kV, 21.4 mrad, HAADF from 60 mrad, 40 and 80 Å,
4 configurations an estimate, every estimate from seeds of its own. Column: intensity = mean in a disc of 1 Å, position
= its centroid above the rim. Variances are means over the four columns of a kind and relative to independent draws.
"""

import sys
import time
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from bench_thermal import record
from scipy.special import ndtri
from scipy.stats import qmc

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, detector_operator, operator_spectrum
from ferrojax.multislice import FastThermal, FrozenPhonons, displaced_positions, plan_slices, standard_error
from ferrojax.optics import Probe

CELLS, COUNT, SIZE, RADIUS = 20, 4, 72, 1.0
PROBE = Probe(200e3, 21.4)
Sampler = Callable[[Atoms, int], list[np.ndarray]]


def shipped(draws: str) -> Sampler:
    return lambda atoms, seed: [
        np.asarray(displaced_positions(atoms, FrozenPhonons(COUNT, seed, draws), i)) for i in range(COUNT)
    ]


def sobol(atoms: Atoms, seed: int) -> list[np.ndarray]:
    q = qmc.Sobol(atoms.position.size, rng=np.random.default_rng(seed)).random(COUNT)
    u = ndtri(np.clip(q, 1e-6, 1 - 1e-6)).reshape(COUNT, -1, 3)
    return list(np.asarray(atoms.position) + np.asarray(atoms.thermal_rms)[:, None] * u)


def antithetic_stratified(atoms: Atoms, seed: int) -> list[np.ndarray]:
    rng, half, shape = np.random.default_rng(seed), COUNT // 2, atoms.position.shape
    interval = np.argsort(rng.random((half, *shape)), 0)
    size = ndtri(0.5 + (interval + rng.random((half, *shape))) / COUNT) * rng.choice([-1, 1], (half, *shape))
    move = np.asarray(atoms.thermal_rms)[:, None] * size
    return [np.asarray(atoms.position) + s * m for m in move for s in (1, -1)]


def shuffled_slices(atoms: Atoms, seed: int) -> list[np.ndarray]:
    """One set of displaced cells along the beam, in another order each time: the cheapest in transmission functions."""
    rng, layers = np.random.default_rng(seed), atoms.position.shape[0] // CELLS
    u = rng.normal(size=(CELLS, layers, 3))  # displaced_supercell lists whole layers of cells along the beam
    rms = np.asarray(atoms.thermal_rms)[:, None]
    return [np.asarray(atoms.position) + rms * u[rng.permutation(CELLS)].reshape(-1, 3) for _ in range(COUNT)]


SAMPLERS = {
    "independent": shipped("independent"),
    "antithetic": shipped("antithetic"),
    "stratified": shipped("stratified"),
    "antithetic and stratified": antithetic_stratified,
    "sobol": sobol,
    "shuffled slices": shuffled_slices,
}


def columns(images: np.ndarray, cell: float) -> np.ndarray:
    """(..., kinds A B, 4 columns, [intensity, x in pm, y in pm]) of periodic images of 2 × 2 cells."""
    step = 2 * cell / SIZE
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1) * step
    found = []
    for at in [np.array([i + f, j + f]) * cell for f in (0.0, 0.5) for i in range(2) for j in range(2)]:
        offset = (grid - at + cell) % (2 * cell) - cell
        r = np.hypot(*np.moveaxis(offset, -1, 0))
        rim = images[..., np.abs(r - RADIUS) < 0.12].mean(-1)
        inside, where = images[..., r < RADIUS], offset[r < RADIUS]
        weight = np.clip(inside - rim[..., None], 0, None)
        centre = 100 * (weight @ where) / weight.sum(-1, keepdims=True)
        found.append(np.concatenate([inside.mean(-1, keepdims=True), centre], -1))
    return np.stack(found, -2).reshape(*images.shape[:-2], 2, 4, 3)


def summary(estimates: np.ndarray) -> dict:
    """estimates: (repeats, exits, kinds, columns, 3)."""
    scaled = estimates.copy()
    scaled[..., 0] /= estimates[..., 0].mean(0)
    one, four = scaled.var(0, ddof=1), scaled.mean(3).var(0, ddof=1)
    return {
        "intensity_relative_variance": one[..., 0].mean(-1),
        "position_variance_pm2": one[..., 1:].mean((-1, -2)),
        "intensity_of_4_cells_over_1": four[..., 0] / one[..., 0].mean(-1),
        "position_of_4_cells_over_1": four[..., 1:].mean(-1) / one[..., 1:].mean((-1, -2)),
    }


def main(repeats: int) -> None:
    field = np.broadcast_to([0.1, 0.05, 0.0], (2, 2, 3)).copy()
    atoms = displaced_supercell(material("PbTiO3"), field, CELLS)
    cell = atoms.box[0] / 2
    depths = [cell * CELLS / 2, cell * CELLS]
    plan = plan_slices(atoms, cell + 1e-3, depths)
    still = Atoms(atoms.position, atoms.number, atoms.box)

    def image(position: np.ndarray) -> np.ndarray:
        moved = eqx.tree_at(lambda a: a.position, still, jnp.asarray(position))
        one, detector = FastThermal(1, draws="independent"), AnnularDetector(60, np.inf)
        operator = detector_operator(moved, 200e3, 21.4, detector, one, plan, tilt=(4.0, -2.0), batch=64)
        return np.fft.ifft2(np.asarray(operator_spectrum(operator, PROBE, SIZE))).real * SIZE**2

    figures: dict[str, dict] = {}
    base = None
    for number, (name, sampler) in enumerate(SAMPLERS.items()):
        start = time.time()
        sets = np.array([[image(p) for p in sampler(atoms, 1000 * number + r)] for r in range(repeats)])
        result = summary(columns(sets.mean(1), cell))
        base = result if base is None else base
        figures[name] = result | {
            "intensity_variance_over_independent": result["intensity_relative_variance"]
            / base["intensity_relative_variance"],
            "position_variance_over_independent": result["position_variance_pm2"] / base["position_variance_pm2"],
            "seconds_per_estimate": (time.time() - start) / repeats,
        }
        if name in ("independent", "antithetic", "stratified"):
            means, truth = sets.mean(1), sets.mean((0, 1))
            errors = np.array([standard_error(jnp.asarray(s), FrozenPhonons(COUNT, 0, name)) for s in sets])
            figures[name]["inside_one_standard_error"] = (np.abs(means - truth) < errors).mean()
        print(name, figures[name], flush=True)
    record("variance", {"repeats": repeats, "configurations": COUNT, "axes": "[40, 80 Å] × [A, B]", **figures})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
