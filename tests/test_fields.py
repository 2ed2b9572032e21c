"""Fields of displacement: profiles at known points, periodicity, winding, divergence, correlation."""

import jax
import numpy as np
import pytest

import ferrojax as fj
from ferrojax.polarization.topology import curl, divergence, skyrmion_density

UP, RIGHT = np.array([0.0, -0.1, 0.0]), np.array([0.1, 0.0, 0.0])
DIAGONAL = np.array([0.1, 0.1, 0.1])


def everywhere(field) -> np.ndarray:
    return np.ones(field.shape[:2], bool)


def place(field) -> np.ndarray:
    y, x = np.mgrid[: field.shape[0], : field.shape[1]]
    return np.stack([x, y], -1).astype(float)


def test_a_wall_has_the_profile_asked_for():
    """180° at x = 7.5: −P tanh(s/w); along a slanted normal, s is the distance from the position."""
    field = fj.wall_field((4, 16), RIGHT, -RIGHT, width=2.0)
    s = np.arange(16) - 7.5
    np.testing.assert_allclose(field[..., 0], np.tile(-0.1 * np.tanh(s / 2.0), (4, 1)), atol=1e-12)
    np.testing.assert_array_equal(field[..., 1:], 0)
    slanted = fj.wall_field((9, 9), UP, RIGHT, centre=(2.0, 3.0), angle=30.0, width=1.5)
    np.testing.assert_allclose(slanted[3, 2], (UP + RIGHT) / 2)
    s = (6 - 2) * np.cos(np.pi / 6) + (8 - 3) * np.sin(np.pi / 6)
    np.testing.assert_allclose(slanted[8, 6], (UP + RIGHT) / 2 + (RIGHT - UP) / 2 * np.tanh(s / 1.5))


@pytest.mark.parametrize(("second", "angle"), [((1, 1, -1), 71), ((1, -1, -1), 109), ((-1, -1, -1), 180)])
def test_rhombohedral_walls_keep_their_angle_far_away(second, angle):
    field = fj.wall_field((1, 40), DIAGONAL, 0.1 * np.array(second), width=1.0)
    cosine = field[0, 0] @ field[0, -1] / (DIAGONAL @ DIAGONAL)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) == pytest.approx(angle, abs=0.6)


@pytest.mark.parametrize("waves", [(1, 0), (0, 2), (1, 1), (2, -1)])
def test_stripes_go_on_across_the_edges(waves):
    """Moved along x by three cells, a periodic pattern is the pattern at another offset."""
    given = {"waves": waves, "width": 1.5, "share": 0.3}
    field = fj.stripe_field((20, 30), RIGHT, UP, **given)
    moved = fj.stripe_field((20, 30), RIGHT, UP, **given, offset=3 * waves[0] / 30)
    np.testing.assert_allclose(np.roll(field, 3, 1), moved, atol=1e-9)
    share = (field[..., 0] - 0.1) / -0.1
    assert share.mean() == pytest.approx(0.3, abs=0.01)


def test_stripes_are_pairs_of_tanh_walls():
    field = fj.stripe_field((2, 40), RIGHT, -RIGHT, width=1.5)
    x = np.arange(40)
    expected = -0.1 * (np.tanh(x / 1.5) - np.tanh((x - 20) / 1.5) + np.tanh((x - 40) / 1.5))
    np.testing.assert_allclose(field[0, :, 0], expected, atol=1e-10)
    wide = fj.stripe_field((2, 8), RIGHT, -RIGHT, width=20.0)  # walls far wider than the domains wash out
    assert np.abs(wide).max() < 1e-3


def test_a_gradient_runs_from_one_side_to_the_other():
    field = fj.gradient_field((5, 11), RIGHT, 3 * RIGHT)
    np.testing.assert_allclose(field[2, :, 0], np.linspace(0.1, 0.3, 11))
    down = fj.gradient_field((5, 11), RIGHT, fj.uniform_field((5, 11), UP), angle=90.0)
    np.testing.assert_allclose(down[:, 3, 1], np.linspace(0.0, -0.1, 5), atol=1e-12)
    np.testing.assert_array_equal(fj.uniform_field((2, 3), UP), np.broadcast_to(UP, (2, 3, 3)))


