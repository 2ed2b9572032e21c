"""Crystals from CIF and POSCAR: symmetry, shared sites, labels, and files that lie."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

import ferrojax as fj
from ferrojax.crystal import projected_motif

CIF = """data_x
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {gamma}
_symmetry_space_group_name_H-M '{group}'
{extra}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_occupancy
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{column}
{sites}
"""
STRONTIUM_TITANATE = ["Sr1 Sr 1 0 0 0", "Ti1 Ti 1 0.5 0.5 0.5", "O1 O 1 0.5 0.5 0"]


def cif(folder, sites, a=3.905, c=None, group="P m -3 m", gamma=90, extra="", column=""):
    path = folder / "x.cif"
    text = CIF.format(a=a, c=c or a, group=group, gamma=gamma, extra=extra, column=column, sites="\n".join(sites))
    path.write_text("\n".join(line for line in text.splitlines() if line.strip()) + "\n")
    return path


def test_symmetry_is_expanded_and_labels_are_inferred(tmp_path):
    crystal = fj.Crystal.from_file(cif(tmp_path, STRONTIUM_TITANATE))
    assert crystal.name == "SrTiO3"
    assert dict(zip(crystal.elements, crystal.label, strict=True)) == {"Sr": "A", "Ti": "B", "O": "O"}
    assert crystal.elements.count("O") == 3
    own, library = (projected_motif(c, (1, 1, 0)) for c in (crystal, fj.material("SrTiO3")))
    assert own.label == library.label
    np.testing.assert_allclose(own.strength, library.strength, rtol=1e-5)
    np.testing.assert_allclose(own.lattice, library.lattice, rtol=1e-5)
    assert crystal.born_charge is None
    assert crystal.soft_mode is None
    assert "Assumed" in dict(crystal.sources)["thermal_rms_A"]


@pytest.mark.parametrize(("tag", "factor"), [("_atom_site_U_iso_or_equiv", 1.0), ("_atom_site_B_iso_or_equiv", 78.957)])
def test_thermal_motion_of_the_file(tmp_path, tag, factor):
    square = {"Sr": 0.00787, "Ti": 0.00557, "O": 0.009275}
    sites = [f"{site} {square[site.split()[1]] * factor:.7f}" for site in STRONTIUM_TITANATE]
    crystal = fj.Crystal.from_file(cif(tmp_path, sites, column=tag))
    expected = [np.sqrt(square[symbol]) for symbol in crystal.elements]
    np.testing.assert_allclose(crystal.thermal_rms, expected, rtol=1e-4)
    given = fj.Crystal.from_file(cif(tmp_path, sites, column=tag), thermal_rms={"Sr": 0.1, "Ti": 0.2, "O": 0.3})
    np.testing.assert_allclose(np.unique(given.thermal_rms), [0.1, 0.2, 0.3], rtol=1e-6)


def test_shared_site_keeps_both_species(tmp_path):
    sites = ["K1 K 0.6 0 0 0", "Na1 Na 0.4 0 0 0", "Nb1 Nb 1 0.5 0.5 0.5", "O1 O 1 0.5 0.5 0"]
    crystal = fj.Crystal.from_file(cif(tmp_path, sites, a=3.99))
    shares = dict(zip(crystal.elements, np.asarray(crystal.occupancy).tolist(), strict=True))
    assert shares == pytest.approx({"K": 0.6, "Na": 0.4, "Nb": 1.0, "O": 1.0})
    assert crystal.name == "K0.6Na0.4NbO3"
    assert [crystal.label[crystal.elements.index(s)] for s in ("K", "Na", "Nb")] == ["A", "A", "B"]
    atoms = fj.oriented_supercell(crystal, (1, 1, 0), repeats=(8, 8, 8)).atoms
    counts = {z: fj.draw_occupancy(atoms, seed=0).present().number.count(z) for z in (11, 19)}
    assert sum(counts.values()) == atoms.number.count(41)
    assert abs(counts[19] / sum(counts.values()) - 0.6) < 4 * np.sqrt(0.24 / sum(counts.values()))


def test_formula_line_that_lies_is_told(tmp_path):
    path = cif(tmp_path, STRONTIUM_TITANATE, extra="_chemical_formula_sum 'Ba1 Ti1 O3'")
    with pytest.warns(UserWarning, match="formula line says Ba1 Ti1 O3, the sites are SrTiO3"):
        crystal = fj.Crystal.from_file(path)
    assert "Ba1 Ti1 O3" in dict(crystal.sources)["sites"]
    fj.Crystal.from_file(cif(tmp_path, STRONTIUM_TITANATE, extra="_chemical_formula_sum 'O3 Sr Ti'"))


def test_niobate_relaxor_file(reference_data):
    """Wrong formula line and swapped occupancies: the first is told, the second put right by the caller."""
    path = reference_data / "pmn110_idpc" / "PMN_average_cubic.cif"
    with pytest.warns(UserWarning, match="formula line says Ba1 Ti1 O3"):
        crystal = fj.Crystal.from_file(path, occupancy={"Mg": 1 / 3, "Nb": 2 / 3})
    shares = dict(zip(crystal.elements, np.asarray(crystal.occupancy).tolist(), strict=True))
    assert shares == pytest.approx({"Pb": 1, "Mg": 1 / 3, "Nb": 2 / 3, "O": 1})
    motif = projected_motif(crystal, (1, 1, 0))
    assert "".join(motif.label) == "ABO"
    mixed = (12**1.7 / 3 + 41**1.7 * 2 / 3) / np.linalg.norm([3.929395, 3.929395])
    np.testing.assert_allclose(motif.strength[1], mixed, rtol=1e-4)


def test_wurtzite_file(reference_data):
    """Symmetry of P6₃mc expanded; one cation, so Zn is A; labels turn oxygen into the site that is displaced."""
    path = reference_data / "zno_idpc_ddpc" / "ZnO.cif"
    crystal = fj.Crystal.from_file(path)
    assert sorted(crystal.elements) == ["O", "O", "Zn", "Zn"]
    assert set(zip(crystal.elements, crystal.label, strict=True)) == {("Zn", "A"), ("O", "O")}
    polar = fj.Crystal.from_file(path, labels={"Zn": "A", "O": "B"})
    motif = projected_motif(polar, (1, 1, 0))
    assert len(motif.shells[motif.label.index("B")].weight) == 3


def test_measured_cell_replaces_that_of_the_file(reference_data):
    """ZnO.cif has a = 3.351 Å; the images of the same set fit 3.25 and 5.207 Å, d(1-100)/d(0002) = 1.081."""
    wrong = fj.Crystal.from_file(reference_data / "zno_idpc_ddpc" / "ZnO.cif")
    crystal = wrong.with_lengths(3.25, 3.25, 5.207)
    lattice = projected_motif(crystal, (1, 1, 0)).lattice
    assert np.linalg.norm(lattice[0]) / (np.linalg.norm(lattice[1]) / 2) == pytest.approx(1.081, abs=1e-3)
    np.testing.assert_array_equal(crystal.position, wrong.position)
    assert "Rescaled to 3.25, 3.25, 5.207" in dict(crystal.sources)["cell_A"]
    with pytest.raises(fj.InputError, match="lengths: must be positive"):
        wrong.with_lengths(3.25, 0.0, 5.2)


def test_wall_file_with_atoms_twice_is_refused(reference_data):
    """The file lists some atoms twice, 0.04 Å apart: 52 where 40 fit."""
    with pytest.raises(fj.InputError, match=r"less than 0.3 Å apart"):
        fj.Crystal.from_file(reference_data / "domain_wall_structures" / "PbTiO3_T180_supercell.vasp")


def test_dft_boracite_is_the_librarys_cell_with_another_metal(reference_data):
    path = reference_data / "ferroelectric_structures_dft" / "Mg3B7O13Cl_sg29_mp-23087_polar.cif"
    with pytest.raises(fj.InputError, match=r"labels: cannot be inferred.*give labels"):
        fj.Crystal.from_file(path)
    own = fj.Crystal.from_file(path, labels={"Mg": "A", "Cl": "B", "B": "O", "O": "O"})
    library = fj.material("Cu3B7O13Cl")
    np.testing.assert_allclose(own.cell, library.cell, atol=1e-4)
    for symbol, other in [("Mg", "Cu"), ("Cl", "Cl"), ("O", "O"), ("B", "B")]:
        one = np.asarray(own.position)[[e == symbol for e in own.elements]]
        two = np.asarray(library.position)[[e == other for e in library.elements]]
        gap = one[:, None] - two
        assert np.linalg.norm(gap - np.round(gap), axis=-1).min(1).max() < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "ferroelectric_structures_dft/BiFeO3_sg161_mp-24932_polar.cif",
        "ferroelectric_structures_dft/LiNbO3_sg161_mp-3731_polar.cif",
        "ferroelectric_structures_dft/NaNbO3_sg29_mp-558920_polar.cif",
        "domain_wall_structures/BiFeO3_R3c.vasp",
        "pto_polarization_reference/PTO-T.vasp",
    ],
)
def test_distorted_perovskites_are_recognised(reference_data, name):
    crystal = fj.Crystal.from_file(reference_data / name)
    label = dict(zip(crystal.elements, crystal.label, strict=True))
    a, b = {"Bi": "Fe", "Li": "Nb", "Na": "Nb", "Pb": "Ti"}, {"Fe", "Nb", "Ti"}
    assert {name for name, site in label.items() if site == "A"} <= set(a)
    assert {name for name, site in label.items() if site == "B"} <= b
    assert crystal.label.count("A") == crystal.label.count("B") == crystal.label.count("O") / 3


def test_polar_file_shows_its_displacement(reference_data):
    """PBE's tetragonal PbTiO3: Ti 0.229 Å off the centre of its Pb cage, against c."""
    path = reference_data / "ferroelectric_structures_dft" / "PbTiO3_sg99_mp-20459_polar.cif"
    motif = projected_motif(fj.Crystal.from_file(path), (1, 0, 0))
    displacement = motif.ideal_displacement[motif.label.index("B")] @ motif.axes
    np.testing.assert_allclose(displacement, [0, 0, -0.229], atol=1e-3)


