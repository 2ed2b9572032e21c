"""Curl, divergence, winding and skyrmion numbers of fields whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.polarization import curl, divergence, field_gradient, skyrmion_density, winding_number

SHEARED = np.array([[4.0, 0.3], [-0.5, 4.2]])


def grid(rows=9, cols=10, vectors=SHEARED):
    y, x = np.mgrid[:rows, :cols].astype(float)
    position = (np.stack([x - (cols - 1) / 2, y - (rows - 1) / 2], -1)) @ vectors
    return position, np.ones((rows, cols), bool)


def vortex(position, winding=1, phase=0.7):
    angle = winding * np.arctan2(position[..., 1], position[..., 0]) + phase
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def test_gradient_of_a_linear_field_is_exact_on_any_lattice():
    position, valid = grid()
    slope = np.array([[0.3, -0.1], [0.2, 0.5]])
    field = position @ slope.T + [1.0, 2.0]
    found = np.asarray(field_gradient(field, position, valid))
    np.testing.assert_allclose(found, np.broadcast_to(slope, found.shape), atol=1e-5)
    np.testing.assert_allclose(np.asarray(divergence(field, position, valid)), 0.8, atol=1e-5)
    np.testing.assert_allclose(np.asarray(curl(field, position, valid)), 0.3, atol=1e-5)


def test_curl_is_positive_for_what_turns_clockwise_on_the_screen():
    """With rows growing downward: above the centre the field points right, right of it down."""
    position, valid = grid(vectors=np.eye(2))
    clockwise = np.stack([-position[..., 1], position[..., 0]], -1)
    above, right = clockwise[0, 4], clockwise[4, -1]
    assert above[0] > 0
    assert right[1] > 0
    np.testing.assert_allclose(np.asarray(curl(clockwise, position, valid)), 2.0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(divergence(clockwise, position, valid)), 0.0, atol=1e-5)


def test_invalid_cells_spoil_only_themselves():
    position, valid = grid()
    valid[4, 4] = valid[0, 1] = valid[1, 0] = valid[0, 0] = False
    field = np.where(valid[..., None], position @ np.diag([0.3, 0.5]), np.nan)
    where = np.where(valid[..., None], position, np.nan)
    found = np.asarray(divergence(field, where, valid))
    np.testing.assert_array_equal(np.isnan(found), ~valid)
    np.testing.assert_allclose(found[valid], 0.8, atol=1e-5)
    alone = np.zeros_like(valid)
    alone[3, 3:6] = True  # a line has no second direction
    assert np.isnan(np.asarray(curl(field, where, alone))).all()
    around = np.isnan(np.asarray(winding_number(field, valid)))
    assert around.sum() == 4 + 3
    slope = jax.grad(lambda f: jnp.nansum(curl(f, where, valid) ** 2))(jnp.asarray(field))
    assert np.isfinite(np.asarray(slope)).all()


@pytest.mark.parametrize("winding", [1, -1, 2])
@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_winding_does_not_depend_on_where_y_points(winding, flip):
    """A vortex is +1 and an antivortex −1, with +y down or up (positions and field turned over together)."""
    position, valid = grid()
    field = vortex(position, winding)
    if flip < 0:
        position, field = position[::-1] * [1, flip], field[::-1] * [1, flip]
    found = np.asarray(winding_number(field, valid))
    # The core of a double vortex may sit in one plaquette or share two.
    assert found.sum() == winding
    if abs(winding) == 1:
        np.testing.assert_array_equal(np.argwhere(found != 0), [[4, 4]] if found[4, 4] else [[3, 4]])
    for turned in (field @ np.array([[0.0, 1.0], [-1.0, 0.0]]), 3 * field):
        assert np.asarray(winding_number(turned, valid)).sum() == winding


def test_windings_add_up_to_that_of_the_rim():
    """Poincaré–Hopf on a smooth random field: plaquettes inside against the turns along the outer cells."""
    generator = np.random.default_rng(4)
    y, x = np.mgrid[:40, :40] / 40
    field = np.zeros((40, 40, 2))
    for n in (1, 2, 3):
        for c in (0, 1):
            a, b, p, q = generator.normal(size=4)
            field[..., c] += a * np.cos(6 * n * x + p) + b * np.sin(5 * n * y + q)
    valid = np.ones((40, 40), bool)
    found = np.asarray(winding_number(field, valid))
    rim = np.concatenate([field[0, :-1], field[:-1, -1], field[-1, :0:-1], field[:0:-1, 0]])
    angle = np.unwrap(np.arctan2(rim[:, 1], rim[:, 0]), axis=0)
    closing = (np.arctan2(rim[0, 1], rim[0, 0]) - angle[-1] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(found).sum() >= 4
    assert found.sum() == np.round((angle[-1] + closing - angle[0]) / (2 * np.pi))


def test_a_straight_wall_has_no_vortex_and_may_be_masked():
    field = np.zeros((6, 8, 2))
    field[:, :4, 1], field[:, 4:, 1] = 1.0, -1.0
    valid = np.ones((6, 8), bool)
    np.testing.assert_array_equal(np.asarray(winding_number(field, valid)), 0)
    noisy = field + 0.1 * np.random.default_rng(0).normal(size=field.shape)
    assert np.abs(np.asarray(winding_number(noisy, valid))).sum() > 0
    strict = np.asarray(winding_number(noisy, valid, max_turn=135.0))
    np.testing.assert_array_equal(np.isnan(strict).all(0), np.arange(7) == 3)
    assert np.nansum(np.abs(strict)) == 0


def skyrmion(position, radius=18.0, sense=1):
    r = np.hypot(position[..., 0], position[..., 1])
    polar = np.pi * np.clip(1 - r / radius, 0, 1)
    angle = sense * np.arctan2(position[..., 1], position[..., 0])
    return np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)], -1)


@pytest.mark.parametrize(("sense", "charge"), [(1, -1.0), (-1, 1.0)])
def test_skyrmion_number(sense, charge):
    """Up outside and down in the middle: −1 with the in-plane vortex, +1 with the antivortex; size does not matter."""
    position, valid = grid(21, 21, np.diag([2.0, 2.0]))
    field = skyrmion(position + 0.3, sense=sense) * np.linspace(1, 3, 21)[:, None, None]
    np.testing.assert_allclose(np.asarray(skyrmion_density(field, valid)).sum(), charge, atol=1e-4)
    valid[0, 0] = False
    found = np.asarray(skyrmion_density(np.where(valid[..., None], field, np.nan), valid))
    assert np.isnan(found).sum() == 1


def test_gradients_and_one_compilation():
    position, valid = grid(6, 6)
    in_space = skyrmion(position, 40.0)
    traced = []

    @jax.jit
    def loss(field, space):
        traced.append(1)
        flow = divergence(field, position, valid) ** 2 + curl(field, position, valid) ** 3
        return flow.sum() + (skyrmion_density(space, valid) ** 2).sum() * 1e3

    with jax.enable_x64(True):
        args = [jnp.asarray(vortex(position)), jnp.asarray(in_space)]
        gradient = jax.grad(loss, (0, 1))(*args)
        for k in (0, 1):
            bump = jnp.zeros_like(args[k]).at[2, 3, 0].set(1e-5)
            up, down = (loss(*[a + (s * bump if i == k else 0) for i, a in enumerate(args)]) for s in (1, -1))
            np.testing.assert_allclose(float(gradient[k][2, 3, 0]), float(up - down) / 2e-5, rtol=1e-5, atol=1e-9)
    assert len(traced) == 1
