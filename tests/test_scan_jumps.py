"""Jumps of the scan, told from order of the crystal: positions alone, drawn without the package."""

import numpy as np
import pytest

from ferrojax.columns.distortion.jumps import scan_jumps
from tests.lattices import SHAPE, crystal

A, B = 0, 1
JUMP, LINE = np.array([3.0, -1.8]), 150.0


def columns(turn: float, order=None, along=(0.0, 1.0), shared: bool = False, noise: float = 0.12):
    """Positions (n, 2) px, indices and kinds of A and B; order: (px,) by row of the lattice, of A or of both."""
    index, a, b = crystal(turn)
    shift = np.zeros((len(index), 2))
    if order is not None:
        shift = np.array(order)[index[:, 1] % len(order)][:, None] * np.array(along)
    place = np.concatenate([a + shift, b + shift * shared])
    index, kind = np.concatenate([index, index]), np.repeat([A, B], len(a))
    place = place + np.random.default_rng(5).normal(0, noise, place.shape) * np.where(kind == B, 2, 1)[:, None]
    seen = (place > 5).all(1) & (place < np.array(SHAPE[::-1]) - 5).all(1)
    return place[seen], index[seen], kind[seen]


ORDERS = [(1.5, -1.5), (0.5, 0.5, -0.5, -0.5), (0.75, 0.0, -0.75), (1.0, 1.0, -2.0)]


@pytest.mark.parametrize("along", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("turn", [0.0, 2.0, 20.0])
def test_rows_that_alternate_are_no_jumps(turn, order, along):
    """Brownmillerites, antipolar and layered crystals: A moves with a period of the lattice, B does not."""
    line, _ = scan_jumps(*columns(turn, order, along), A, SHAPE[0])
    assert len(line) == 0


@pytest.mark.parametrize("order", [(1.5, -1.5), (1.0, 1.0, -2.0)])
def test_layers_that_alternate_as_a_whole_are_no_jumps(order):
    line, _ = scan_jumps(*columns(2.0, order, shared=True), A, SHAPE[0])
    assert len(line) == 0


@pytest.mark.parametrize("order", [None, (1.5, -1.5), (1.0, 1.0, -2.0)])
@pytest.mark.parametrize("turn", [2.0, 20.0])
def test_a_jump_is_found_whatever_the_order(turn, order):
    place, index, kind = columns(turn, order)
    place = place + np.where(place[:, 1] > LINE, 1.0, 0.0)[:, None] * JUMP
    line, by = scan_jumps(place, index, kind, A, SHAPE[0])
    assert len(line) == 1
    assert abs(line[0] - LINE) < 10
    np.testing.assert_allclose(by[0], JUMP, atol=0.5)


def test_what_one_sublattice_does_alone_is_no_jump():
    place, index, kind = columns(2.0)
    moved = (place[:, 1] > LINE) & (kind == A)
    line, _ = scan_jumps(place + moved[:, None] * JUMP, index, kind, A, SHAPE[0])
    assert len(line) == 0
    alone = kind == A
    line, _ = scan_jumps((place + moved[:, None] * JUMP)[alone], index[alone], kind[alone], A, SHAPE[0])
    assert len(line) == 1
