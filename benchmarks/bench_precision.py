"""Errors of fitted columns against the Cramér–Rao bound, coverage of their intervals, and the error without noise.

usage: python benchmarks/bench_precision.py [REPEATS]       (about 8 minutes with the 12 that the table uses)
Phantoms are drawn from the model that is fitted (Gaussians on a sloping ground, Poisson counts), by NumPy code of their
own; fits start up to half a pixel off. Counts are those of the faintest sublattice's columns. The bound is the exact
inverse of the Fisher matrix of every parameter of the phantom, with what the fit takes for known of the shapes. Columns
nearer than three widths to the image's edge do not count.
"""

import json
import os
import subprocess
import sys
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from common import write_result

from ferrojax.columns import PoissonNoise
from ferrojax.columns.fitting.fit import FitSettings, fit_columns
from ferrojax.columns.fitting.model import Parameters, plan_model
from ferrojax.columns.precision import exact_bound
from ferrojax.columns.uncertainty import misfit

COUNTS = (1e2, 1e3, 1e4, 1e5)
SPREAD = 0.1
SIZE = (130, 140)


class Pattern(NamedTuple):
    """cell (2,) px (x, y), columns of a cell (fractional), relative counts, rms width px, turn in degrees."""

    cell: tuple[float, float]
    site: tuple[tuple[float, float], ...]
    counts: tuple[float, ...]
    width: float
    turn: float


PATTERNS = {
    "isolated": Pattern((34.0, 34.0), ((0.0, 0.0),), (1.0,), 2.5, 7.0),
    "perovskite [001]": Pattern((20.0, 20.0), ((0.0, 0.0), (0.5, 0.5)), (2.0, 1.0), 2.3, 7.0),
    "perovskite [110]": Pattern((20.7, 29.3), ((0.0, 0.0), (0.5, 0.5)), (2.0, 1.0), 3.4, 7.0),
}


