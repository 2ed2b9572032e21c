"""Order on one lattice is one lattice: mapped, with its period and amplitude told; a second lattice is refused."""

import numpy as np
import pytest

from ferrojax.columns.indexing.seeds import seed_columns
from ferrojax.columns.superstructure import _waves
from ferrojax.crystal import material
from ferrojax.crystal.zone import projected_motif
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization import map_with_model
from tests.lattices import CELL, SHAPE, STEP, counted, crystal, errors_pm, painted

PTO = projected_motif(material("PbTiO3"), (0, 0, 1))


def zigzag(wave, along, turn: float = 0.0, amplitude: float = 0.25):
    """Image with A displaced by a wave (cycles per cell) along a direction (px), its A and B."""
    index, a, b = crystal(turn)
    along = np.array(along) / np.linalg.norm(along) * amplitude / STEP
    a = a + np.cos(2 * np.pi * index @ np.array(wave) + 0.3 * (max(wave) < 0.5))[:, None] * along
    return counted(painted((a, 1.0, 3.4), (b, 0.35, 3.0))), a, b


def ordered(parity_a, parity_b, turn: float = 0.0, dim: float = 0.3):
    """Image with every second A or B (by functions of the index) dimmer."""
    index, a, b = crystal(turn)
    heights = [1 - dim * (parity(index) % 2) for parity in (parity_a, parity_b)]
    return counted(painted((a, heights[0], 3.4), (b, 0.35 * heights[1], 3.0))), a, b


def none(index):
    return 0 * index[:, 0]


def layered(index):
    return index[:, 1]


def pairs(index):
    return index[:, 1] // 2


def rock_salt(index):
    return index.sum(1)


def twins(turn: float, height: float, cell: float = CELL) -> np.ndarray:
    (_, a, b), (_, c, d) = crystal(3.0), crystal(3.0 + turn, cell, 3.9)
    return counted(painted((a, 1.0, 3.4), (b, 0.35, 3.0), (c, height, 3.4), (d, 0.35 * height, 3.0)))


def seeded(image: np.ndarray):
    return seed_columns(image, np.full(2, STEP), PTO)


@pytest.mark.parametrize(
    "scene",
    [
        lambda: zigzag((0.5, 0.0), (1, 0), amplitude=0.2),
        lambda: zigzag((0.5, 0.5), (1, 1), 20.0),
        lambda: zigzag((1 / 3, 0.0), (0, 1)),
        lambda: zigzag((1 / 3, 1 / 3), (1, -1), 12.0),
        lambda: ordered(none, rock_salt),
        lambda: ordered(rock_salt, none, 3.0),
        lambda: ordered(layered, none, 8.0, 0.6),
        lambda: ordered(pairs, none, 0.0, 0.5),
    ],
    ids=["along", "diagonal", "three cells", "three diagonal", "rock salt B", "rock salt A", "layers", "two and two"],
)
def test_a_superstructure_is_one_lattice(scene):
    image, a, b = scene()
    seeds = seeded(image)
    assert (seeds.rejection == 0).mean() > 0.98
    for site, true in ((0, a), (1, b)):
        inner = true[((true > 12) & (true < np.array(SHAPE[::-1]) - 12)).all(1)]
        gap = np.linalg.norm(inner[:, None] - seeds.position[seeds.site == site][None], axis=-1).min(1)
        assert (gap < 2.0).mean() > 0.99


@pytest.mark.study
def test_a_zigzag_is_mapped_and_told():
    image, a, b = zigzag((0.5, 0.0), (0, 1))
    pmap, found = map_with_model(Image(image, (STEP, STEP)), material("PbTiO3"))
    error = errors_pm(pmap, a, b)
    assert len(error) > 150
    assert np.sqrt((error**2).mean()) < 3
    (wave,) = found.modulations
    assert wave.cells is not None
    assert (wave.site, sorted(wave.cells)) == ("A", [1, 2])
    np.testing.assert_allclose(sorted(np.abs(wave.displacement)), (0, 25), atol=1.5)
    assert wave.period == pytest.approx(2 * 3.97, rel=0.05)
    assert wave.contrast < 0.02
    assert "A columns are displaced" in str(wave)


def test_lines_that_hum_are_no_second_lattice():
    _, a, b = crystal(3.0)
    lines, x = painted((a, 1.0, 3.4), (b, 0.35, 3.0)), np.arange(float(SHAPE[1]))
    moved = [np.interp(x + np.sin(2 * np.pi * k / 31), x, line) for k, line in enumerate(lines)]
    assert (seeded(counted(np.stack(moved))).rejection == 0).mean() > 0.98


@pytest.mark.parametrize(
    ("turn", "height", "cell"), [(20.0, 0.5, 20.0), (36.87, 0.5, 20.0), (45.0, 0.25, 20.0), (0.0, 0.5, 80 / 3)]
)
def test_a_second_lattice_is_refused(turn, height, cell):
    """Also where both have cells in common, as at 36.87 degrees and at 4 : 3."""
    with pytest.raises(InputError, match="another lattice on top"):
        seeded(twins(turn, height, cell))


@pytest.mark.parametrize("cut", [np.s_[:50], np.s_[:, :50], np.s_[:30], np.s_[:, 100:140]])
def test_a_strip_is_mapped_or_called_small(cut):
    _, a, b = crystal(3.0)
    image = np.ascontiguousarray(counted(painted((a, 1.0, 3.4), (b, 0.35, 3.0)))[cut])
    try:
        seeds = seeded(image)
    except InputError as error:
        assert "too small" in str(error)  # noqa: PT017  (a strip may also be found)
    else:
        assert (seeds.rejection == 0).mean() > 0.9


def test_waves_of_a_sublattice_are_measured_and_noise_is_none():
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(np.arange(20), np.arange(18), indexing="ij"), -1).reshape(-1, 2)
    bent = np.column_stack([0.3 * index[:, 0] ** 1.5, 0 * index[:, 0], 0.03 * index[:, 1]])
    noise = rng.normal(size=bent.shape) * (2.0, 2.0, 0.02)
    assert _waves(index, bent + noise) == []
    for wave, amplitude in (
        ((1 / 3, 0.0), (0.0, 25.0, 0.0)),
        ((0.5, 0.5), (0.0, 0.0, 0.18)),
        ((0.25, 0.25), (9, -9, 0)),
    ):
        moved = np.cos(2 * np.pi * index @ np.array(wave))[:, None] * np.array(amplitude)
        ((told, found),) = _waves(index, bent + noise + moved)
        np.testing.assert_allclose([float(w) for w in told], wave, atol=1e-9)
        np.testing.assert_allclose(np.abs(found), np.abs(amplitude), atol=1.0 if max(np.abs(amplitude)) > 1 else 0.02)
        if amplitude[0] and amplitude[1]:
            assert found[0] * found[1] < 0


@pytest.mark.study
@pytest.mark.parametrize(("amplitude", "along"), [(0.15, (0.0, 1.0)), (0.3, (1.0, 0.0))])
def test_rows_of_a_that_alternate_are_mapped(amplitude, along):
    """Taken for jumps of the scan, they cost half of the cells."""
    image, a, b = zigzag((0.0, 0.5), along, 2.0, amplitude)
    pmap, found = map_with_model(Image(image, (STEP, STEP)), crystal=material("BaTiO3"))
    assert found.jumps == ()
    assert np.asarray(pmap.valid).sum() > 170
    assert np.abs(errors_pm(pmap, a, b)).max() < 6
