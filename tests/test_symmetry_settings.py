"""CIFs as people have them: settings of space groups, two valences on a site, partial thermal factors, spellings.

Counts of atoms are those of the compounds (BiFeO3: two formula units in rhombohedral axes, six in hexagonal ones).
"""

import numpy as np
import pytest

import ferrojax as fj
from ferrojax.crystal.files import read_structure
from ferrojax.crystal.formula import amounts, relation, stated_amounts
from ferrojax.crystal.soundness import tightest

FRACTIONS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
CUBE = (3.905,) * 3 + (90,) * 3
STRONTIUM_TITANATE = ["Sr1 Sr 0 0 0", "Ti1 Ti .5 .5 .5", "O1 O .5 .5 0"]
RHOMBOHEDRAL, HEXAGONAL = (5.634,) * 3 + (59.35,) * 3, (5.578, 5.578, 13.867, 90, 90, 120)
BISMUTH_FERRITE = ["Bi Bi 0 0 0", "Fe Fe 0.2208 0.2208 0.2208", "O O 0.5380 0.9330 0.3950"]
HEXAGONAL_FERRITE = ["Bi Bi 0 0 0", "Fe Fe 0 0 0.2208", "O O 0.443 0.012 0.9543"]
SPINEL = ["Mg Mg .125 .125 .125", "Al Al .5 .5 .5", "O O .2624 .2624 .2624"]
ORTHOFERRITE = ["Gd Gd -.0163 .0599 .25", "Fe Fe 0 .5 0", "O1 O .1009 .467 .25", "O2 O .6957 .3016 .0506"]
ORTHORHOMBIC = (5.349, 5.611, 7.669, 90, 90, 90)
NAME, NUMBER = "_symmetry_space_group_name_H-M '{}'", "_space_group_IT_number {}"
ANISO = "\n".join(f"_atom_site_aniso_U_{pair}" for pair in ("11", "22", "33", "12", "13", "23"))


@pytest.fixture
def cif(tmp_path):
    """Writes a CIF from its parts."""

    def write(cell, rows, head="", columns=FRACTIONS, tail="", operations=()):
        names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
        lines = ["data_case", *(f"_cell_{n} {v}" for n, v in zip(names, cell, strict=True)), head]
        if operations:
            lines += ["loop_", "_space_group_symop_operation_xyz", *operations]
        lines += ["loop_", *(f"_atom_site_{c}" for c in columns), *rows, tail]
        path = tmp_path / "case.cif"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def content(path, **options):
    structure = read_structure(path, **options)
    return amounts(structure.elements, structure.share)


@pytest.mark.parametrize(
    "name", ["R 3 c :R", "R3c:R", "R 3 c R", "R 3 c", "R3c", "R 3 c (No. 161)", "R 3 c rhombohedral axes", "R_3_c", ""]
)
@pytest.mark.parametrize("number", [161, None])
def test_rhombohedral_axes(cif, name, number):
    """The first setting that a name could have, hexagonal axes, made 42 atoms of these 10."""
    if not name and number is None:
        name = "H 3 c"  # the cell says that it is not
    head = "\n".join([NAME.format(name) if name else "", NUMBER.format(number) if number else ""])
    assert content(cif(RHOMBOHEDRAL, BISMUTH_FERRITE, head)) == {"Bi": 2, "Fe": 2, "O": 6}
    assert content(cif(HEXAGONAL, HEXAGONAL_FERRITE, head)) == {"Bi": 6, "Fe": 6, "O": 18}


@pytest.mark.parametrize(
    "name", ["F d -3 m :2", "Fd-3m:2", "F d -3 m Z", "Fd-3mZ", "F d -3 m (origin choice 2)", "F d -3 m", "Fd3m", ""]
)
def test_second_origin(cif, name):
    """A spinel: the name chooses the origin, or the distances do where it leaves it open."""
    head = NAME.format(name) if name else NUMBER.format(227)
    assert content(cif((8.08,) * 3 + (90,) * 3, SPINEL, head)) == {"Mg": 8, "Al": 16, "O": 32}


