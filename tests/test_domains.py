"""Domains and walls: drawn fields with known answers, invariances, and structures whose walls are known."""

import ase
import ase.io
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import material
from ferrojax.errors import InputError
from ferrojax.polarization import (
    cell_polarization,
    distinct_atoms,
    domain_map,
    find_walls,
    fit_profile,
    likeliest_family,
    map_polarization,
    name_wall,
    perovskite_cells,
    polar_variants,
    projected_variants,
    segment_domains,
    structure_graph,
    wall_kinds,
)
from tests.test_columns import draw

PLANE = np.eye(3)[:2]
FOUR = projected_variants("100", PLANE)
CHARGES = {"Pb": (3.44, 5.18), "Ba": (2.75, 7.16), "Bi": (3.0, 3.0)}
"""e, (A, B); bismuth's are its ionic ones: only the direction of P is used."""
SITE = {"Pb": "A", "Ba": "A", "Bi": "A", "Ti": "B", "Fe": "B", "O": "O"}


def grid(rows=30, cols=40, spacing=4.0):
    y, x = np.mgrid[:rows, :cols].astype(float)
    return spacing * np.stack([x - (cols - 1) / 2, y - (rows - 1) / 2], -1)


def quarters(noise=0.1, seed=0):
    """Four domains, one in each quarter, |P| = 0.5; labels by nearest variant, and each cell's own covariance."""
    generator = np.random.default_rng(seed)
    at = grid()
    truth = np.where(at[..., 0] < 0, np.where(at[..., 1] < 0, 0, 1), np.where(at[..., 1] < 0, 2, 3))
    error = noise * generator.uniform(0.5, 1.5, at.shape[:2])
    field = 0.5 * FOUR[truth] + error[..., None] * generator.normal(size=at.shape)
    return field, truth, error[..., None, None] ** 2 * np.eye(2)


def two_domains(normal, first, second, half_width, centre=0.0, noise=0.0, rows=30, cols=40):
    """tanh from `first` to `second` along `normal`; half_width is ξ in Å."""
    at = grid(rows, cols)
    s = (at @ np.asarray(normal) - centre) / half_width
    share = 0.5 * (1 + np.tanh(s))[..., None]
    field = (1 - share) * np.asarray(first) + share * np.asarray(second)
    return at, field + noise * np.random.default_rng(1).normal(size=field.shape)


@pytest.mark.parametrize(
    ("family", "count", "angles"),
    [("100", 6, {90, 180}), ("110", 12, {60, 90, 120, 180}), ("111", 8, {71, 109, 180})],
)
def test_families_and_their_walls(family, count, angles):
    variants = polar_variants(family)
    assert variants.shape == (count, 3)
    np.testing.assert_allclose(np.linalg.norm(variants, axis=1), 1.0)
    assert {kind.angle for kind in wall_kinds(family)} == angles


def test_what_a_projection_can_tell():
    """Along [001], rhombohedral variants show as four ⟨110⟩; 90° may be 71 or 109, 180° may be 109 or 180."""
    np.testing.assert_allclose(np.abs(projected_variants("111", PLANE)), 3**-0.5)
    assert projected_variants("111", PLANE).shape == (4, 2)
    kinds = wall_kinds("111", PLANE)
    assert name_wall(88.0, kinds) == ("71", "109")
    assert name_wall(176.0, kinds) == ("109", "180")
    assert name_wall(3.0, kinds) == ("71",)
    assert name_wall(73.0, wall_kinds("111")) == ("71",)
    assert name_wall(92.0, wall_kinds("100", PLANE)) == ("90",)
    assert name_wall(40.0, wall_kinds("111")) == ()
    assert name_wall(130.0, wall_kinds("100")) == ()
    with pytest.raises(InputError, match="family"):
        polar_variants("112")
    with pytest.raises(InputError, match="angle"):
        name_wall(float("nan"), kinds)


def test_segmentation_and_its_confidence():
    field, truth, covariance = quarters(0.1)
    valid = np.random.default_rng(3).random(truth.shape) > 0.02
    field = np.where(valid[..., None], field, np.nan)
    found = segment_domains(field, valid, FOUR, covariance)
    assert (found.label[valid] == truth[valid]).mean() > 0.995
    np.testing.assert_array_equal(found.label[~valid], -1)
    np.testing.assert_array_equal(np.isnan(found.confidence), ~valid)
    assert found.region.max() == 3
    np.testing.assert_allclose(found.amplitude, 0.5, atol=0.01)
    assert found.scatter < 0.03