def test_charges_and_mode_may_be_given(tmp_path):
    path = cif(tmp_path, STRONTIUM_TITANATE)
    charge = {"Sr": 2.5, "Ti": 7.0, "O": -3.1}
    crystal = fj.Crystal.from_file(path, born_charge=charge, soft_mode={"Sr": 0.0, "Ti": 1.0, "O": -1.5}, name="mine")
    assert crystal.name == "mine"
    np.testing.assert_allclose(np.asarray(crystal.born_charge).sum(0), 0, atol=1e-5)
    response = fj.crystal.polarization_response(crystal)
    assert response.kind == "born"
    expected = 16.0218 * (7.0 - 1.5 * -3.1 * 3 - 0.04 * (1.0 - 4.5)) / 3.905**3
    np.testing.assert_allclose(response.tensor, expected * np.eye(3), rtol=1e-3, atol=1e-5)


def test_poscar_and_larger_cells(tmp_path):
    """A supercell written as POSCAR projects as the cell it was made of."""
    cell = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    write(tmp_path / "POSCAR", cell * (2, 1, 1), format="vasp")
    write(tmp_path / "CONTCAR.vasp", cell, format="vasp")
    large, small = (fj.Crystal.from_file(tmp_path / name) for name in ("POSCAR", "CONTCAR.vasp"))
    assert small.name == "NaCl"
    one, two = projected_motif(small, (0, 0, 1)), projected_motif(large, (0, 0, 1))
    assert one.label == two.label
    np.testing.assert_allclose(np.linalg.det(one.lattice), np.linalg.det(two.lattice), rtol=1e-5)


