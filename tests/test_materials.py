"""The material library: what it holds, where it comes from, and the polarization that its entries imply."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrojax as fj
from ferrojax.crystal import (
    available_materials,
    column_components,
    displaced_supercell,
    mixed_crystal,
    polar_crystal,
    polarization_response,
    projected_motif,
)
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.polarization import born_polarization, polarization_from_displacement

POLAR = ["PbTiO3", "BaTiO3", "KNbO3", "K0.5Na0.5NbO3", "BiFeO3"]


def test_library_has_the_materials_asked_for():
    wanted = {"PbTiO3", "BaTiO3", "SrTiO3", "BiFeO3", "BiFeO3_R3c", "KNbO3", "NaNbO3", "K0.5Na0.5NbO3", "Cu3B7O13Cl"}
    assert wanted <= set(available_materials())


@pytest.mark.parametrize("name", available_materials())
def test_every_value_has_a_source(name):
    crystal = fj.material(name)
    sources = dict(crystal.sources)
    for field in ("cell_A", "thermal_rms_A", "soft_mode", "born_charges"):
        assert len(sources[field]) > 15, field
    for field, value in (("mode_charge", crystal.mode_charge), ("response_error", crystal.response_error)):
        assert (value is None) or len(sources[field]) > 15, field
    # What nobody measured is called assumed; everything else names a publication or the room-temperature cell.
    assert "Assumed" in sources["thermal_rms_A"] or "Square root" in sources["thermal_rms_A"]


@pytest.mark.parametrize("name", available_materials())
def test_library_crystals_are_sound(name):
    crystal = fj.material(name)
    assert set(crystal.label) == {"A", "B", "O"}
    volume = abs(np.linalg.det(np.asarray(crystal.cell, float)))
    whole = np.asarray(crystal.occupancy, float).sum()
    assert 7 < volume / whole < 14  # Å³ an atom
    fj.crystal.check_atoms(fj.oriented_supercell(crystal).atoms)
    if crystal.born_charge is not None:
        total = np.einsum("s,sij->ij", np.asarray(crystal.occupancy, float), np.asarray(crystal.born_charge, float))
        np.testing.assert_allclose(total, 0, atol=1e-5)
        rigid = born_polarization(crystal, jnp.broadcast_to(jnp.array([0.1, -0.2, 0.3]), (len(crystal.label), 3)))
        np.testing.assert_allclose(rigid, 0, atol=1e-5)


def test_shared_site_of_the_niobate():
    """K and Na share the A site: half an atom each, drawn at random into whole ones."""
    crystal = fj.material("K0.5Na0.5NbO3")
    motif = projected_motif(crystal)
    assert "".join(motif.label) == "ABOO"
    part = column_components(crystal, motif)[0]
    np.testing.assert_array_equal(part.number, [19, 11])
    np.testing.assert_allclose(part.density, 0.5 / 4.016, rtol=1e-5)
    field = np.broadcast_to(np.array([0.05, 0.0, 0.0]), (8, 8, 3))
    drawn = fj.draw_occupancy(displaced_supercell(crystal, field, depth=8), seed=1).present()
    counts = {z: drawn.number.count(z) for z in (8, 11, 19, 41)}
    assert counts[41] == 512
    assert counts[8] == 3 * 512
    assert counts[11] + counts[19] == 512
    assert abs(counts[11] - 256) < 4 * np.sqrt(128)


def test_boracite_has_the_space_group_of_its_relatives():
    """Every Pca2₁ operation maps the 96 sites onto themselves; each Cl sits in a cage of six Cu, off its centre."""
    crystal = fj.material("Cu3B7O13Cl")
    assert {s: crystal.elements.count(s) for s in ("Cu", "B", "O", "Cl")} == {"Cu": 12, "B": 28, "O": 52, "Cl": 4}
    position = np.asarray(crystal.position, float)
    for rotation, shift in [
        (np.diag([-1, -1, 1]), [0, 0, 0.5]),
        (np.diag([1, -1, 1]), [0.5, 0, 0]),
        (np.diag([-1, 1, 1]), [0.5, 0, 0.5]),
    ]:
        image = position @ rotation + np.array(shift)
        gap = image[:, None] - position[None]
        gap = np.linalg.norm((gap - np.round(gap)) @ np.asarray(crystal.cell, float), axis=-1)
        assert gap.min(1).max() < 0.01
        np.testing.assert_array_equal(np.array(crystal.number)[gap.argmin(1)], crystal.number)
    motif = projected_motif(crystal, (1, 0, 0))
    polar = motif.ideal_displacement[motif.sites("B")]
    assert all(len(motif.shells[k].weight) for k in motif.sites("B"))
    np.testing.assert_allclose(np.abs(polar @ motif.axes)[:, 2], 0.249, atol=2e-3)


@pytest.mark.parametrize(("name", "sign"), [("PbTiO3", -1), ("BiFeO3", -1), ("BaTiO3", 1), ("KNbO3", 1)])
def test_sign_of_polarization_against_the_b_displacement(name, sign):
    """Antiparallel where oxygen leads B (lead, bismuth), parallel where it moves against B."""
    crystal = fj.material(name)
    displacement = jnp.array([0.03, -0.05, 0.1])
    polarization = polarization_from_displacement(crystal, displacement)
    cosine = float(polarization @ displacement / jnp.linalg.norm(polarization) / jnp.linalg.norm(displacement))
    assert cosine * sign > 0.99


def test_conversion_says_what_it_rests_on():
    lead, bismuth = (polarization_response(fj.material(name)) for name in ("PbTiO3", "BiFeO3"))
    assert lead.kind == "born"
    assert "Zhong" in lead.source
    assert "Smidt" in lead.source
    assert bismuth.kind == "mode-effective"
    assert "Neaton" in bismuth.source
    for name in ("SrTiO3", "NaNbO3"):
        with pytest.raises(fj.InputError, match="has no soft mode and no mode charge"):
            polarization_response(fj.material(name))


def test_published_polarization_of_bismuth_ferrite():
    """0.4132 Å of Fe along [111] is 95 µC/cm², in the pseudo-cubic and in the hexagonal cell."""
    along = -0.4132 * np.ones(3) / np.sqrt(3)
    cubic = polarization_from_displacement(fj.material("BiFeO3"), jnp.asarray(along))
    np.testing.assert_allclose(np.asarray(cubic), 0.95 / np.sqrt(3), rtol=2e-3)
    hexagonal = polarization_from_displacement(fj.material("BiFeO3_R3c"), jnp.array([0, 0, -0.4132]))
    np.testing.assert_allclose(np.asarray(hexagonal), [0, 0, 0.95], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", POLAR[:4])
def test_born_response_is_charges_times_mode(name):
    crystal = fj.material(name)
    displacement = jnp.array([0.02, 0.04, -0.01])
    shift = jnp.einsum("sij,j->si", crystal.soft_mode, displacement)
    np.testing.assert_allclose(
        polarization_from_displacement(crystal, displacement), born_polarization(crystal, shift), rtol=1e-4
    )


@pytest.mark.parametrize("name", POLAR)
def test_polar_crystal_is_displaced_along_the_mode(name):
    """B against its A cage moves by what was asked for, oxygen by its mode, A not at all; strain only scales."""
    crystal = fj.material(name)
    displacement = np.array([0.03, -0.02, 0.08])
    strain = np.diag([0.0, 0.0, 0.04])
    for given in (None, strain):
        polar = polar_crystal(crystal, displacement, given)
        cell = np.asarray(polar.cell, float)
        np.testing.assert_allclose(cell, np.asarray(crystal.cell) @ (np.eye(3) + (0 if given is None else strain)))
        shift = (np.asarray(polar.position, float) - np.asarray(crystal.position, float)) @ cell
        expected = np.einsum("sij,j->si", np.asarray(crystal.soft_mode, float), displacement)
        np.testing.assert_allclose(shift, expected, atol=2e-6)
        np.testing.assert_allclose(shift[crystal.label.index("B")], displacement, atol=2e-6)
    motif = projected_motif(polar_crystal(crystal, displacement))
    np.testing.assert_allclose(motif.ideal_displacement[motif.label.index("B")], displacement[:2], atol=2e-5)


def test_polar_crystal_gradient_and_one_compilation():
    crystal = fj.material("PbTiO3")
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    traces = []

    @eqx.filter_jit
    def total(displacement):
        traces.append(1)
        return (weight * polar_crystal(crystal, displacement).position).sum()

    start, step = jnp.array([0.05, 0.0, -0.03]), 0.02
    gradient = jax.grad(total)(start)
    for i in range(3):
        move = step * jnp.eye(3)[i]
        finite = (total(start + move) - total(start - move)) / (2 * step)
        np.testing.assert_allclose(gradient[i], finite, rtol=2e-3, atol=1e-4)
    before = len(traces)
    total(2 * start)
    assert len(traces) == before


@pytest.mark.parametrize("name", [*POLAR, "BiFeO3_R3c", "Cu3B7O13Cl"])
def test_polarization_is_linear_in_the_displacement(name):
    """The gradient is the response, by differences too; a second call of the same shape compiles nothing."""
    crystal = fj.material(name)
    tensor = polarization_response(crystal).tensor
    traces = []

    @jax.jit
    def polarization(displacement):
        traces.append(1)
        return polarization_from_displacement(crystal, displacement)

    start = jnp.array([0.02, -0.05, 0.04])
    np.testing.assert_allclose(jax.jacobian(polarization)(start), tensor, rtol=1e-6)
    before = len(traces)
    difference = (polarization(start + 0.05) - polarization(start - 0.05)) / 0.1
    np.testing.assert_allclose(difference, tensor.sum(1), rtol=1e-3, atol=1e-5)
    assert len(traces) <= before + 1


def test_non_polar_crystal_is_not_displaced():
    with pytest.raises(fj.InputError, match="crystal: has no soft mode to displace along"):
        polar_crystal(fj.material("SrTiO3"), np.array([0.1, 0, 0]))


@pytest.mark.parametrize("guest", ["Sm", "La"])
def test_random_substitution_has_the_mean_and_the_variance_of_independent_sites(guest):
    """Counts over seeds follow the binomial law, and neighbouring sites are drawn on their own."""
    atoms = fj.oriented_supercell(fj.material("BiFeO3"), repeats=(6, 6, 6)).atoms
    sites, share, seeds = 6**3, 0.13, 400
    z = SYMBOLS.index(guest)
    mixed = [fj.substitute(atoms, {"Bi": {guest: share}}, seed) for seed in range(seeds)]
    there = np.array(mixed[0].number) == z
    drawn = np.array([np.asarray(one.occupancy)[there] == 1 for one in mixed])
    count = drawn.sum(1)
    variance = sites * share * (1 - share)
    assert abs(count.mean() - sites * share) < 4 * np.sqrt(variance / seeds)
    # The variance of a variance over n draws is 2/(n − 1) of its square.
    assert abs(count.var(ddof=1) / variance - 1) < 4 * np.sqrt(2 / (seeds - 1))
    pairs = (drawn[:, ::2] & drawn[:, 1::2]).mean()
    assert abs(pairs - share**2) < 4 * np.sqrt(share**2 / (seeds * sites / 2))


def test_mixed_crystal_is_the_average_of_its_realisations():
    crystal = fj.material("BiFeO3")
    mixed = mixed_crystal(crystal, {"Bi": {"Sm": 0.2}})
    shares = dict(zip(mixed.elements[:2], np.asarray(mixed.occupancy)[:2].tolist(), strict=True))
    assert shares == pytest.approx({"Bi": 0.8, "Sm": 0.2})
    whole, average = projected_motif(crystal), projected_motif(mixed)
    assert average.label == whole.label
    brightness = 0.8 + 0.2 * (62 / 83) ** 1.7
    np.testing.assert_allclose(average.strength[0], brightness * whole.strength[0], rtol=1e-5)
    np.testing.assert_allclose(average.strength[1:], whole.strength[1:], rtol=1e-5)
    np.testing.assert_allclose(polarization_response(mixed).tensor, polarization_response(crystal).tensor, rtol=1e-6)
    for bad, message in [({"Pb": {"Sm": 0.1}}, "is not in the specimen"), ({"Bi": {"Sm": 1.2}}, "sum to at most 1")]:
        with pytest.raises(fj.InputError, match=message):
            mixed_crystal(crystal, bad)
