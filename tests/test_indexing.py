"""Columns found and given their place on the lattice: distortions, zones, contrasts, seams, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

import ferrojax as fj
from benchmarks.lattice_phantom import Scene, draw, marks
from ferrojax.columns.columns import ACCEPTED, EDGE, FAINT, SATURATED, SEAM
from ferrojax.columns.faulty_pixels import saturated_pixels, unmeasured_pixels
from ferrojax.columns.indexing.index import Candidates, fit_lattice, grow_cells
from ferrojax.columns.indexing.orientation import equal_view
from ferrojax.columns.indexing.pixels import find_peaks, working_grid
from ferrojax.columns.indexing.place import inside
from ferrojax.columns.indexing.seeds import column_gap, seed_columns, seed_positions, separable
from ferrojax.crystal import Crystal, material
from ferrojax.crystal.zone import projected_motif
from ferrojax.errors import InputError

PTO = projected_motif(material("PbTiO3"), (0, 0, 1))
STO110 = projected_motif(material("SrTiO3"), (1, 1, 0))
SMALL = Scene(shape=(260, 280), turn=12.0)
HARD = replace(SMALL, strain=0.05, anisotropy=0.03, drift=2.0, walls="180", vacancies=0.02)


def zinc_oxide():
    """The wurtzite cell that images of ZnO give (a 3.25, c 5.207 Å)."""
    cell = np.array([[3.25, 0, 0], [-3.25 / 2, 3.25 * 3**0.5 / 2, 0], [0, 0, 5.207]])
    position = np.array([[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]])
    return projected_motif(Crystal(cell, position, (30, 30, 8, 8), ("A", "A", "O", "O"), name="ZnO"), (1, 0, 0))


def right_share(motif, scene, mode=None):
    image, truth = draw(motif, scene)
    result = marks(seed_columns(image, np.full(2, scene.sampling), motif, mode), truth, motif, scene)
    assert result["columns"] > 100
    return result["right"] / result["columns"], result["false"] / result["columns"]


@pytest.mark.parametrize(
    ("zone", "scene"),
    [
        ((0, 0, 1), replace(SMALL, strain=0.1)),
        ((0, 0, 1), replace(SMALL, walls="90", turn=-33.0)),
        ((0, 0, 1), replace(SMALL, film=3.0, counts=600.0)),
        ((0, 0, 1), replace(SMALL, counts=100.0)),
        ((0, 0, 1), replace(SMALL, stripes=0.1, gradient=0.8)),
        ((0, 0, 1), replace(SMALL, edge=0.35)),
        ((0, 0, 1), HARD),
        ((1, 1, 0), replace(HARD, turn=131.0)),
        ((1, 0, 0), replace(HARD, turn=-77.0, counts=200.0)),
        ((0, 0, 1), replace(SMALL, shape=(110, 120), sampling=0.8, strain=0.05)),
        ((0, 0, 1), replace(SMALL, shape=(600, 620), sampling=0.067, strain=0.05)),
    ],
)
def test_columns_are_found_and_indexed(zone, scene):
    right, false = right_share(projected_motif(material("PbTiO3"), zone), scene)
    assert right >= 0.99
    assert false <= 0.03


@pytest.mark.parametrize("mode", ["ABF", "iDPC"])
def test_oxygen_is_seeded_where_it_shows(mode):
    scene = replace(HARD, mode=mode, counts=4000.0, walls="none", shift=0.05)
    image, _ = draw(STO110, scene)
    seeds = seed_columns(image, np.full(2, 0.2), STO110)
    assert (seeds.mode, seeds.polarity) == (mode, -1 if mode == "ABF" else 1)
    assert set(seeds.column) == {0, 1, 2}
    assert right_share(STO110, scene)[0] >= 0.99
    assert seeds.gap == pytest.approx(3.905 / 8**0.5, rel=1e-3)
    hidden, _ = draw(STO110, replace(scene, mode="HAADF"))
    assert set(seed_columns(hidden, np.full(2, 0.2), STO110).column) == {0, 1}


def test_wurtzite_and_its_polar_direction():
    motif = zinc_oxide()
    scene = replace(SMALL, mode="iDPC", counts=4000.0, sampling=0.15, strain=0.04, walls="none", shift=0.0)
    for turn in (20.0, 200.0):
        image, truth = draw(motif, replace(scene, turn=turn))
        seeds = seed_columns(image, np.full(2, 0.15), motif)
        assert seeds.ambiguity == ()
        angle = np.degrees(np.arctan2(seeds.frame[1, 0], seeds.frame[0, 0]))
        assert abs((angle - turn + 180) % 360 - 180) < 3
        result = marks(seeds, truth, motif, scene)
        assert result["right"] >= 0.99 * result["columns"]


def test_a_large_cell_keeps_columns_that_an_image_can_tell_apart():
    motif = projected_motif(material("Cu3B7O13Cl"), (0, 0, 1))
    kept = separable(motif, list(range(len(motif.label))))
    assert 0 < len(kept) < len(motif.label)
    assert column_gap(motif, kept) >= 0.8
    scene = replace(SMALL, shape=(500, 520), sampling=0.12, strain=0.03, shift=0.0)
    right, false = right_share(motif, scene)
    assert right >= 0.99
    assert false <= 0.03


def test_turning_the_image_turns_the_seeds():
    image, _ = draw(PTO, SMALL)
    here = seed_columns(image, np.full(2, 0.2), PTO)
    there = seed_columns(np.ascontiguousarray(np.rot90(image)), np.full(2, 0.2), PTO)
    back = np.stack([image.shape[1] - 1 - there.position[:, 1], there.position[:, 0]], 1)
    inner = ((back > 20) & (back < np.array(image.shape[::-1]) - 20)).all(1)
    for site in (0, 1):
        mine = here.position[here.site == site]
        gap = np.linalg.norm(back[inner & (there.site == site)][:, None] - mine[None], axis=-1).min(1)
        assert np.percentile(gap, 99) < 0.3


def test_intensity_unit_does_not_matter():
    image, _ = draw(PTO, SMALL)
    one, other = (seed_columns(d, np.full(2, 0.2), PTO) for d in (image, 1e4 * image - 3e5))
    np.testing.assert_array_equal(one.index, other.index)
    np.testing.assert_allclose(one.position, other.position, atol=0.02)


def test_a_missing_column_is_marked():
    scene = replace(SMALL, vacancies=0.03, counts=3000.0)
    image, truth = draw(PTO, scene)
    seeds = seed_columns(image, np.full(2, 0.2), PTO)
    holes = truth.vacancies[((truth.vacancies > 15) & (truth.vacancies < np.array([265, 245]))).all(1)]
    assert len(holes) > 4
    for hole in holes:
        assert seeds.rejection[np.argmin(np.linalg.norm(seeds.position - hole, axis=1))] == FAINT
    assert (seeds.rejection == FAINT).sum() <= len(truth.vacancies)


def test_an_antiphase_boundary_is_marked_and_both_sides_indexed():
    scene = replace(SMALL, walls="antiphase", turn=-20.0)
    image, truth = draw(PTO, scene)
    seeds = seed_columns(image, np.full(2, 0.2), PTO)
    result = marks(seeds, truth, PTO, scene)
    assert result["right"] >= 0.99 * result["columns"]
    torn = np.linalg.norm(seeds.position[seeds.rejection == SEAM][:, None] - truth.position[None], axis=-1).argmin(1)
    assert len(torn) > 20
    assert truth.beside_seam[torn].mean() > 0.95
    # no accepted column has an accepted index neighbour that is not its neighbour in space
    good = (seeds.rejection == ACCEPTED) & (seeds.site == 0)
    row = {tuple(i): p for i, p in zip(seeds.index[good], seeds.position[good], strict=True)}
    for (i, j), here in row.items():
        for step in ((1, 0), (0, 1)):
            there = row.get((i + step[0], j + step[1]))
            if there is not None:
                np.testing.assert_allclose(
                    there - here, seeds.frame @ (np.array(step) @ PTO.lattice), atol=5.0
                )  # half a cell is 14 px


def test_a_second_crystal_is_left_out():
    image, _ = draw(PTO, SMALL)
    other, _ = draw(PTO, replace(SMALL, turn=37.0, seed=3))
    image[:, 170:] = other[:, 170:]
    seeds = seed_columns(image, np.full(2, 0.2), PTO)
    on = seeds.position[(seeds.rejection == ACCEPTED) & inside(seeds.position, image.shape), 0]
    side = 1 if np.median(on) > 170 else -1
    assert (side * (on - 170) < -14).mean() < 0.02
    assert (side * (seeds.stray[:, 0] - 170) < 0).sum() > 40


def test_clipped_columns_are_marked_or_the_image_refused():
    image, _ = draw(PTO, replace(SMALL, counts=5000.0))
    clipped = image.copy()
    clipped[:, :140] = np.minimum(image, np.percentile(image, 97))[:, :140]
    clipped[:, 140:] = np.minimum(image, np.percentile(image, 97))[:, 140:] * 0.9
    seeds = seed_columns(clipped, np.full(2, 0.2), PTO)
    hit = seeds.position[seeds.rejection == SATURATED]
    assert len(hit) > 40
    assert hit[:, 0].max() < 141
    with pytest.raises(InputError, match="clipped"):
        seed_columns(np.minimum(image, np.percentile(image, 60)), np.full(2, 0.2), PTO)


def test_a_blank_border_holds_no_columns():
    image, _ = draw(PTO, SMALL)
    framed = np.full((400, 420), image.mean())
    framed[70:330, 70:350] = image
    framed[::2] *= 1.00001
    seeds = seed_columns(framed, np.full(2, 0.2), PTO)
    fine = seeds.position[seeds.rejection == ACCEPTED]
    assert (fine > 60).all()
    assert (seeds.rejection == EDGE).any()
    blank = unmeasured_pixels(framed, 14.0)
    assert blank[20, 20]
    assert not blank[100:300, 100:300].any()


def test_equal_sublattices_are_reported():
    import equinox as eqx

    equal = eqx.tree_at(lambda m: m.strength, PTO, np.array([50.0, 50.0, 1.0, 1.0]))
    image, _ = draw(equal, SMALL)
    assert "which sublattice" in seed_columns(image, np.full(2, 0.2), equal).ambiguity[0]


@pytest.mark.parametrize(
    ("spoil", "sampling", "message"),
    [
        (lambda d: d, (0.1, 0.1), "-50 %"),
        (lambda d: d, (0.1414, 0.1414), "-29 %"),
        (lambda d: d, (0.28, 0.28), r"\+40 %"),
        (lambda d: ndimage.zoom(d, (1, 0.6), order=1), (0.333, 0.2), "axes swapped"),
        (lambda d: d + draw(PTO, replace(SMALL, turn=37.0, seed=3))[0], (0.2, 0.2), "another lattice on top"),
        (lambda d: -d, (0.2, 0.2), "bright columns on a dark ground"),
        (lambda d: np.random.default_rng(0).normal(size=d.shape), (0.2, 0.2), "shows no lattice"),
    ],
)
def test_what_is_refused(spoil, sampling, message):
    image, _ = draw(PTO, SMALL)
    with pytest.raises(InputError, match=message) as error:
        seed_columns(spoil(image), np.array(sampling), PTO)
    assert "\n" not in str(error.value)


def test_another_structure_is_refused():
    image, _ = draw(PTO, SMALL)
    for motif in (STO110, zinc_oxide(), projected_motif(material("PbTiO3"), (1, 1, 1))):
        with pytest.raises(InputError, match="zone axis"):
            seed_columns(image, np.full(2, 0.2), motif)


def test_a_told_mode_is_obeyed():
    image, _ = draw(PTO, SMALL)
    with pytest.raises(InputError, match="inverted"):
        seed_columns(-image, np.full(2, 0.2), PTO, "HAADF")
    assert seed_columns(-image, np.full(2, 0.2), PTO, "ABF").polarity == -1
    with pytest.raises(InputError, match="no imaging mode"):
        seed_columns(image, np.full(2, 0.2), PTO, "BF")


def test_growth_follows_a_bent_lattice_and_stops_at_the_tolerance():
    index = np.stack(np.meshgrid(np.arange(20), np.arange(20), indexing="ij"), -1).reshape(-1, 2)
    bent = 10.0 * index + 0.02 * index[:, ::-1] ** 2
    candidates = Candidates(bent, np.ones(400))
    cells = grow_cells(candidates, 210, 10.0 * np.eye(2), 2.0, np.ones(400, bool))
    assert len(cells.index) == 400
    np.testing.assert_array_equal(cells.index[np.argsort(cells.candidate)] + index[210], index)
    apart = bent + np.where(index[:, :1] >= 10, 5.0, 0.0)
    half = grow_cells(Candidates(apart, np.ones(400)), 0, 10.0 * np.eye(2), 2.0, np.ones(400, bool))
    assert len(half.index) == 200


def test_fit_lattice_ignores_an_outlier():
    index = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2)
    position = index @ np.array([[9.0, 0.5], [-0.4, 8.0]]) + [3.0, 4.0]
    position[7] += 4.0
    origin, lattice, residual = fit_lattice(index, position)
    np.testing.assert_allclose(origin, [3.0, 4.0], atol=1e-9)
    np.testing.assert_allclose(lattice, [[9.0, 0.5], [-0.4, 8.0]], atol=1e-9)
    np.testing.assert_allclose(residual[7], [4.0, 4.0], atol=1e-9)


def test_views_that_a_symmetry_relates():
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    assert equal_view(PTO, np.eye(2), quarter)
    assert not equal_view(PTO, np.eye(2), np.array([[0.8, -0.6], [0.6, 0.8]]))
    assert equal_view(STO110, np.eye(2), -np.eye(2))
    assert not equal_view(zinc_oxide(), np.eye(2), -np.eye(2))


@pytest.mark.parametrize("sampling", [0.05, 0.2, 0.7])
def test_the_working_grid_keeps_places(sampling):
    y, x = np.mgrid[:90, :100]
    image = np.exp(-((x - 41.3) ** 2 + (y - 52.6) ** 2) / (2 * (0.8 / sampling) ** 2))
    work = working_grid(image, np.ones(image.shape, bool), sampling, 0.28)
    peaks, _ = find_peaks(work.data, 3, 0.5)
    assert len(peaks) == 1
    np.testing.assert_allclose(work.to_image(peaks)[0], [41.3, 52.6], atol=0.1 * max(work.step, 1.0))


def test_saturation_needs_a_pile_at_the_top():
    counts = np.random.default_rng(0).poisson(30.0, (200, 200)).astype(float)
    assert not saturated_pixels(counts).any()
    assert saturated_pixels(np.minimum(counts, 36)).sum() == (counts >= 36).sum()


def test_positions_without_a_crystal():
    image, truth = draw(PTO, replace(SMALL, counts=3000.0))
    seeds = seed_positions(image, np.full(2, 0.2))
    heavy = truth.position[truth.column == 0]
    heavy = heavy[inside(heavy - 3.0, (254, 274))]
    gap = np.linalg.norm(heavy[:, None] - seeds.position[None], axis=-1).min(1)
    assert np.percentile(gap, 98) < 1.5
    assert set(seeds.site) == {-1}
    dark = seed_positions(-image, np.full(2, 0.2), "ABF")
    assert dark.polarity == -1
    np.testing.assert_allclose(dark.position, seeds.position, atol=1e-3)


def test_every_published_column_of_a_real_film_is_found(reference_data):
    stored = np.load(reference_data / "pto_sro_haadf" / "pto_sro_haadf.npz")
    image = stored["image"].astype(float)
    seeds = seed_columns(image, np.full(2, 10 * float(stored["pixel_size_nm_recorded"])), PTO)
    known = stored["parent_asite_refined_xy_px"] - stored["parent_to_crop_shift_xy_px"]
    known = known[inside(known, image.shape)]
    assert len(known) >= 447
    mine = (seeds.site == 0) & (seeds.rejection == ACCEPTED)
    gap = np.linalg.norm(known[:, None] - seeds.position[mine][None], axis=-1)
    assert gap.min(1).max() < 2.0
    assert len(set(gap.argmin(1))) == len(known)


@pytest.mark.parametrize(("name", "mode", "sites"), [("adf", "HAADF", {0, 1}), ("abf", "ABF", {0, 1, 2})])
def test_a_real_image_in_two_contrasts(reference_data, name, mode, sites):
    stored = np.load(reference_data / "sto110_adf_abf" / "sto110_adf_abf.npz")
    seeds = seed_columns(stored[name].astype(float), np.full(2, 10 * float(stored["pixel_size_nm"])), STO110)
    assert seeds.mode == mode
    assert set(seeds.column) == sites
    on = inside(seeds.position, stored[name].shape)
    assert 780 < (on & (seeds.site == 0)).sum() < 830
    assert (seeds.rejection[on] == ACCEPTED).mean() > 0.995


def potential(size=(300, 320), cell=20.0):
    """A perovskite's projected potential along [001], oxygen included, px."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    image = np.zeros(size)
    columns = ((0, 0, 1.0), (0.52, 0.46, 0.55), (0.5, 0, 0.25), (0, 0.5, 0.25))
    for i, j in np.ndindex(19, 18):
        for u, v, height in columns:
            image += height * np.exp(-0.5 * ((x - cell * (i + u)) ** 2 + (y - cell * (j + v)) ** 2) / 2.5**2)
    return image


