"""Fields of B displacement that `displaced_supercell` takes: walls, stripes, vortices, bubbles, nanodomains.

Every function returns (ny, nx, 3) Å as (x, y, z): the displacement of B against A in every column of cells, which in
PbTiO3 and BiFeO3 is antiparallel to the polarization. shape is (ny, nx); the cell in row i and column j is at x = j,
y = i, +y pointing down. Lengths are in cells (Å over the edge of the cell), angles in degrees from +x towards +y.
A wall of width w has the profile tanh(s/w); `find_walls` reports 2w, in Å. Where two displacements are asked for,
each may be a vector or a field, so that fields are made of fields; fields also add.
The specimen repeats the field beyond its edges. What is called periodic goes on smoothly there; the rest has a wall
along the edges of the specimen. Everything random depends on its arguments and its seed alone; a seed is a whole
number, or several, such as (seed of a plan, index).
Errors of all: InputError for what has another shape, is not finite, or is not positive where it must be.
"""

import numpy as np
from jaxtyping import Float

from ferrojax.checks import check_array, generator, positive, real_number, whole_number, whole_pair
from ferrojax.crystal.checks import LARGEST_SHIFT
from ferrojax.errors import InputError

Field = Float[np.ndarray, "ny nx 3"]


def uniform_field(shape, displacement) -> Field:
    """The same displacement (3,) in every cell."""
    return _mixed(shape, displacement, displacement, np.zeros(whole_pair("shape", shape, "give (ny, nx) cells")))


def gradient_field(shape, first, second, *, angle=0.0) -> Field:
    """From `first` to `second`, linearly from one side of the grid to the other in the direction `angle`."""
    along = _along(shape, None, angle)
    return _mixed(shape, first, second, (along - along.min()) / max(np.ptp(along), 1e-12))


def wall_field(shape, first, second, *, centre=None, angle=0.0, width=1.0) -> Field:
    """One wall from `first` to `second`: their mean + half their difference · tanh(s/width).

    s: distance from `centre` ((x, y); None: that of the grid) along the wall's normal, at `angle`. Two
    displacements of one length make a wall of any kind: opposite ones 180°, (a, 0, 0) and (0, a, 0) 90°, (a, a, a)
    and (a, a, −a) 71°, (a, a, a) and (a, −a, −a) 109°. It binds no charge where the difference of the
    two has no part along the normal.
    Not periodic: the specimen's edge is the second wall. `stripe_field` is periodic.
    """
    s = _along(shape, centre, angle)
    return _mixed(shape, first, second, _step(s, width))


def stripe_field(shape, first, second, *, waves=(1, 0), width=1.0, share=0.5, offset=0.0) -> Field:
    """Stripes of `second`, tanh walls in pairs, in `first`; periodic.

    waves: periods along x and y, whole numbers, so that the normal (waves_x/nx, waves_y/ny) fits the specimen;
    (1, 0) is one pair of walls across x, (1, 1) a pair along the other diagonal.
    share: of each period that is `second`. offset: part of a period by which the stripes are moved along the normal.
    """
    ny, nx = whole_pair("shape", shape, "give (ny, nx) cells")
    check_array("waves", waves, [(2,)], "give periods along x and y, such as (1, 0)")
    turns = [whole_number("waves", n, "give whole numbers, such as (1, 0)", low=-max(nx, ny)) for n in waves]
    if turns == [0, 0]:
        raise InputError("waves", waves, "have no direction", "give periods along x and y, such as (1, 0)")
    share = real_number("share", share, "give a part of 1")
    if not 0 <= share <= 1:
        raise InputError("share", share, "must lie between 0 and 1", "give a part of 1")
    rate = turns[0] / nx, turns[1] / ny
    period = 1 / np.hypot(*rate)
    x, y = _cells(shape)
    phase = np.mod(x * rate[0] + y * rate[1] - real_number("offset", offset, "give a part of a period"), 1.0)
    reach = 1 + int(np.ceil(10 * positive("width", width, "cells") / period))
    weight = [_step(period * (phase - n), width) - _step(period * (phase - n - share), width) for n in _around(reach)]
    return _mixed(shape, first, second, np.sum(weight, 0))