def test_the_other_origin_is_refused_where_it_is_named(cif):
    path = cif((8.08,) * 3 + (90,) * 3, SPINEL, NAME.format("F d -3 m :1"))
    with pytest.raises(fj.InputError, match=r"less than 0\.3 Å apart.*if F d -3 m:1 is not the setting"):
        read_structure(path)


@pytest.mark.parametrize(("place", "setting"), [("0 0 0", "F d -3 m:1"), (".125 .125 .125", "F d -3 m:2")])
def test_silicon_at_either_origin(cif, place, setting):
    """Both origins give a thinkable crystal; bonds of 2.35 Å stand before bonds of 1.92 Å."""
    structure = read_structure(cif((5.431,) * 3 + (90,) * 3, [f"Si Si {place}"], NUMBER.format(227)))
    assert len(structure.number) == 8
    assert structure.notes == (f"Symmetry: {setting}.",)
    contact = tightest(structure)
    assert contact is not None
    assert contact.distance == pytest.approx(5.431 * np.sqrt(3) / 4, rel=1e-6)


@pytest.mark.parametrize("name", ["P b n m", "Pbnm", "P_b_n_m"])
def test_names_of_permuted_axes(cif, name):
    expected = {"Gd": 4, "Fe": 4, "O": 12}
    assert content(cif(ORTHORHOMBIC, ORTHOFERRITE, NAME.format(name))) == expected
    a, b, c = ORTHORHOMBIC[:3]
    turned = [f"{s} {t} {y} {z} {x}" for s, t, x, y, z in (row.split() for row in ORTHOFERRITE)]
    assert content(cif((b, c, a, 90, 90, 90), turned, NAME.format("P n m a"))) == expected
    with pytest.raises(fj.InputError, match=r"apart.*if P n m a is not the setting"):
        read_structure(cif(ORTHORHOMBIC, ORTHOFERRITE, NAME.format("P n m a")))


def test_a_number_in_another_setting_is_refused_where_nothing_tells_which(cif):
    head = NUMBER.format(62) + "\n_chemical_formula_sum 'Fe Gd O3'"
    with pytest.raises(fj.InputError, match=r"symmetry: of case\.cif can be read in 2 ways.*P b n m.*P n a m"):
        read_structure(cif(ORTHORHOMBIC, ORTHOFERRITE, head))


def test_operations_and_name_that_contradict_each_other(cif):
    """Only the identity listed beside R3c: the formula decides; without it nothing does."""
    head = NAME.format("R 3 c :R")
    path = cif(RHOMBOHEDRAL, BISMUTH_FERRITE, head + "\n_chemical_formula_sum 'Bi Fe O3'", operations=["x,y,z"])
    assert content(path) == {"Bi": 2, "Fe": 2, "O": 6}
    with pytest.raises(fj.InputError, match=r"can be read in 2 ways.*BiFeO, 3 atoms; R 3 c:R: BiFeO3, 10 atoms"):
        read_structure(cif(RHOMBOHEDRAL, BISMUTH_FERRITE, head, operations=["x,y,z"]))
    salt = cif(
        (5.64,) * 3 + (90,) * 3, ["Na Na 0 0 0", "Cl Cl .5 .5 .5"], NAME.format("F m -3 m"), operations=["x,y,z"]
    )
    assert content(salt) == {"Na": 4, "Cl": 4}
    full = [*STRONTIUM_TITANATE, "O2 O .5 0 .5", "O3 O 0 .5 .5"]
    with pytest.warns(UserWarning, match="O2, O3 repeat sites"):
        assert content(cif(CUBE, full, NUMBER.format(221))) == {"Sr": 1, "Ti": 1, "O": 3}


@pytest.mark.parametrize(
    "operations",
    [
        ["x,y,z", "'-y, x, z'", "-X,-Y,-Z", "z,x,y"],  # generators
        ["x, y, z", "-y, x, z", "-x, -y, -z", "z, x, y"],  # blanks without quotes
        ["'1 x,y,z'", "'2 -y,x,z'", "'3 -x,-y,-z'", "'4 z,x,y'"],
    ],
)
def test_operations_as_people_write_them(cif, operations):
    assert content(cif(CUBE, STRONTIUM_TITANATE, operations=operations)) == {"Sr": 1, "Ti": 1, "O": 3}