@pytest.mark.parametrize("mode", [None, "ABF", "iDPC"])
def test_a_component_of_a_dpc_is_told_from_its_symmetry(mode):
    """Every column has a bright and a dark side: none of the modes, whichever is said."""
    whole = potential()
    along_y, along_x = np.gradient(whole)
    rng = np.random.default_rng(0)
    for part in (along_x, -along_y, along_x * np.cos(0.5) + along_y * np.sin(0.5)):
        noisy = part + 0.2 * part.std() * rng.normal(size=part.shape)
        with pytest.raises(InputError, match="one component of a DPC"):
            seed_columns(noisy, np.full(2, 3.97 / 20), PTO, mode)


@pytest.mark.parametrize("mode", [None, "iDPC"])
def test_the_magnitude_of_a_dpc_shows_no_columns(mode):
    """Rims about dark middles, which low reflections do not tell from columns: IndexError, once."""
    along_y, along_x = np.gradient(potential())
    size = np.hypot(along_x, along_y)
    noisy = size + 0.1 * size.std() * np.random.default_rng(0).normal(size=size.shape)
    with pytest.raises(InputError, match="bright rims about a dark middle, like the magnitude of a DPC"):
        fj.map_polarization(fj.Image(noisy, (3.97 / 20, 3.97 / 20)), fj.material("PbTiO3"), mode=mode)