def bubble_field(shape, first, second, *, radius, centre=None, width=1.0) -> Field:
    """A disc of `second` in `first` with a tanh wall at `radius`; periodic as long as it is smaller than the grid."""
    x, y = _from_centre(shape, centre, periodic=True)
    return _mixed(shape, first, second, _step(positive("radius", radius, "cells") - np.hypot(x, y), width))


def vortex_field(shape, size, *, centre=None, core=1.0, turn=1) -> Field:
    """A vortex: `size` (Å) times r/√(r² + core²), everywhere across the radius, so that it is free of divergence.

    turn: 1 from +x towards +y, which is clockwise on the screen, or −1. Winding number 1 about the centre.
    Not periodic: there are neutral walls along the edges, if the centre is that of the grid.
    """
    x, y = _from_centre(shape, centre)
    scale = _turn(turn) * positive("size", size, "Å") / np.hypot(np.hypot(x, y), positive("core", core, "cells"))
    return np.stack([-scale * y, scale * x, np.zeros_like(x)], -1)


def flux_closure_field(shape, size, *, centre=None, width=1.0, turn=1) -> Field:
    """Four domains of `size` (Å) round a centre, each along its own side of a square, with 90° walls on the diagonals.

    The curl of a rounded pyramid max(|x|, |y|), so free of divergence everywhere; its edges are rounded over
    `width`. turn, winding number and edges: as `vortex_field`.
    """
    width = positive("width", width, "cells")
    x, y = _from_centre(shape, centre)
    across_x = _step(width * (np.logaddexp(x / width, -x / width) - np.logaddexp(y / width, -y / width)), width)
    scale = _turn(turn) * positive("size", size, "Å")
    along_x, along_y = -np.tanh(y / width) * (1 - across_x), np.tanh(x / width) * across_x
    return scale * np.stack([along_x, along_y, np.zeros_like(x)], -1)


def skyrmion_field(shape, size, *, radius, centre=None, width=1.0, helicity=90.0) -> Field:
    """A skyrmion of skyrmion number −1: `size` (Å) along +z outside and along −z in the centre, z = 0 at `radius`.

    The polar angle is 2 arctan(sinh(radius/width)/sinh(r/width)), a wall tanh(s/width) of z where radius ≫ width.
    helicity: degrees from the outward direction; 90 turns round the centre (Bloch, free of divergence), 0 points
    outward (Néel). Periodic as long as it is smaller than the grid.
    Source: X. S. Wang, H. Y. Yuan, X. R. Wang, Commun. Phys. 1, 31 (2018).
    """
    x, y = _from_centre(shape, centre, periodic=True)
    r, width, radius = np.hypot(x, y), positive("width", width, "cells"), positive("radius", radius, "cells")
    # The quotient of the sines with their exponentials divided out, so that nothing overflows.
    quotient = -np.expm1(-2 * radius / width) * np.exp(np.clip((radius - r) / width, -300, 300))
    polar = 2 * np.arctan2(quotient, -np.expm1(-2 * r / width))
    azimuth = np.arctan2(y, x) + np.radians(real_number("helicity", helicity, "give degrees"))
    unit = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    return positive("size", size, "Å") * np.stack(unit, -1)


def random_field(shape, rms, *, correlation_length, seed) -> Field:
    """Three independent Gaussian components of `rms` (3,) Å, with autocorrelation exp(−(r/correlation_length)²).

    Periodic.
    """
    check_array("rms", rms, [(3,)], "give Å for x, y and z")
    return np.moveaxis(_noise(shape, 3, correlation_length, seed), 0, -1) * np.asarray(rms, float)


