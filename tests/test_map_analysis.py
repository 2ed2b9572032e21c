"""What the report of a map says of an image of known truth: a wall, two vacancies, a corner without lattice."""

import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from ferrojax import Image, material
from ferrojax.cli.map import Mapped, MapSettings
from ferrojax.cli.map_report import map_report, map_summary
from ferrojax.crystal import projected_motif
from ferrojax.errors import InputError
from ferrojax.polarization import (
    analyse_map,
    domain_map,
    map_polarization,
    map_with_model,
    normalised_residual,
    refused_columns,
    significant_winding,
    spread_split,
    unmapped_cells,
    with_prediction,
)
from ferrojax.report import write_html
from ferrojax.report.checks import EXPLAINED, REASON_COLOUR, draw_refused
from ferrojax.report.lattice_panels import lattice_quantities
from ferrojax.report.summary import plain
from tests.test_report import make_map

CELLS, PIXELS, STEP = 17, 12, 3.97 / 12
WALL, SHIFT = 8, 0.16
"""Columns of cells left of the wall; Å that B is displaced down on its left and up on its right."""
VACANT = ((4, 6), (12, 3))
CORNER = 48
MARGIN = 0.2


def expected_counts() -> np.ndarray:
    """PbTiO3 along [001] in counts: A at the corners of the cells, B near the middle, no column in one corner."""
    n = CELLS * PIXELS
    axis = np.arange(n)

    def profile(centre, width):
        return np.exp(-0.5 * ((axis - centre) / width) ** 2)

    image = np.full((n, n), 20.0)
    for i, j in np.ndindex(CELLS + 1, CELLS + 1):
        image += 600 * np.outer(profile((j + MARGIN) * PIXELS, 1.4), profile((i + MARGIN) * PIXELS, 1.4))
        if (i, j) not in VACANT:
            x, y = b_place(i, j)
            image += 220 * np.outer(profile(y, 1.3), profile(x, 1.3))
    image[-CORNER:, -CORNER:] = 150.0
    return image


def b_place(i: int, j: int) -> tuple[float, float]:
    """px (x, y) of the B column of cell (i along x, j along y)."""
    down = SHIFT if i < WALL else -SHIFT
    return (i + 0.5 + MARGIN) * PIXELS, (j + 0.5 + MARGIN) * PIXELS + down / STEP


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return expected_counts()


@pytest.fixture(scope="module")
def mapped(truth) -> Mapped:
    image = Image(np.random.default_rng(0).poisson(truth).astype(np.float32), (STEP, STEP), name="phantom")
    crystal = material("PbTiO3")
    made = map_with_model(image, crystal, (0, 0, 1), mode="HAADF")
    return Mapped(image, crystal, made[0], analyse_map(image, made, crystal, (0, 0, 1)), None, ["a remark"])


def test_the_wall_is_found_where_it_is(mapped):
    (wall,) = mapped.analysis.walls
    assert wall.kind == ("180",)
    assert wall.character == "neutral"
    assert not wall.resolved
    scale = float(mapped.pmap.calibration.affine[0, 0])
    middle = (WALL - 0.5 + 0.5 + MARGIN) * PIXELS * scale
    assert np.abs(wall.position[:, 0] - middle).max() < 0.5 * PIXELS * scale
    assert mapped.analysis.winding.vortices == mapped.analysis.winding.antivortices == 0


def test_vacancies_are_refused_as_no_column_at_their_places(mapped):
    columns = mapped.pmap.columns
    refused = np.asarray(columns.rejection_reason) == "no column"
    at = np.asarray(columns.position_px)[refused]
    for i, j in VACANT:
        assert np.linalg.norm(at - b_place(i, j), axis=1).min() < 0.4 * PIXELS


def test_a_part_without_lattice_is_not_mapped_and_its_loss_is_counted(mapped):
    pmap = mapped.pmap
    at = np.asarray(pmap.position_px)[np.asarray(pmap.valid)]
    assert not (at > CELLS * PIXELS - CORNER + 0.5 * PIXELS).all(axis=1).any()
    lost = unmapped_cells(pmap, projected_motif(material("PbTiO3")))
    assert sum(lost.values()) + int(pmap.valid.sum()) == int((np.asarray(pmap.columns.site) == 1).sum())
    assert lost["B column: no column"] >= len(VACANT)