def draw(pattern: Pattern, counts: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Expected image, positions (n, 2), kinds, amplitudes and the expected ground."""
    rng = np.random.default_rng(0)
    cells = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 2), -1).reshape(-1, 2)
    c, s = np.cos(np.radians(pattern.turn)), np.sin(np.radians(pattern.turn))
    kind = np.repeat(np.arange(len(pattern.site)), len(cells))
    at = np.concatenate([cells + np.array(site) for site in pattern.site]) * np.array(pattern.cell)
    position = at @ np.array([[c, s], [-s, c]]) + np.array(SIZE[::-1]) / 2 + rng.normal(size=at.shape) * 0.3
    near = ((position > -6 * pattern.width) & (position < np.array(SIZE[::-1]) + 6 * pattern.width)).all(1)
    position, kind = position[near], kind[near]
    amplitude = counts * np.array(pattern.counts)[kind] / (2 * np.pi * pattern.width**2)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    ground = 0.3 * amplitude.max() * (0.8 + 0.4 * y / SIZE[0])
    image = ground.copy()
    for (cx, cy), a in zip(position, amplitude, strict=True):
        image += a * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / pattern.width**2)
    return image, position, kind, amplitude, ground


def within(position: np.ndarray, rim: float) -> np.ndarray:
    """(n,) bool, at least `rim` px inside the image."""
    return np.all((position >= rim) & (position <= np.array(SIZE[::-1]) - 1 - rim), axis=1)


def knots(pattern: Pattern) -> float:
    return 3 * max(pattern.cell)


def bound(pattern: Pattern, counts: float) -> np.ndarray:
    """(n, 2) px, least standard error of every column."""
    _, position, _, amplitude, ground = draw(pattern, counts)
    inside = within(position, 0.0)
    position, amplitude = position[inside], amplitude[inside]
    model = plan_model(position, SIZE, width=pattern.width, reach=6.0, knots=knots(pattern))
    shape = np.zeros((len(position), 3))
    shape[:, 0] = np.log(pattern.width)
    rows, cols = np.linalg.pinv(np.asarray(model.rows, float)), np.linalg.pinv(np.asarray(model.cols, float))
    values = (position, amplitude, shape, rows @ ground @ cols.T)
    p = Parameters(*(jnp.asarray(v, jnp.result_type(float)) for v in values))
    covariance = np.full((len(inside), 2, 2), np.nan)
    covariance[inside] = np.asarray(exact_bound(model, p, PoissonNoise(), SPREAD))
    return np.sqrt(covariance[:, [0, 1], [0, 1]])


def trial(pattern: Pattern, counts: float, repeats: int, settings: dict) -> dict:
    """RMSE over the bound and coverage, for one way of fitting."""
    image, position, kind, _, _ = draw(pattern, counts)
    inside = within(position, 0.0)
    rim = 3 * pattern.width
    counted = within(position, rim)
    error, pull = [], []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        data = rng.poisson(image).astype(float)
        start = position + rng.uniform(-0.5, 0.5, position.shape)
        fit = fit_columns(data, start, kind, FitSettings(knots(pattern), spread=SPREAD, **settings))
        factor = np.ones(len(position))
        factor[inside] = misfit(data, fit.chosen(inside), kind[inside], np.ones(int(inside.sum()), bool))
        sigma = np.sqrt((fit.covariance * factor[:, None, None])[:, [0, 1], [0, 1]])
        error.append((fit.position - position)[counted])
        pull.append(error[-1] / sigma[counted])
    least = bound(pattern, counts)[counted]
    pull = np.abs(pull)
    return {
        "rmse_px": float(np.sqrt(np.square(error).mean())),
        "bound_px": float(np.sqrt(np.square(least).mean())),
        "rmse_over_bound": float(np.sqrt((np.square(error) / least**2).mean())),
        "inside_68": float((pull < 1).mean()),
        "inside_95": float((pull < 1.96).mean()),
        "values": int(pull.size),
    }


def without_noise() -> float:
    """px, largest error of isolated Gaussians of three widths and many heights, in the precision switched on."""
    rng = np.random.default_rng(4)
    worst = 0.0
    for width in (1.5, 2.5, 4.0):
        gap = 12 * width
        grid = np.stack(np.meshgrid(np.arange(1, 6), np.arange(1, 6)), -1).reshape(-1, 2) * gap
        position = grid + rng.uniform(-2, 2, grid.shape)
        size = (int(6 * gap), int(6 * gap))
        y, x = np.mgrid[: size[0], : size[1]].astype(float)
        image = np.full(size, 5.0)
        for (cx, cy), a in zip(position, rng.uniform(50, 150, len(grid)), strict=True):
            image += a * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / width**2)
        settings = FitSettings(np.inf, reach=7.0)
        start = position + rng.uniform(-0.5, 0.5, position.shape)
        fit = fit_columns(image, start, np.zeros(len(grid), int), settings)
        worst = max(worst, float(np.abs(fit.position - position).max()))
    return worst


def main(repeats: int) -> None:
    ways = {
        "default": lambda p: {"core": 0.5 * min(np.hypot(*p.cell) / 2 if len(p.site) > 1 else p.cell[0], p.cell[0])},
        "all pixels": lambda p: {},
        "all pixels, Poisson noise given": lambda p: {"noise": PoissonNoise()},
    }
    table = []
    for name, pattern in PATTERNS.items():
        for counts in COUNTS:
            for way, settings in ways.items():
                found = trial(pattern, counts, repeats, settings(pattern))
                table.append({"pattern": name, "counts": counts, "fit": way, **found})
                print(name, f"{counts:.0e}", way, {k: round(v, 3) for k, v in found.items()}, flush=True)
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    double = subprocess.run([sys.executable, __file__, "exact"], env=environment, capture_output=True, check=True)
    exact = {"float32_px": without_noise(), "float64_px": json.loads(double.stdout)}
    print(exact)
    write_result("precision", {"repeats": repeats, "table": table, "without_noise": exact})


if __name__ == "__main__":
    if sys.argv[1:] == ["exact"]:
        assert jnp.result_type(float) == jnp.float64
        print(without_noise())
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