def test_confidence_is_the_share_that_is_right():
    """Noise of 70 % of the polarization, every cell by itself: in bins of confidence, the share of right labels."""
    confidence, right = [], []
    for seed in range(4):
        field, truth, covariance = quarters(0.35, seed)
        found = segment_domains(field, np.ones(truth.shape, bool), FOUR, covariance, minimum_cells=1, coherence=0.0)
        polar = found.label >= 0
        confidence.append(found.confidence[polar])
        right.append((found.label == truth)[polar])
    sure, true = np.concatenate(confidence), np.concatenate(right)
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.01)):
        chosen = (sure >= low) & (sure < high)
        assert chosen.sum() > 100
        assert abs(true[chosen].mean() - sure[chosen].mean()) < 0.08


def test_cells_that_lean_on_their_neighbours_are_right_more_often():
    alone, together = 0.0, 0.0
    for seed in range(3):
        field, truth, covariance = quarters(0.35, seed)
        valid = np.ones(truth.shape, bool)
        by_itself = segment_domains(field, valid, FOUR, covariance, minimum_cells=1, coherence=0.0)
        leaning = segment_domains(field, valid, FOUR, covariance, minimum_cells=1)
        alone += (by_itself.label == truth).mean() / 3
        together += (leaning.label == truth).mean() / 3
        assert leaning.confidence.mean() < (leaning.label == truth).mean() + 0.05
    assert alone < 0.85
    assert together > 0.97


def test_one_direction_is_one_domain_whatever_it_is():
    """Twenty degrees off the nearest variant, or between two of them; a constant that mis-tilt adds does that."""
    generator = np.random.default_rng(0)
    for degrees in (20.0, 44.0):
        direction = [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]
        field = 0.5 * np.array(direction) + 0.15 * generator.normal(size=(30, 40, 2))
        found = segment_domains(field, np.ones((30, 40), bool), FOUR)
        assert found.region.max() == 0
        assert (found.label >= 0).mean() > 0.99
        np.testing.assert_allclose(found.amplitude, 0.5, rtol=0.03)


def test_a_field_that_turns_slowly_has_no_wall_to_believe():
    at = grid(40, 60)
    angle = np.radians(1.2 * at[..., 0])
    field = 0.5 * np.stack([np.cos(angle), np.sin(angle)], -1) + 0.1 * np.random.default_rng(2).normal(size=at.shape)
    domains = segment_domains(field, np.ones(at.shape[:2], bool), FOUR)
    walls = find_walls(domains, field, at, wall_kinds("100", PLANE))
    assert len(walls) >= 1
    assert all(wall.kind == () for wall in walls)


def test_segmentation_turns_with_the_axes():
    field, truth, covariance = quarters(0.15)
    valid = np.ones(truth.shape, bool)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    plain = segment_domains(field, valid, FOUR, covariance)
    turned = segment_domains(field @ turn.T, valid, FOUR @ turn.T, turn @ covariance @ turn.T)
    np.testing.assert_array_equal(turned.label, plain.label)
    np.testing.assert_allclose(turned.confidence, plain.confidence, atol=1e-6)
    scaled = segment_domains(1e-3 * field, valid, FOUR, 1e-6 * covariance)
    np.testing.assert_array_equal(scaled.label, plain.label)


def test_specks_are_cleaned_and_stay_unsure():
    field, truth, covariance = quarters(0.02)
    field[5, 5] = 0.5 * FOUR[3]
    valid = np.ones(truth.shape, bool)
    assert segment_domains(field, valid, FOUR, covariance, minimum_cells=1).region.max() == 4
    found = segment_domains(field, valid, FOUR, covariance)
    np.testing.assert_array_equal(found.label, truth)
    assert found.confidence[5, 5] < 0.01


def test_noise_has_no_domains_and_a_dead_layer_none():
    generator = np.random.default_rng(0)
    valid = np.ones((20, 25), bool)
    noise = 0.05 * generator.normal(size=(20, 25, 2))
    found = segment_domains(noise, valid, FOUR)
    assert (found.label == -1).all()
    assert found.amplitude == 0.0
    layer = noise + np.where(np.arange(20)[:, None, None] < 12, 0.5 * FOUR[1], 0.0)
    found = segment_domains(layer, valid, FOUR, 0.05**2 * np.broadcast_to(np.eye(2), (20, 25, 2, 2)))
    np.testing.assert_array_equal(found.label, np.where(np.arange(20)[:, None] < 12, 1, -1) * np.ones((1, 25)))