def test_every_refused_column_is_counted_marked_and_explained(mapped):
    found = mapped.analysis.found
    count = refused_columns(found)
    assert sum(count.values()) == int((~found.columns.accepted).sum()) + len(found.stray)
    assert count.keys() <= EXPLAINED.keys() == REASON_COLOUR.keys()
    ax = Figure().subplots()
    draw_refused(ax, mapped.image, found)
    labelled = [(str(line.get_label()), np.asarray(line.get_xdata())) for line in ax.lines]
    marked = {label.split(":")[0]: len(x) for label, x in labelled if ":" in label}
    assert {name: n for name, n in marked.items() if name != "accepted"} == count


def test_residual_is_noise_of_the_size_that_counting_makes(mapped, truth):
    found, residual = mapped.analysis.found, mapped.analysis.residual
    inner = np.s_[2 * PIXELS : -CORNER - 2 * PIXELS, 2 * PIXELS : -2 * PIXELS]
    assert residual[inner].std() == pytest.approx(1.0, abs=0.1)
    ratio = found.variance[inner] / truth[inner]
    assert 0.7 < np.median(ratio) < 1.4
    assert np.abs(found.model[inner] - truth[inner]).max() < 6 * np.sqrt(truth[inner].max())


def test_residual_does_not_depend_on_the_unit_of_the_image(mapped):
    found = mapped.analysis.found
    other = found._replace(model=7 * found.model - 3, variance=49 * found.variance)
    image = Image(7 * mapped.image.data - 3, mapped.image.sampling)
    again = normalised_residual(image, other)
    np.testing.assert_allclose(again, mapped.analysis.residual, atol=1e-3)


def test_counting_noise_explains_the_spread_where_nothing_varies(mapped):
    """Along x every B is in the middle of its cell, so that only counting moves it; the wall is in y alone."""
    split = mapped.analysis.split
    assert split is not None
    assert np.sqrt(split.counting[0] / split.total[0]) == pytest.approx(1.0, abs=0.25)
    assert split.rest[1] + split.scan[1] > 10 * split.counting[1]
    np.testing.assert_allclose(split.total[1], split.counting[1] + split.scan[1] + split.rest[1], rtol=1e-6)


def test_what_the_scan_lines_share_is_no_counting_noise(mapped):
    """Columns whose covariances hold s² more because of the scan lines leave the counting noise as it was."""
    from ferrojax.crystal import projected_motif

    pmap, distortion = mapped.pmap, mapped.analysis.distortion
    assert distortion is not None
    columns = pmap.columns
    assert columns.lines is not None
    motif = projected_motif(mapped.crystal, (0, 0, 1))
    shaken = eqx.tree_at(
        lambda c: (c.covariance, c.lines.variance),
        columns,
        (columns.covariance + 1e-6 * jnp.eye(2), columns.lines.variance + 1e-6),
    )
    one, other = (spread_split(eqx.tree_at(lambda m: m.columns, pmap, c), distortion, motif) for c in (columns, shaken))
    np.testing.assert_allclose(one.counting, other.counting, rtol=1e-3)
    assert (one.counting > 0).all()


def test_lattice_quantities_agree_with_each_other(mapped):
    """With the crystal's 397 pm along both axes, strain along x is the relative length of the vector along x."""
    found = {q.name: q for q in lattice_quantities(mapped.analysis.lattice, mapped.analysis.strain)}
    length, strain = found["lattice vector 1"], found["strain along x"]
    cell = 100 * float(mapped.crystal.cell[0, 0])
    np.testing.assert_allclose(length.value, cell * (1 + strain.value / 100), rtol=2e-4)
    assert length.spread == pytest.approx(float(np.nanmedian(length.error)), rel=0.5)


@pytest.mark.study
def test_drift_can_be_taken_out_of_the_positions(truth):
    """Lines shifted smoothly by up to 0.8 px: A columns lie on a straight lattice again, cells move little."""
    line = np.arange(len(truth))
    shift = 0.8 * np.sin(2 * np.pi * line / 120) + 0.3 * np.cos(2 * np.pi * line / 70)
    moved = np.stack([np.interp(line - s, line, row) for s, row in zip(shift, truth, strict=True)])
    image = Image(np.random.default_rng(2).poisson(moved).astype(np.float32), (STEP, STEP))
    plain, straight = (map_polarization(image, material("PbTiO3"), correct_drift=c) for c in (False, True))
    assert float(plain.calibration.rms_pm) > 12
    assert float(straight.calibration.rms_pm) < 0.3 * float(plain.calibration.rms_pm)
    np.testing.assert_array_equal(straight.position_px, plain.position_px)
    both = np.asarray(plain.valid)
    place = np.asarray(straight.position)[both]
    index = np.stack(np.nonzero(both)[::-1], -1)
    design = np.column_stack([np.ones(len(index)), index])
    off = place - design @ np.linalg.lstsq(design, place, rcond=None)[0]
    assert 100 * off.std() < 3
    assert dict(straight.provenance)["drift of the scan"].startswith("taken out")
    assert any("Slow drift of the scan" in note for note in straight.notes)
    assert not any("drift" in note for note in plain.notes)


