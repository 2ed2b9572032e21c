"""Images of square lattices of two sublattices, drawn without the package, for tests of the column analysis."""

import numpy as np

CELL, STEP, SHAPE = 20.0, 3.97 / 20, (300, 320)
SHIFT = np.array([0.5, -0.8])
"""px, of B."""


def crystal(turn: float = 0.0, cell: float = CELL, origin: float = 7.3):
    """Index (n, 2), A and B (n, 2) px of a square lattice in and round the image."""
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    index = np.stack(np.meshgrid(np.arange(-30, 31), np.arange(-30, 31)), -1).reshape(-1, 2)
    a = cell * index @ np.array([[c, s], [-s, c]]) + origin
    kept = ((a > -30) & (a < np.array(SHAPE[::-1]) + 30)).all(1)
    return index[kept], a[kept], a[kept] + 0.5 * cell * np.array([c - s, s + c]) + SHIFT


def painted(*groups, ground: float = 0.1) -> np.ndarray:
    """Expected intensity of Gaussian columns: groups of places (n, 2) px, heights and rms radius (px)."""
    y, x = np.arange(SHAPE[0]), np.arange(SHAPE[1])
    image = np.full(SHAPE, ground)
    for place, height, width in groups:
        rows = np.exp(-0.5 * ((y - place[:, 1:]) / width) ** 2) * np.broadcast_to(height, len(place))[:, None]
        image += rows.T @ np.exp(-0.5 * ((x - place[:, :1]) / width) ** 2)
    return image


def counted(image: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(600 * image).astype(float)


def errors_pm(pmap, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, 2) pm of the valid cells."""
    good = np.asarray(pmap.valid)
    place, seen = np.asarray(pmap.position_px)[good], 100 * np.asarray(pmap.displacement)[good]
    own = b[np.linalg.norm(place[:, None] - b[None], axis=-1).argmin(1)]
    four = np.linalg.norm(own[:, None] - a[None], axis=-1).argsort(1)[:, :4]
    return seen - 100 * STEP * (own - a[four].mean(1))
