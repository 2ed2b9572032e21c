"""Oxygen under B: it pulls a plain fit, and not the fit that draws it."""

import numpy as np
import pytest

from ferrojax.columns import find_columns
from ferrojax.crystal import column_components, material
from ferrojax.crystal.zone import projected_motif
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization import displacement_statistics, map_from_columns, map_polarization

SHAPE, STEP, WIDTH = (170, 180), 0.3, 0.5
TURN = np.radians(20.0)
FRAME = np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]]) / STEP


def phantom(name: str, shift) -> Image:
    """A perovskite along [001]; B displaced by `shift` (Å, image axes) and every oxygen along the soft mode."""
    crystal = material(name)
    motif = projected_motif(crystal)
    d = np.linalg.inv(FRAME) @ np.array(shift) / STEP
    cells = np.stack(np.meshgrid(*[np.arange(-30, 31)] * 2), -1).reshape(-1, 2) @ motif.lattice
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    image = np.full(SHAPE, 30.0)
    for k, parts in enumerate(column_components(crystal, motif)):
        if motif.label[k] == "O":
            continue
        assert parts.response is not None
        for s, share in enumerate(parts.share):
            at = (cells + motif.offset[k] + parts.offset[s] + parts.response[s] @ d) @ FRAME.T + 80.2
            near = ((at > -12) & (at < np.array(SHAPE[::-1]) + 12)).all(1)
            for cx, cy in at[near]:
                image += (
                    motif.strength[k] * share * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) * (STEP / WIDTH) ** 2)
                )
    return Image(image, (STEP, STEP))


def mean_displacement(name: str, shift, oxygen: bool) -> np.ndarray:
    crystal = material(name)
    columns = find_columns(phantom(name, shift), crystal, oxygen=oxygen)
    pmap = map_from_columns(columns, crystal, projected_motif(crystal))
    return np.asarray(displacement_statistics(pmap)["mean"]) / 100


@pytest.mark.study
@pytest.mark.parametrize(("name", "pulled"), [("PbTiO3", 1.34), ("BaTiO3", 0.71)])
def test_the_pull_of_oxygen_is_taken_out(name, pulled):
    shift = np.array([0.10, -0.06])
    plain = mean_displacement(name, shift, oxygen=False)
    drawn = mean_displacement(name, shift, oxygen=True)
    np.testing.assert_allclose(plain @ shift / (shift @ shift), pulled, atol=0.08)
    np.testing.assert_allclose(drawn, shift, atol=1e-3)


def test_a_crystal_without_a_mode_is_refused():
    with pytest.raises(InputError, match="soft mode"):
        find_columns(phantom("PbTiO3", (0.0, 0.0)), material("SrTiO3"), oxygen=True)


def test_drawn_oxygen_says_what_it_rests_on_and_its_error_is_wide():
    """Half of what is taken out stays as an error, in every cell and in the mean: oxygen half as bright is covered."""
    shift, crystal = np.array([0.25, -0.15]), material("PbTiO3")
    noisy = np.random.default_rng(0).poisson(0.5 * np.asarray(phantom("PbTiO3", shift).data)).astype(float)
    plain, drawn = (map_polarization(Image(noisy, (STEP, STEP)), crystal, oxygen=oxygen) for oxygen in (False, True))
    means, errors = zip(
        *((s["mean"], s["mean_error"]) for s in map(displacement_statistics, (plain, drawn))), strict=True
    )
    taken_out = np.abs(means[0] - means[1])
    np.testing.assert_allclose(errors[1], 0.5 * taken_out, rtol=0.5)
    assert (errors[0] < 0.2 * taken_out).all()
    assert (np.abs(means[1] - 100 * shift) < errors[1]).all()
    own = np.asarray(drawn.columns.oxygen_error, float)[np.asarray(drawn.columns.site) == 1]
    np.testing.assert_allclose(100 * np.abs(own.mean(0)), 0.5 * taken_out, rtol=0.5)
    assert plain.columns.oxygen_error is None
    said = [note for note in drawn.notes if "Oxygen under B is drawn" in note]
    assert len(said) == 1
    assert "not at domain walls" in said[0]
    assert "hardly" not in said[0]