@pytest.mark.parametrize("make", [fj.vortex_field, fj.flux_closure_field])
@pytest.mark.parametrize("turn", [1, -1])
def test_vortices_wind_once_and_bind_no_charge(make, turn):
    field = make((32, 32), 0.1, turn=turn)
    winding = np.asarray(fj.winding_number(field[..., :2], everywhere(field)))
    assert winding[15, 15] == winding.sum() == 1
    assert np.abs(winding).sum() == 1
    inside = slice(1, -1)
    charge, turning = (
        np.asarray(of(field[..., :2], place(field), everywhere(field)))[inside, inside] for of in (divergence, curl)
    )
    assert (turn * turning).min() > -1e-6
    assert np.abs(charge).max() < 0.12 * np.abs(turning).max()
    assert np.abs(charge[np.hypot(*(place(field)[1:-1, 1:-1] - 15.5).transpose(2, 0, 1)) > 6]).max() < 1e-3
    # The normal component goes on across the edges, so that the walls there are neutral.
    np.testing.assert_allclose(field[:, 0, 0], field[:, -1, 0], atol=1e-9)
    np.testing.assert_allclose(field[0, :, 1], field[-1, :, 1], atol=1e-9)


def test_domains_of_a_flux_closure_lie_along_the_sides():
    field = fj.flux_closure_field((41, 41), 0.1, width=1.0)
    np.testing.assert_allclose(field[20, 38], [0, 0.1, 0], atol=1e-6)
    np.testing.assert_allclose(field[38, 20], [-0.1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(field[30, 30], [-0.05, 0.05, 0], atol=1e-6)  # half-way through a 90° wall
    np.testing.assert_allclose(field[20, 20], 0, atol=1e-12)
    far = fj.vortex_field((41, 41), 0.1, core=2.0)
    np.testing.assert_allclose(far[20, 26], [0, 0.1 * 6 / np.hypot(6, 2), 0], atol=1e-12)


def test_bubbles_and_skyrmions():
    bubble = fj.bubble_field((24, 24), UP, -UP, radius=6.0, centre=(2.0, 3.0), width=1.0)
    np.testing.assert_allclose(bubble[3, 8], 0, atol=1e-12)  # the wall
    np.testing.assert_allclose(bubble[3, 20], 0, atol=1e-12)  # and on the other side, across the edge
    np.testing.assert_allclose(bubble[3, 2], -UP, atol=1e-5)
    for helicity in (0.0, 90.0):
        field = fj.skyrmion_field((40, 40), 0.1, radius=8.0, width=2.0, helicity=helicity)
        np.testing.assert_allclose(np.linalg.norm(field, axis=-1), 0.1)
        number = np.asarray(skyrmion_density(field, everywhere(field))).sum()
        assert number == pytest.approx(-1, abs=0.01)
        charge = np.asarray(divergence(field[..., :2], place(field), everywhere(field)))
        assert (np.abs(charge).max() < 2e-3) == (helicity == 90.0)
    line = fj.skyrmion_field((1, 81), 0.1, radius=20.0, centre=(40.0, 0.0), width=2.0)[0, :, 2]
    np.testing.assert_allclose(line[41:], 0.1 * np.tanh((np.arange(1, 41) - 20) / 2.0), atol=1e-5)
    assert line[40] == pytest.approx(-0.1)
    sharp = fj.skyrmion_field((1, 81), 0.1, radius=20.5, centre=(40.0, 0.0), width=0.01)[0, :, 2]
    np.testing.assert_allclose(sharp, 0.1 * np.sign(np.abs(np.arange(81) - 40) - 20.5), atol=1e-9)


def correlation(values: np.ndarray, lag: int) -> float:
    """Periodic autocorrelation at a lag along the axes and at nearly that lag along the diagonal."""
    return float(np.mean([(values * np.roll(values, lag, axis)).mean() for axis in (0, 1)]) / (values**2).mean())


def test_random_fields_have_the_correlation_length_asked_for():
    field = fj.random_field((256, 256), (0.1, 0.05, 0.0), correlation_length=6.0, seed=1)
    np.testing.assert_allclose(field.std((0, 1)), [0.1, 0.05, 0.0], rtol=0.05)
    for lag in (3, 6, 9):
        assert correlation(field[..., 0], lag) == pytest.approx(np.exp(-((lag / 6) ** 2)), abs=0.04)
    assert abs((field[..., 0] * field[..., 1]).mean()) < 0.05 * 0.1 * 0.05
    domains = fj.nanodomain_field((256, 256), [RIGHT, -RIGHT], correlation_length=6.0, seed=2, width=0.02)
    for lag in (3, 6, 9):
        law = 2 / np.pi * np.arcsin(np.exp(-((lag / 6) ** 2)))
        assert correlation(domains[..., 0], lag) == pytest.approx(law, abs=0.04)


def test_nanodomains_take_the_variants_and_the_seed():
    variants = np.array([UP, -UP, RIGHT, -RIGHT])
    given = {"correlation_length": 8.0, "width": 0.05}
    field = fj.nanodomain_field((64, 64), variants, **given, seed=(3, 7))
    gap = np.abs(field[:, :, None] - variants).max(-1).min(-1)
    assert (gap < 1e-3).mean() > 0.95
    np.testing.assert_array_equal(field, fj.nanodomain_field((64, 64), variants, **given, seed=(3, 7)))
    assert np.abs(field - fj.nanodomain_field((64, 64), variants, **given, seed=(3, 8))).max() > 0.1
    wide = fj.nanodomain_field((64, 64), variants, correlation_length=8.0, width=3.0, seed=(3, 7))
    assert 0.03 < np.linalg.norm(wide, axis=-1).mean() < np.linalg.norm(field, axis=-1).mean()


def test_walls_of_nanodomains_have_their_width_on_average():
    """Across a tanh wall ∫(1 − tanh²(s/w)) ds = 2w; the length of the walls is π/4 times their crossings (Cauchy)."""
    given = {"correlation_length": 12.0, "seed": 4}
    sharp, soft = (
        fj.nanodomain_field((256, 256), [RIGHT, -RIGHT], width=w, **given)[..., 0] / 0.1 for w in (1e-3, 1.0)
    )
    crossings = sum((np.sign(sharp) != np.sign(np.roll(sharp, 1, axis))).mean() for axis in (0, 1))
    assert (1 - soft**2).mean() / (2 * np.pi / 4 * crossings) == pytest.approx(1.0, abs=0.06)


def test_a_supercell_takes_any_field():
    field = fj.flux_closure_field((6, 6), 0.1) + fj.random_field((6, 6), (0.02,) * 3, correlation_length=2, seed=0)
    atoms = fj.displaced_supercell(fj.material("PbTiO3"), field, 1)
    fj.crystal.check_atoms(atoms)
    straight = fj.displaced_supercell(fj.material("PbTiO3"), np.zeros((6, 6, 3)), 1)
    moved = np.asarray(atoms.position - straight.position)[np.array(atoms.number) == 22]
    np.testing.assert_allclose(moved.reshape(6, 6, 3), field, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fj.uniform_field((2, 2), (0.1, 0.0)), r"first: needs shape \(3,\) or \(2, 2, 3\)"),
        (lambda: fj.uniform_field((2, 0), UP), "shape: must be a whole number from 1"),
        (lambda: fj.uniform_field(4, UP), r"shape: needs two whole numbers"),
        (lambda: fj.uniform_field((2, 2.5), UP), "shape: must be a whole number from 1"),
        (lambda: fj.wall_field((2, 2), UP, [np.nan, 0, 0]), "second: must be finite"),
        (lambda: fj.wall_field((2, 2), UP, RIGHT, width=0.0), "width: must be positive"),
        (lambda: fj.wall_field((2, 2), UP, RIGHT, centre=3), r"centre: needs shape \(2,\)"),
        (lambda: fj.stripe_field((2, 2), UP, RIGHT, waves=(0, 0)), "waves: have no direction"),
        (lambda: fj.stripe_field((2, 2), UP, RIGHT, waves=(0.5, 0)), "waves: must be a whole number"),
        (lambda: fj.stripe_field((2, 2), UP, RIGHT, share=30), "share: must lie between 0 and 1"),
        (lambda: fj.vortex_field((2, 2), 0.1, turn=2), "turn: is no sense of rotation"),
        (lambda: fj.vortex_field((2, 2), -0.1), "size: must be positive"),
        (lambda: fj.bubble_field((2, 2), UP, RIGHT, radius=np.inf), "radius: must be finite"),
        (lambda: fj.nanodomain_field((2, 2), UP, correlation_length=1, seed=0), r"variants: needs shape \(n, 3\)"),
        (lambda: fj.random_field((2, 2), 0.1, correlation_length=1, seed=0), r"rms: needs shape \(3,\)"),
        (lambda: fj.random_field((2, 2), UP, correlation_length=1, seed=0.5), "seed: must be a whole number"),
    ],
)
def test_fields_say_what_they_need(call, message):
    with pytest.raises(fj.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_fields_are_plain_arrays():
    assert not isinstance(fj.vortex_field((4, 4), 0.1), jax.Array)
