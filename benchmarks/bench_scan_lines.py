"""Coverage of a map's error bars under jitter, flicker and hum of the scan lines, and under disorder of the crystal.

usage: python benchmarks/bench_scan_lines.py [OUT_FOLDER [IMAGES]]     (about 10 minutes for 8 images a case)
Images of 400 × 440 px with 20 px (3.97 Å) a cell, A columns of 600 counts, B of 0.35 of that on a ground of 0.1, drawn
line by line: jitter of 7 pm rms a line along x (white), 5 % rms of brightness a line, a hum of 20 pm with a period of
31 lines, A columns that scatter by 10 pm (relaxor) or alternate by 25 pm (zigzag). The lattice is turned by 0°, 23° and
45° against the lines. Of all cells of all images: share inside 68.3 % and 95.4 % intervals (x, y), rms of the true
error and of the σ stated, pm; of the images: rms of the error of the mean over the one stated.
"""

import sys
from typing import NamedTuple

import numpy as np
from common import RESULTS, write_result
from scipy.spatial import KDTree

from ferrojax.crystal import material
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization import PolarizationMap, displacement_statistics, map_polarization

SHAPE, CELL, STEP = (400, 440), 20.0, 3.97 / 20
COUNTS, BRIGHT_B, GROUND, SHIFT_B = 600, 0.35, 0.1, (0.5, -0.8)
ANGLES = (0.0, 23.0, 45.0)
IMAGES = 8


class Scan(NamedTuple):
    """What the scan does to single lines: jitter pm along x, brightness as a share, hum pm; the crystal: disorder and
    zigzag of A, pm."""

    jitter: float = 0.0
    flicker: float = 0.0
    hum: float = 0.0
    disorder: float = 0.0
    zigzag: float = 0.0


CASES = {
    "nothing": Scan(),
    "jitter": Scan(jitter=7.0),
    "flicker": Scan(flicker=0.05),
    "hum": Scan(hum=20.0),
    "relaxor": Scan(disorder=10.0),
    "zigzag": Scan(zigzag=25.0),
    "relaxor and jitter": Scan(disorder=10.0, jitter=7.0),
    "jitter and flicker": Scan(jitter=7.0, flicker=0.05),
}


def recorded(seed: int, angle: float, scan: Scan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, and the true positions of A and B, px (x, y)."""
    rng = np.random.default_rng(seed)
    pm = 100 * STEP
    turn = np.radians(angle)
    vectors = CELL * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    index = np.stack(np.meshgrid(*[np.arange(-50, 50)] * 2), -1).reshape(-1, 2)
    a = index @ vectors + rng.uniform(0, CELL, 2)
    near = ((a > -30) & (a < np.array(SHAPE[::-1]) + 30)).all(1)
    index, a = index[near], a[near]
    b = a + vectors.sum(0) / 2 + SHIFT_B
    a = a + scan.disorder / pm * rng.normal(size=a.shape)
    a[:, 1] += scan.zigzag / pm * (-1.0) ** index[:, 0]
    lines = np.arange(SHAPE[0])
    wave = np.sin(2 * np.pi * lines / 31 + rng.uniform(0, 2 * np.pi))
    off = (scan.jitter * rng.normal(size=SHAPE[0]) + scan.hum * wave) / pm
    image = np.full(SHAPE, GROUND)
    for place, height, width in ((a, 1.0, 3.4), (b, BRIGHT_B, 3.0)):
        for x, y in place:
            near_lines = lines[max(int(y) - 18, 0) : max(int(y) + 20, 0)]
            down = np.exp(-((near_lines - y) ** 2) / 2 / width**2)
            along = np.exp(-((np.arange(SHAPE[1]) - x - off[near_lines, None]) ** 2) / 2 / width**2)
            image[near_lines] += height * down[:, None] * along
    image *= 1 + scan.flicker * rng.normal(size=(SHAPE[0], 1))
    return rng.poisson(np.maximum(image, 0) * COUNTS).astype(np.float32), a, b


def errors(pmap: PolarizationMap, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error (n, 2) and σ (n, 2) of every cell, pm."""
    valid = np.asarray(pmap.valid)
    place, found = np.asarray(pmap.position_px, float)[valid], np.asarray(pmap.displacement, float)[valid]
    own = b[KDTree(b).query(place)[1]]
    true = (own - a[np.asarray(KDTree(a).query(own, 4)[1])].mean(1)) * STEP
    variance = np.asarray(pmap.covariance, float)[valid][:, [0, 1], [0, 1]]
    return 100 * (found - true), 100 * np.sqrt(variance)


def coverage(angle: float, scan: Scan, images: int) -> dict[str, object]:
    error, sigma, mean = [], [], []
    crystal = material("PbTiO3")
    for seed in range(images):
        data, a, b = recorded(seed, angle, scan)
        try:
            pmap = map_polarization(Image(data, (STEP, STEP)), crystal)
        except InputError as refused:
            return {"refused": str(refused)}
        one = errors(pmap, a, b)
        error.append(one[0])
        sigma.append(one[1])
        mean.append(one[0].mean(0) / displacement_statistics(pmap)["mean_error"])
    every, stated = np.concatenate(error), np.concatenate(sigma)
    return {
        "cells": len(every),
        "inside_68": (100 * (np.abs(every) < stated).mean(0)).round(1).tolist(),
        "inside_95": (100 * (np.abs(every) < 2 * stated).mean(0)).round(1).tolist(),
        "true_pm": np.sqrt((every**2).mean(0)).tolist(),
        "stated_pm": np.sqrt((stated**2).mean(0)).tolist(),
        "mean_over_its_error": np.sqrt(np.square(mean).mean(0)).tolist(),
    }


def main() -> None:
    images = int(sys.argv[2]) if len(sys.argv) > 2 else IMAGES
    table = []
    for name, scan in CASES.items():
        for angle in ANGLES:
            table.append({"case": name, "angle": angle, **coverage(angle, scan, images)})
            print(table[-1], flush=True)
    figures = {"images": images, "counts": COUNTS, "coverage": table}
    write_result("scan_lines", figures, sys.argv[1] if len(sys.argv) > 1 else RESULTS)


if __name__ == "__main__":
    main()