def stepped(first, second, normal, offset=(0.0, 0.0), noise=3.0, seed=0):
    """Two domains (pm) and a sharp wall, an offset common to all cells, noise with its covariance; and the regions."""
    at = grid()
    side = (at @ np.asarray(normal, float) > 1.0)[..., None]
    values = np.where(side, second, first) + np.asarray(offset)
    values = values + noise * np.random.default_rng(seed).normal(size=at.shape)
    return at, values, np.broadcast_to(noise**2 * np.eye(2), (*at.shape, 2)), side[..., 0]


WALLS = {
    "180": ("100", (0.0, 10.0), (0.0, -10.0), (1.0, 0.0), ("180",)),
    "90": ("100", (10.0, 0.0), (0.0, 10.0), (0.7, -0.7), ("90",)),
    "71 or 109": ("111", (7.0, 7.0), (7.0, -7.0), (0.0, 1.0), ("71", "109")),
    "109 or 180": ("111", (7.0, 7.0), (-7.0, -7.0), (0.7, -0.7), ("109", "180")),
}


@pytest.mark.parametrize("offset", [(0, 8), (0, -20), (8, 0), (-8, 5), (14, -14)], ids=str)
@pytest.mark.parametrize("wall", WALLS)
def test_an_offset_common_to_all_cells_hides_no_wall(wall, offset):
    """Mis-tilt adds 8 pm to domains of ±10 pm: the wall, its kind and its charge stay, whatever the direction."""
    family, first, second, normal, kind = WALLS[wall]
    at, field, covariance, side = stepped(first, second, normal, offset)
    valid = np.ones(side.shape, bool)
    families = {name: projected_variants(name, PLANE) for name in ("100", "110", "111")}
    assert likeliest_family(field, valid, families, covariance, expected=family) == family
    domains = segment_domains(field, valid, families[family], covariance)
    (found,) = find_walls(domains, field, at, wall_kinds(family, PLANE))
    assert found.kind == kind
    same = (domains.region == domains.region[0, 0]) == (side == side[0, 0])
    assert same.mean() > 0.99
    plain = stepped(first, second, normal)[1]
    (expected,) = find_walls(domains._replace(offset=np.zeros(2)), plain, at, wall_kinds(family, PLANE))
    np.testing.assert_allclose(found.charge, expected.charge, atol=0.5)
    assert found.character == expected.character
    if wall == "180":
        np.testing.assert_allclose(domains.offset, offset, atol=0.5)
        np.testing.assert_allclose(domains.amplitude, 10.0, atol=0.5)


@pytest.mark.parametrize("offset", [(0, 0), (0, 8), (8, 0), (-14, 5)], ids=str)
@pytest.mark.parametrize("shape", [(1.0, 1.0), (3.0, 1.0)], ids=["round", "along x"])
def test_one_domain_under_an_offset_has_no_wall(offset, shape):
    """Scatter that is larger along one axis, which the covariances do not know, is no pair of domains either."""
    at = grid()
    generator = np.random.default_rng(3)
    field = np.array([0.0, 10.0]) + offset + 2.0 * np.asarray(shape) * generator.normal(size=at.shape)
    domains = segment_domains(field, np.ones(at.shape[:2], bool), FOUR)
    assert domains.region.max() == 0
    assert not domains.offset.any()
    assert find_walls(domains, field, at, wall_kinds("100", PLANE)) == ()


def test_four_domains_under_an_offset():
    field, truth, covariance = quarters(0.15)
    found = segment_domains(field + np.array([0.4, -0.3]), np.ones(truth.shape, bool), FOUR, covariance)
    assert (found.label == truth).mean() > 0.99
    np.testing.assert_allclose(found.offset, [0.4, -0.3], atol=0.02)
    np.testing.assert_allclose(found.amplitude, 0.5, atol=0.02)


def test_the_family_is_recognised():
    families = {name: projected_variants(name, PLANE) for name in ("100", "111")}
    field, truth, covariance = quarters(0.15)
    valid = np.ones(truth.shape, bool)
    assert likeliest_family(field, valid, families, covariance) == "100"
    c = np.sqrt(0.5)
    assert likeliest_family(field @ np.array([[c, c], [-c, c]]), valid, families, covariance) == "111"


def test_bad_input_of_the_segmentation():
    field, truth, _ = quarters()
    with pytest.raises(InputError, match="variants"):
        segment_domains(field, np.ones(truth.shape, bool), polar_variants("100"))
    with pytest.raises(InputError, match="no domain"):
        segment_domains(field, np.zeros(truth.shape, bool), FOUR)
    with pytest.raises(InputError, match="graph"):
        segment_domains(field[0], np.ones(40, bool), FOUR)