def test_a_predictor_is_one(truth):
    image = Image(truth, (STEP, STEP))
    with pytest.raises(InputError, match="predictor: is no predictor"):
        map_polarization(image, material("PbTiO3"), predictor=3)


def test_polarization_beyond_any_crystal_is_pointed_out(mapped):
    """The map says so itself, and says it of a predictor's values as it would of its own."""
    pmap = mapped.pmap
    assert not any("more polar" in note for note in pmap.notes)

    class Far:
        def predict(self, image, cells):
            some = jnp.arange(len(cells.classical))[:, None] % 5 == 0
            return jnp.where(some, 1.0, cells.classical), cells.classical_covariance

    class Classical:
        def predict(self, image, cells):
            return cells.classical, cells.classical_covariance

    far = with_prediction(pmap, mapped.image, Far())
    assert sum("more polar than 1.6 C/m²" in note for note in far.notes) == 1
    again = with_prediction(far, mapped.image, Far())
    assert again.notes == far.notes
    assert with_prediction(far, mapped.image, Classical()).notes == far.notes
    assert with_prediction(pmap, mapped.image, Classical()).notes == pmap.notes


def test_frames_that_move_fast_are_pointed_out():
    from ferrojax.columns import FrameAlignment

    def aligned(step):
        shift = jnp.arange(3.0)[:, None] * jnp.array([step, 0.0])
        return FrameAlignment(shift, shift, jnp.ones(3), jnp.array([0, 1, 0]), jnp.zeros(2, int), jnp.array(16.0))

    slow, fast = (aligned(step).notes for step in (2.0, 6.0))
    assert len(slow) == 1
    assert "2 of 3 frames" in slow[0]
    assert "(2.0, 0.0) px a frame" in slow[0]
    assert "0.38 of a lattice period" in fast[1]


def test_page_and_summary_show_the_same_figures(mapped, tmp_path):
    settings = MapSettings("phantom.npz", "PbTiO3", (0, 0, 1), None, "HAADF", False, None, False, (0.0, 0.0), False)
    report = map_report(mapped, settings)
    write_html(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    summary = json.loads(json.dumps(plain(map_summary(mapped, settings)), allow_nan=False))
    (wall,) = summary["domains"]["walls"]
    assert wall["type_degrees"] == ["180"]
    assert f"{wall['charge']:+.1f} ± {wall['charge_error']:.1f}" in page
    for reason, number in summary["columns"]["refused"].items():
        assert f'<td>{reason}</td><td class="number">{number}</td><td>{EXPLAINED[reason]}' in page
    for key in ("total", "counting", "scan", "rest"):
        x, y = summary["spread_split_pm"][key]
        assert f"<td>{x:.2f}</td><td>{y:.2f}</td>" in page
    assert "Crystal: a remark." in page
    assert "It points against the displacement" in page
    assert "://" not in page
    assert page.count("<img") == page.count('src="data:image/')


def test_a_vortex_under_an_offset_is_found():
    """Four domains round a core, and a tilt that all cells share: more than what they are displaced by."""
    pmap = make_map(20, 20)
    y, x = np.mgrid[:20, :20] - 9.5
    offset = np.array([0.17, -0.12])
    shift = 0.12 * np.stack([-np.sign(y), np.sign(x)], -1) + offset
    shift = shift + 0.01 * np.random.default_rng(1).normal(size=shift.shape)
    covariance = np.broadcast_to(1e-4 * np.eye(2, dtype=np.float32), (20, 20, 2, 2))
    place = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1) * 4.0
    values = [jnp.asarray(v, jnp.float32) for v in (place, shift, 0.2 * shift, covariance)]
    pmap = eqx.tree_at(lambda m: [m.position, m.displacement, m.polarization, m.covariance], pmap, values)
    pmap = eqx.tree_at(lambda m: m.valid, pmap, jnp.ones((20, 20), bool))
    domains = domain_map(pmap, "BaTiO3")
    np.testing.assert_allclose(domains.offset, offset, atol=0.01)
    assert significant_winding(pmap).vortices == 0
    assert significant_winding(pmap, domains.offset).vortices == 1