def test_hall_symbol_and_magnetic_operations(cif):
    head = "_space_group_name_Hall 'P 3* -2n'"
    assert content(cif(RHOMBOHEDRAL, BISMUTH_FERRITE, head)) == {"Bi": 2, "Fe": 2, "O": 6}
    loop = "loop_\n_space_group_symop_magn_operation_xyz\nx,y,z,+1\n-y,x,z,-1\n-x,-y,-z,+1\nz,x,y,+1"
    assert content(cif(CUBE, STRONTIUM_TITANATE, tail=loop)) == {"Sr": 1, "Ti": 1, "O": 3}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (NAME.format("F 4 m m"), "symmetry: is no space group that is known.*give the symmetry operations"),
        (NUMBER.format(0), "symmetry: is no number of a space group"),
        (NAME.format("P 63 m c"), "symmetry: asks for equal sides or angles"),
        (NUMBER.format(221) + "\n_chemical_formula_sum 'Sr Ti O2'", "formula line Sr Ti O2, but its sites make SrTiO3"),
    ],
)
def test_symmetry_that_cannot_be(cif, head, message):
    with pytest.raises(fj.InputError, match=message):
        read_structure(cif(CUBE, STRONTIUM_TITANATE, head))


def test_no_symmetry_stated_is_told(cif):
    with pytest.warns(UserWarning, match="states no symmetry"):
        assert content(cif(CUBE, STRONTIUM_TITANATE)) == {"Sr": 1, "Ti": 1, "O": 1}


def test_two_valences_share_a_site(cif):
    columns = (*FRACTIONS, "occupancy", "U_iso_or_equiv")
    rows = ["La La3+ 0 0 0 .7 .008", "Sr Sr2+ 0 0 0 .3 .008", "Mn1 Mn3+ .5 .5 .5 .7 .004", "Mn2 Mn4+ .5 .5 .5 .3 .006"]
    path = cif((3.88,) * 3 + (90,) * 3, [*rows, "O O2- .5 .5 0 1 .01"], NUMBER.format(221), columns=columns)
    crystal = fj.Crystal.from_file(path)
    assert crystal.name == "La0.7Sr0.3MnO3"
    shares = dict(zip(crystal.elements, np.asarray(crystal.occupancy).tolist(), strict=True))
    assert shares == pytest.approx({"La": 0.7, "Sr": 0.3, "Mn": 1, "O": 1})
    assert crystal.thermal_rms[crystal.elements.index("Mn")] == pytest.approx(np.sqrt(0.7 * 0.004 + 0.3 * 0.006))
    assert content(path, occupancy={"Mn": 0.9})["Mn"] == pytest.approx(0.9)
    path.write_text(path.read_text().replace(".5 .5 .5 .3", ".5 .5 .5 .7"))
    with pytest.raises(fj.InputError, match=r"occupancy: is the sum at a site in case\.cif \(got 1\.4\)"):
        read_structure(path)


@pytest.mark.parametrize("share", ["?", ".", "1.00(2)"])
def test_occupancy_that_is_not_known(cif, share):
    rows = [f"{row} {share}" for row in STRONTIUM_TITANATE]
    structure = read_structure(cif(CUBE, rows, NUMBER.format(221), columns=(*FRACTIONS, "occupancy")))
    np.testing.assert_array_equal(structure.share, 1.0)
    assert any("Occupancy unknown, taken as 1: Sr1, Ti1, O1" in note for note in structure.notes) == (share == "?")