@pytest.mark.parametrize("flip", [1.0, -1.0])
@pytest.mark.parametrize(("half_width", "noise"), [(6.0, 0.0), (6.0, 0.03), (12.0, 0.03)])
def test_a_slanting_wall(half_width, noise, flip):
    """Position within 0.3 Å, normal within 2°, 2ξ, and (P₁ − P₂)·n of a 180° wall at 25°; with y up or down."""
    normal = np.array([np.cos(0.44), flip * np.sin(0.44)])
    up = np.array([0.0, -0.5 * flip])
    at, field = two_domains(normal, up, -up, half_width, 3.0, noise)
    domains = segment_domains(field, np.ones(at.shape[:2], bool), FOUR)
    (wall,) = find_walls(domains, field, at, wall_kinds("100", PLANE))
    sense = np.sign(wall.normal @ normal)
    assert wall.kind == ("180",)
    assert abs(wall.angle - 180) < 3
    assert wall.normal @ normal * sense > np.cos(np.radians(3.0))
    assert abs(np.mean(wall.position @ normal) - 3.0) < 0.5
    assert np.std(wall.position @ normal) < (0.1 if noise == 0 else 1.0)
    assert wall.resolved
    np.testing.assert_allclose(wall.width, 2 * half_width, rtol=0.08)
    expected = 2 * up @ normal
    np.testing.assert_allclose(wall.charge, expected, atol=0.03)
    assert wall.character == ("head-to-head" if expected > 0 else "tail-to-tail")
    opposite = segment_domains(-field, np.ones(at.shape[:2], bool), FOUR)
    (other,) = find_walls(opposite, -field, at, wall_kinds("100", PLANE))
    np.testing.assert_allclose(other.charge, -wall.charge, rtol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "along", "charge", "character"),
    [
        ((0.5, 0), (0, 0.5), (1, 1), 0.0, "neutral"),
        ((0.5, 0), (0, -0.5), (1, -1), 0.0, "neutral"),
        ((0.5, 0), (0, -0.5), (1, 1), 0.5**0.5, "head-to-head"),
        ((-0.5, 0), (0, 0.5), (1, 1), -(0.5**0.5), "tail-to-tail"),
    ],
)
def test_ninety_degree_walls_neutral_and_charged(first, second, along, charge, character):
    at, field = two_domains(np.array(along) / 2**0.5, first, second, 4.0)
    domains = segment_domains(field, np.ones(at.shape[:2], bool), FOUR)
    (wall,) = find_walls(domains, field, at, wall_kinds("100", PLANE))
    assert (wall.kind, wall.character) == (("90",), character)
    assert abs(wall.charge - charge) < min(3 * wall.charge_error, 0.04)


def test_a_round_domain_is_closed_and_its_width_is_the_local_one():
    at = grid(50, 50)
    r = np.linalg.norm(at, axis=-1)
    up = np.array([0.0, -0.5])
    field = up * np.tanh((r - 50.0) / 6.0)[..., None]
    domains = segment_domains(field, np.ones(r.shape, bool), FOUR)
    (wall,) = find_walls(domains, field, at, wall_kinds("100", PLANE))
    assert wall.character == "closed"
    assert np.isnan(wall.charge)
    np.testing.assert_allclose(np.linalg.norm(wall.position, axis=1), 50.0, atol=0.3)
    np.testing.assert_allclose(wall.width, 12.0, rtol=0.1)


def test_a_dead_core_does_not_part_the_wall():
    at, field = two_domains([1.0, 0.0], [0, 0.5], [0, -0.5], 9.0)
    domains = segment_domains(field, np.ones(at.shape[:2], bool), FOUR)
    assert (domains.label == -1).any()
    (wall,) = find_walls(domains, field, at, wall_kinds("100", PLANE))
    np.testing.assert_allclose(wall.width, 18.0, rtol=0.1)
    assert find_walls(domains, field, at, wall_kinds("100", PLANE), core=0) == ()


def test_errors_of_the_width_against_draws():
    generator = np.random.default_rng(0)
    distance = np.tile(np.arange(-20, 21, 4.0), 6) + 0.7
    found = [
        fit_profile(distance, np.tanh(distance / 5) + 0.1 * generator.normal(size=distance.shape), 4.0)
        for _ in range(60)
    ]
    width = np.array([f.width for f in found])
    np.testing.assert_allclose(width.mean(), 10.0, rtol=0.03)
    np.testing.assert_allclose(np.mean([f.error for f in found]), width.std(), rtol=0.3)
    sharp = fit_profile(distance, np.sign(distance), 4.0)
    assert not sharp.resolved
    assert not np.isfinite(fit_profile(distance[:4], distance[:4], 4.0).width)