def test_bad_files_end_in_one_line(tmp_path):
    good = cif(tmp_path, STRONTIUM_TITANATE)
    text = good.read_text()
    (tmp_path / "rounded.cif").write_text(
        CIF.format(
            a=3.25,
            c=5.2,
            gamma=120,
            group="P 63 m c",
            extra="",
            column="",
            sites="Zn1 Zn 1 0.33 0.67 0\nO1 O 1 0.33 0.67 0.38",
        )
    )
    (tmp_path / "full.cif").write_text(text.replace("Ti1 Ti 1 0.5", "Nb1 Nb 0.7 0.5 0.5 0.5\nTi1 Ti 0.7 0.5"))
    (tmp_path / "noise.cif").write_text("data_x\nnothing of use\n")
    (tmp_path / "no_cell.xyz").write_text("1\n\nSi 0 0 0\n")
    (tmp_path / "notes.txt").write_text("no structure")
    (tmp_path / "two.cif").write_text(text + text.replace("data_x", "data_y"))
    spinel = ["Mg1 Mg 1 0.125 0.125 0.125", "Al1 Al 1 0.5 0.5 0.5", "O1 O 1 0.2624 0.2624 0.2624"]
    cif(tmp_path, spinel, a=8.08, group="F d -3 m:2").rename(tmp_path / "spinel.cif")
    cif(tmp_path, STRONTIUM_TITANATE)
    for name, options, message in [
        ("missing.cif", {}, "structure file: does not exist"),
        ("noise.cif", {}, "structure file: "),
        ("notes.txt", {}, "structure file: "),
        ("no_cell.xyz", {}, "cell: has no volume"),
        ("rounded.cif", {}, "less than 0.3 Å apart.*more digits"),
        ("full.cif", {}, "occupancy: is the sum at a site"),
        ("two.cif", {}, "holds 2 structures.*index=0"),
        ("two.cif", {"index": 2}, "index: is not among the 2 structures"),
        ("spinel.cif", {}, "labels: cannot be inferred"),
        ("x.cif", {"labels": {"Sr": "A", "Ti": "B"}}, "labels: lacks O"),
        ("x.cif", {"labels": {"Sr": "A", "Ti": "B", "O": "X"}}, "labels: is no site label"),
        ("x.cif", {"labels": {"Sr": "B", "Ti": "B", "O": "O"}}, "labels: has no A site"),
        ("x.cif", {"thermal_rms": {"Sr": 0.1}}, "thermal_rms: lacks O, Ti"),
        ("x.cif", {"occupancy": {"Ba": 0.5}}, "occupancy: is not in the file"),
        ("x.cif", {"occupancy": {"Ti": 1.5}}, "occupancy: of Ti must lie"),
        ("x.cif", {"born_charge": np.zeros((2, 3, 3))}, "born_charge: needs shape"),
    ]:
        with pytest.raises(fj.InputError, match=message) as caught:
            fj.Crystal.from_file(tmp_path / name, **options)
        assert "\n" not in str(caught.value)
    assert fj.Crystal.from_file(tmp_path / "two.cif", index=1).name == "SrTiO3"