def test_thermal_tensors_are_used_and_what_lacks_is_told(cif):
    """U_eq of orthogonal axes is the mean of the diagonal; of hexagonal ones with U12 = U11/2, too."""
    loop = f"loop_\n_atom_site_aniso_label\n{ANISO}\nSr1 .0079 .0079 .0079 0 0 0\nO1 .0112 .0112 .0056(3) 0 0 0"
    crystal = fj.Crystal.from_file(cif(CUBE, STRONTIUM_TITANATE, NUMBER.format(221), tail=loop))
    rms = dict(zip(crystal.elements, np.asarray(crystal.thermal_rms).tolist(), strict=True))
    assert rms == pytest.approx({"Sr": np.sqrt(0.0079), "Ti": 0.085, "O": np.sqrt(0.028 / 3)}, rel=1e-5)
    assert "Assumed, 0.085 Å, for Ti1" in dict(crystal.sources)["thermal_rms_A"]
    loop = f"loop_\n_atom_site_aniso_label\n{ANISO}\nZn1 .01 .01 .02 .005 0 0\nO1 .01 .01 .01 .005 0 0"
    rows = ["Zn1 Zn .33333 .66667 0", "O1 O .33333 .66667 .38"]
    path = cif((3.25, 3.25, 5.2, 90, 90, 120), rows, NAME.format("P 63 m c"), tail=loop)
    rms = dict(zip((c := fj.Crystal.from_file(path)).elements, np.asarray(c.thermal_rms).tolist(), strict=True))
    assert rms == pytest.approx({"Zn": np.sqrt(0.04 / 3), "O": 0.1}, rel=1e-5)


@pytest.mark.parametrize(("tag", "factor"), [("U_iso_or_equiv", 1.0), ("B_iso_or_equiv", 8 * np.pi**2)])
@pytest.mark.parametrize("missing", ["?", ".", "0.0"])
def test_one_thermal_figure_missing(cif, tag, factor, missing):
    figures = (f"{0.0079 * factor:.6f}", missing, f"{0.009 * factor:.6f}(4)")
    rows = [f"{row} {figure}" for row, figure in zip(STRONTIUM_TITANATE, figures, strict=True)]
    crystal = fj.Crystal.from_file(cif(CUBE, rows, NUMBER.format(221), columns=(*FRACTIONS, tag)))
    rms = dict(zip(crystal.elements, np.asarray(crystal.thermal_rms).tolist(), strict=True))
    assert rms == pytest.approx({"Sr": np.sqrt(0.0079), "Ti": 0.085, "O": np.sqrt(0.009)}, rel=1e-4)
    assert dict(crystal.sources)["thermal_rms_A"].endswith("Assumed, 0.085 Å, for Ti1: the file gives none.")


@pytest.mark.parametrize(
    ("columns", "symbols"),
    [
        (("type_symbol",), ("SR", "TI", "O")),
        (("type_symbol",), ("sr", "ti", "o")),
        (("type_symbol",), ("Sr2+", "Ti+4", "O2-")),
        (("label",), ("SR1", "TI1", "O1A")),
        (("label",), ("Sr2+", "Ti4+_b", "OW")),
        (("label", "type_symbol"), ("A1 Sr", "B1 Ti", "X1 O")),
    ],
)
def test_symbols_as_files_write_them(cif, columns, symbols):
    rows = [f"{s} {' '.join(row.split()[2:])}" for s, row in zip(symbols, STRONTIUM_TITANATE, strict=True)]
    path = cif(CUBE, rows, NUMBER.format(221), columns=(*columns, *FRACTIONS[2:]))
    assert content(path) == {"Sr": 1, "Ti": 1, "O": 3}


def test_a_label_that_could_be_two_elements(cif):
    """CO is cobalt, or carbon beside an oxygen of that name, as the formula has it."""
    rows = ["CO1 0 0 0", "O1 .5 .5 .5"]
    for formula, expected in (("Co O", {"Co": 1, "O": 1}), ("C O", {"C": 1, "O": 1})):
        head = NAME.format("P 1") + f"\n_chemical_formula_sum '{formula}'"
        path = cif((2.1,) * 3 + (90,) * 3, rows, head, columns=("label", *FRACTIONS[2:]))
        assert content(path) == expected
    path = cif(CUBE, ["Qq 0 0 0"], NAME.format("P 1"), columns=FRACTIONS[1:])
    with pytest.raises(fj.InputError, match="element: of site Qq is no chemical element"):
        read_structure(path)


@pytest.mark.parametrize(
    "turned",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: ("# Å\n" + text).encode("latin-1"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(" ", "\t").encode(),
        lambda text: (
            text.replace("_cell_", "_cell.").replace("_site_", "_site.").replace("group_IT", "group.IT").encode()
        ),
        lambda text: text.replace("_space_group_IT_number 221", "_symmetry_space_group_name_H-M P m -3 m").encode(),
        lambda text: text.replace("3.905", "3.905(2)").encode(),
    ],
    ids=["mark", "utf-16", "latin-1", "crlf", "cr", "tabs", "mmcif", "no quotes", "uncertain"],
)
@pytest.mark.parametrize("name", ["case.cif", "case.txt"])
def test_texts_of_cifs(cif, tmp_path, turned, name):
    text = cif(CUBE, STRONTIUM_TITANATE, NUMBER.format(221)).read_text()
    (tmp_path / name).write_bytes(turned(text))
    assert content(tmp_path / name) == {"Sr": 1, "Ti": 1, "O": 3}