@pytest.mark.study
def test_domains_of_a_map():
    """Two ⟨100⟩ domains put on the grid of a real analysis, turned by 15° like its lattice."""
    crystal = material("BaTiO3")
    image, _ = draw(turn=15.0)
    pmap = map_polarization(image, crystal)
    turn = np.asarray(pmap.calibration.rotation, float)
    left = np.arange(pmap.valid.shape[1])[None, :, None] < pmap.valid.shape[1] // 2
    shift = np.where(left, turn @ [0.0, 0.15], turn @ [0.0, -0.15])
    shift = shift + 0.01 * np.random.default_rng(0).normal(size=(len(shift), 1, 2))
    shift = jnp.where(pmap.valid[..., None], jnp.asarray(np.broadcast_to(shift, (*pmap.valid.shape, 2))), jnp.nan)
    assert pmap.response is not None
    pmap = eqx.tree_at(lambda m: (m.displacement, m.polarization), pmap, (shift, shift @ pmap.response.T))
    found = domain_map(pmap, crystal)
    assert found.family == "100"
    assert found.quantity == "polarization"
    assert found.domains.region.max() == 1
    (wall,) = found.walls
    assert wall.kind == ("180",)
    assert wall.character == "neutral"
    assert abs(wall.normal @ turn @ [1.0, 0.0]) > 0.99
    bare = eqx.tree_at(lambda m: (m.polarization, m.response), pmap, (None, None))
    assert domain_map(bare, crystal, family="100").quantity == "displacement"
    with pytest.raises(InputError, match="family"):
        domain_map(pmap, crystal, family="120")


STRUCTURES = [
    ("pto_polarization_reference/PTO-180DW", "100", "180", "neutral neutral"),
    ("pto_polarization_reference/PTO-HH-DW", "100", "180", "head-to-head tail-to-tail"),
    ("domain_wall_structures/PbTiO3_T90_supercell", "100", "90", "neutral neutral"),
    ("domain_wall_structures/PbTiO3_T180_supercell", "100", "180", "neutral neutral"),
    ("domain_wall_structures/BaTiO3_R71_supercell", "111", "71", "neutral neutral neutral neutral"),
    ("domain_wall_structures/BiFeO3_R71_supercell", "111", "71", "neutral neutral"),
    ("domain_wall_structures/BiFeO3_R109_supercell", "111", "109", "neutral neutral"),
    ("domain_wall_structures/BiFeO3_R180_supercell", "111", "180", "neutral neutral"),
]


@pytest.mark.study
@pytest.mark.parametrize(("name", "family", "kind", "characters"), STRUCTURES, ids=lambda v: v.split("/")[-1])
def test_walls_of_known_structures(reference_data, name, family, kind, characters):
    atoms = ase.io.read(reference_data / f"{name}.vasp")
    assert isinstance(atoms, ase.Atoms)
    atoms = atoms[distinct_atoms(atoms.get_positions(), np.asarray(atoms.cell))]
    assert isinstance(atoms, ase.Atoms)
    position, box, symbols = atoms.get_positions(), np.asarray(atoms.cell), atoms.get_chemical_symbols()
    labels = [SITE[s] for s in symbols]
    a, b = CHARGES[next(s for s in symbols if SITE[s] == "A")]
    charge = np.array([{"A": a, "B": b, "O": -(a + b) / 3}[name] for name in labels])
    cells = perovskite_cells(position, box, labels)
    field = np.asarray(cell_polarization(position, box, cells, charge), float)
    families = {each: polar_variants(each) @ cells.axes for each in ("100", "111")}
    assert likeliest_family(field, cells.complete, families) == family
    graph = structure_graph(cells)
    domains = segment_domains(field, cells.complete, families[family], graph=graph)
    walls = find_walls(
        domains, field, position[cells.b], wall_kinds(family), graph=graph, box=box, core=6, minimum_bonds=1
    )
    assert " ".join(sorted(wall.character for wall in walls)) == characters
    assert {wall.kind for wall in walls} == {(kind,)}
    if "HH" in name:
        charges = sorted(wall.charge for wall in walls)
        size = np.linalg.norm(field, axis=1).max()
        np.testing.assert_allclose(charges, [-2 * size, 2 * size], rtol=0.1)
        assert all(wall.resolved and 20 < wall.width < 50 for wall in walls)