def test_a_specimen_from_a_file_that_names_its_setting(tmp_path):
    """Diamond in the second origin, named without operations: 8 atoms 2.35 Å apart."""
    path = tmp_path / "silicon.cif"
    path.write_text(
        "data_Si\n_cell_length_a 5.43\n_cell_length_b 5.43\n_cell_length_c 5.43\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\n_space_group_name_H-M_alt 'F d -3 m :2'\n"
        "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nSi 0.125 0.125 0.125\n"
    )
    atoms = fj.Atoms.from_file(path, thermal_rms={"Si": 0.08})
    assert atoms.number == (14,) * 8
    assert atoms.box == pytest.approx((5.43, 5.43, 5.43))
    gap = np.asarray(atoms.position)[:, None] - np.asarray(atoms.position)
    gap = np.linalg.norm(gap - 5.43 * np.round(gap / 5.43), axis=-1)
    assert gap[gap > 0].min() == pytest.approx(5.43 * 3**0.5 / 4, abs=1e-3)
    np.testing.assert_allclose(atoms.thermal_rms, 0.08)
    path.write_text(path.read_text().replace("_cell_angle_gamma 90", "_cell_angle_gamma 100"))
    with pytest.raises(fj.InputError, match=r"cell|space group|setting"):
        fj.Atoms.from_file(path)


def test_shares_that_are_rounded_fill_a_site(tmp_path):
    """A refinement's 0.667(2) and 0.335(2) are one atom; 0.7 and 0.7 are a mistake."""
    strontium, _, oxygen = STRONTIUM_TITANATE
    file = cif(tmp_path, [strontium, "Ti1 Ti 0.667 0.5 0.5 0.5", "Nb1 Nb 0.335 0.5 0.5 0.5", oxygen])
    found = fj.Crystal.from_file(file, labels={"Sr": "A", "Ti": "B", "Nb": "B", "O": "O"})
    share = {int(z): float(w) for z, w in zip(found.number, np.asarray(found.occupancy), strict=True)}
    np.testing.assert_allclose([share[22], share[41]], [0.667 / 1.002, 0.335 / 1.002], rtol=1e-6)