def poscar(elements="Pb Ti O", counts="1 1 3", scale="1.0"):
    rows = ["0 0 0", ".5 .5 .5377", ".5 .5 .1118", ".5 0 .6174", "0 .5 .6174"]
    cell = ["3.904 0 0", "0 3.904 0", "0 0 4.152"]
    return "\n".join(["a cell", scale, *cell, elements, counts, "Direct", *rows]) + "\n"


@pytest.mark.parametrize("elements", ["PB TI O", "pb ti o", "Pb_d Ti_pv O", "Pb/1a2b Ti/3c O/4d"])
@pytest.mark.parametrize("name", ["POSCAR", "cell.txt"])
def test_poscars_in_other_spellings(tmp_path, elements, name):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + poscar(elements).replace("\n", "\r\n").encode())
    assert content(tmp_path / name) == {"Pb": 1, "Ti": 1, "O": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (poscar(counts="1 1 2"), "counts 4 atoms and lists 5 coordinates"),
        (poscar(counts="1 1 4"), "counts 6 atoms and lists 5 coordinates"),
        (poscar(elements="Pb Xx O"), r"element: of POSCAR is no chemical element \(got 'Xx'\)"),
        (poscar(scale="2.0"), "has 101 Å³ an atom and no two that touch.*its scale"),
        (poscar(scale="0.5"), r"has atoms .* apart"),
        (poscar().replace("Pb Ti O\n", ""), "names no elements"),
    ],
)
def test_poscars_that_cannot_be(tmp_path, text, message):
    (tmp_path / "POSCAR").write_text(text)
    with pytest.raises(fj.InputError, match=message):
        read_structure(tmp_path / "POSCAR")


@pytest.mark.parametrize("first", ["Pb", "PB", "Pb2+", "Pb1"])
def test_xyz_with_a_cell(tmp_path, first):
    rows = [f"{first} 0 0 0", "Ti 1.952 1.952 2.2325", "O 1.952 1.952 .4642", "O 1.952 0 2.5634", "O 0 1.952 2.5634"]
    head = 'Lattice="3.904 0 0 0 3.904 0 0 0 4.152" Properties=species:S:1:pos:R:3 pbc="F F F"'
    (tmp_path / "a.xyz").write_text("\n".join(["5", head, *rows]) + "\n")
    assert content(tmp_path / "a.xyz") == {"Pb": 1, "Ti": 1, "O": 3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bi1 Fe1 O3", {"Bi": 1, "Fe": 1, "O": 3}),
        ("BiFeO3", {"Bi": 1, "Fe": 1, "O": 3}),
        ("BI FE O3", {"Bi": 1, "Fe": 1, "O": 3}),
        ("Ba0.7(1) Sr0.3 Ti O3", {"Ba": 0.7, "Sr": 0.3, "Ti": 1, "O": 3}),
        ("D2 O", {"H": 2, "O": 1}),
        ("Ca (S O4)2", {}),
        ("Qq O", {}),
        (None, {}),
    ],
)
def test_formulas_of_files(text, expected):
    assert stated_amounts(text) == expected


def test_how_formulas_stand_to_each_other():
    said = {"Bi": 1.0, "Fe": 1.0, "O": 3.0}
    assert relation(said, {"Bi": 6.0, "Fe": 6.0, "O": 18.0}) == "agrees"
    assert relation(said, {"Bi": 0.9, "Fe": 1.0, "O": 3.0}) == "near"
    assert relation(said, {"Bi": 6.0, "Fe": 12.0, "O": 24.0}) == "differs"
    assert relation(said, {"Ba": 1.0, "Ti": 1.0, "O": 3.0}) == "other elements"
    assert relation(said | {"H": 2.0}, said) == "near"