def nanodomain_field(shape, variants, *, correlation_length, seed, width=1.0) -> Field:
    """Random domains of the variants (m, 3) Å: in each cell the one whose own Gaussian noise is largest; periodic.

    Every noise has the autocorrelation exp(−(r/correlation_length)²); the displacement of narrow domains of two
    opposite variants has (2/π) arcsin of that, 0.24 at the correlation length. width: of the tanh wall between two
    variants, on average over the walls.
    """
    check_array("variants", variants, [(None, 3)], "give one displacement (x, y, z) in Å a row")
    vectors = np.asarray(variants, float)
    # Two noises part across a wall at a mean rate of √(π/2) times 2 over the correlation length (Rayleigh's law).
    scale = np.sqrt(np.pi / 2) * positive("width", width, "cells")
    noise = positive("correlation_length", correlation_length, "cells") / scale
    noise = noise * _noise(shape, len(vectors), correlation_length, seed)
    weight = np.exp(noise - noise.max(0))
    return np.einsum("kij,kc->ijc", weight / weight.sum(0), vectors)


def _noise(shape, count: int, length, seed) -> np.ndarray:
    """(count, ny, nx) periodic Gaussian noises of unit variance and autocorrelation exp(−(r/length)²)."""
    ny, nx = whole_pair("shape", shape, "give (ny, nx) cells")
    k2 = np.fft.fftfreq(ny)[:, None] ** 2 + np.fft.fftfreq(nx) ** 2
    amplitude = np.exp(-0.5 * (np.pi * positive("correlation_length", length, "cells")) ** 2 * k2)
    amplitude /= np.sqrt((amplitude**2).mean())
    white = generator(seed).standard_normal((count, ny, nx))
    return np.fft.ifft2(np.fft.fft2(white) * amplitude).real


def _mixed(shape, first, second, weight: np.ndarray) -> Field:
    """first where the weight is 0, second where it is 1."""
    ny, nx = whole_pair("shape", shape, "give (ny, nx) cells")
    for name, value in (("first", first), ("second", second)):
        check_array(name, value, [(3,), (ny, nx, 3)], "give (x, y, z) in Å, or a field of this shape")
        largest = float(np.abs(np.asarray(value, float)).max())
        if largest > LARGEST_SHIFT:
            problem = f"is larger than {LARGEST_SHIFT:g} Å, as no displacement of a ferroelectric is: it looks like pm"
            raise InputError(name, largest, problem, "give Å: 15 pm is 0.15")
    one, other = np.asarray(first, float), np.asarray(second, float)
    return one + weight[..., None] * (other - one)


def _step(s: np.ndarray, width) -> np.ndarray:
    """0 to 1 across s = 0, (1 + tanh(s/width))/2."""
    return 0.5 * (1 + np.tanh(s / positive("width", width, "cells")))


def _cells(shape) -> tuple[np.ndarray, np.ndarray]:
    ny, nx = whole_pair("shape", shape, "give (ny, nx) cells")
    y, x = np.mgrid[:ny, :nx].astype(float)
    return x, y


def _from_centre(shape, centre, periodic: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """x and y from the centre, (x, y) or None for the grid's own; periodic: by the nearest image."""
    ny, nx = whole_pair("shape", shape, "give (ny, nx) cells")
    if centre is None:
        centre = (nx - 1) / 2, (ny - 1) / 2
    check_array("centre", centre, [(2,)], "give (x, y) in cells")
    found = []
    for at, origin, n in zip(_cells(shape), np.asarray(centre, float), (nx, ny), strict=True):
        gap = at - origin
        found.append(gap - n * np.round(gap / n) if periodic else gap)
    return found[0], found[1]


def _along(shape, centre, angle) -> np.ndarray:
    """Distance from a centre in the direction `angle`."""
    x, y = _from_centre(shape, centre)
    turned = np.radians(real_number("angle", angle, "give degrees from +x towards +y"))
    return x * np.cos(turned) + y * np.sin(turned)


def _around(reach: int) -> range:
    return range(-reach, reach + 1)


def _turn(turn) -> int:
    if turn not in (1, -1):
        raise InputError("turn", turn, "is no sense of rotation", "give 1 (from +x towards +y) or -1")
    return int(turn)