@pytest.mark.parametrize("sign", [1, -1])
def test_signals_with_a_column_in_their_middle_are_no_component(sign):
    """Integrated, differentiated and dark signals are even about every column."""
    whole = potential()
    bent = np.gradient(np.gradient(whole, axis=0), axis=0) + np.gradient(np.gradient(whole, axis=1), axis=1)
    rng = np.random.default_rng(0)
    for image in (sign * whole, *((-bent,) if sign > 0 else ())):
        noisy = image + 0.2 * image.std() * rng.normal(size=image.shape)
        assert seed_columns(noisy, np.full(2, 3.97 / 20), PTO).polarity == sign


def test_faint_columns_of_a_lattice_are_found_without_a_crystal():
    """The mean of all cells shows them; single cells, no maximum that is as clear as the bright ones."""
    from tests.lattices import SHAPE, crystal, painted

    _, a, b = crystal(4.0)
    image = np.random.default_rng(0).poisson(60 * painted((a, 1.0, 3.4), (b, 0.08, 3.0))).astype(float)
    seeds = seed_positions(image, np.full(2, 3.97 / 20))
    inner = b[((b > 12) & (b < np.array(SHAPE[::-1]) - 12)).all(1)]
    gap = np.linalg.norm(inner[:, None] - seeds.position[None], axis=-1)
    assert len(inner) > 150
    assert (gap.min(1) < 0.2 * 20).mean() > 0.97
    faint = seeds.column[gap.argmin(1)]
    assert (faint == np.median(faint)).mean() > 0.97
    on = inside(seeds.position, SHAPE)
    assert on.sum() < 1.1 * (inside(a, SHAPE).sum() + inside(b, SHAPE).sum())
