"""The layout of the published Sm-doped BiFeO3 set: what ferrojax writes and what others wrote."""

import equinox as eqx
import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.io import read_unit_cell_folder, read_unit_cells, write_unit_cells
from tests.test_report import make_map

NAMES = ("Sm_0_1", "Sm_7_2", "SM_10_0")


def write_published(folder, name, shape=(120, 160), seed=0, **change):
    """A synthetic pair of files as the published ones are; the table of SM_10_0 is spelt Sm_10_0."""
    generator = np.random.default_rng(seed)
    a, b = np.meshgrid(np.arange(-2, 4), np.arange(1, 5))
    n = a.size
    table = {
        "ab": np.stack([a.ravel(), b.ravel()]).astype(float),
        "xy_COM": np.stack([20.0 * (a.ravel() + 3), 20.0 * b.ravel()]) + generator.normal(size=(2, n)),
        "Pxy": generator.normal(size=(2, n)),
        **{key: generator.random((1, n)) for key in ("a", "alpha", "Vol", "I1", "I5")},
        **change,
    }
    with h5py.File(folder / f"{name}_HAADF.h5", "w") as file:
        file["MainImage"] = generator.random(shape)
    with h5py.File(folder / f"{name.replace('SM', 'Sm')}_UCParameterization.h5", "w") as file:
        for key, values in table.items():
            if values is not None:
                file[key] = values
    return table


def test_folder_pairs_whatever_the_capitals(tmp_path):
    tables = [write_published(tmp_path, name, seed=i) for i, name in enumerate(NAMES)]
    found = read_unit_cell_folder(tmp_path, sampling=(0.2, 0.25))
    assert list(found) == ["Sm_0_1", "Sm_7_2", "Sm_10_0"]
    assert [entry.percent for entry in found.values()] == [0, 7, 10]
    for entry, table in zip(found.values(), tables, strict=True):
        assert entry.image.data.shape == (120, 160)
        np.testing.assert_array_equal(np.asarray(entry.cells.index), table["ab"].T)
        np.testing.assert_allclose(np.asarray(entry.cells.position_px), table["xy_COM"].T, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(entry.cells.displacement), table["Pxy"].T * (0.25, 0.2), rtol=1e-6)
        np.testing.assert_allclose(np.asarray(entry.cells.intensity_b), table["I5"][0], rtol=1e-6)


def test_a_map_of_ours_comes_back(tmp_path):
    pmap = make_map(rows=5, cols=6)
    image = Image(np.random.default_rng(0).random((140, 160), np.float32), (0.2, 0.2))
    write_unit_cells(tmp_path / "SM_10_0_UCParameterization.h5", pmap, image)
    (name, (again, cells, percent)) = read_unit_cell_folder(tmp_path, sampling=0.2).popitem()
    assert (name, percent) == ("SM_10_0", 10)
    np.testing.assert_array_equal(np.asarray(again.data), np.asarray(image.data))
    valid = np.asarray(pmap.valid)
    rows, cols = np.nonzero(valid)
    np.testing.assert_array_equal(np.asarray(cells.index), np.stack([cols, rows], -1))
    np.testing.assert_allclose(np.asarray(cells.position), np.asarray(pmap.position)[valid], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(cells.displacement), np.asarray(pmap.displacement)[valid], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(cells.length_px), 20, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(cells.angle), 90, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(cells.area_px), 400, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(cells.intensity_a), 1, rtol=1e-6)


def test_intensities_and_lattice_of_the_right_columns(tmp_path):
    """A sheared lattice whose columns count up: the B column of the cell and the mean of its A neighbours."""
    pmap = make_map(rows=5, cols=4)
    shear = jnp.asarray([[1.0, 0.0], [0.2, 1.0]])
    columns = eqx.tree_at(
        lambda c: (c.position_px, c.intensity, c.rejection),
        pmap.columns,
        (pmap.columns.position_px @ shear, jnp.arange(40.0), jnp.zeros(40, int)),
    )
    pmap = eqx.tree_at(lambda m: (m.position_px, m.columns), pmap, (pmap.position_px @ shear, columns))
    path = tmp_path / "one_UCParameterization.h5"
    write_unit_cells(path, pmap)
    cells = read_unit_cells(path, 0.2)
    rows, cols = np.nonzero(np.asarray(pmap.valid))
    np.testing.assert_allclose(np.asarray(cells.intensity_b), 4 * rows + cols)
    np.testing.assert_allclose(np.asarray(cells.angle), np.degrees(np.arctan2(1, 0.2)), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(cells.area_px), 400, rtol=1e-5)


def test_sampling_is_required(tmp_path):
    write_published(tmp_path, "Sm_0_1")
    for reader, path in (
        (read_unit_cell_folder, tmp_path),
        (read_unit_cells, tmp_path / "Sm_0_1_UCParameterization.h5"),
    ):
        with pytest.raises(InputError, match=r"sampling: is not in the files.*Å per pixel"):
            reader(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Pxy": None}, "has no Pxy"),
        ({"Pxy": np.zeros((24, 2))}, r"needs the shape \(2, cells\)"),
        ({"I1": np.zeros(7)}, "has not 24 values of I1"),
        ({"xy_COM": np.full((2, 24), 150.0)}, "outside its image.*transposed=True"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, change, message):
    write_published(tmp_path, "Sm_0_1", **change)
    with pytest.raises(InputError, match=message):
        read_unit_cell_folder(tmp_path, 0.2)


def test_optional_values_and_a_transposed_image(tmp_path):
    write_published(tmp_path, "Sm_0_1", shape=(160, 120), I1=None, xy_COM=np.outer([150, 110], np.ones(24)))
    cells = read_unit_cell_folder(tmp_path, 0.2, transposed=True)["Sm_0_1"].cells
    assert np.isnan(np.asarray(cells.intensity_a)).all()


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="holds no pair"):
        read_unit_cell_folder(tmp_path, 0.2)
    with pytest.raises(InputError, match="does not exist"):
        read_unit_cell_folder(tmp_path / "absent", 0.2)
    write_published(tmp_path, "Sm_0_1")
    (tmp_path / "Sm_0_1_HAADF.h5").rename(tmp_path / "Sm_0_2_HAADF.h5")
    with pytest.raises(InputError, match=r"no partner for Sm_0_1_UCP.*Sm_0_2_HAADF"):
        read_unit_cell_folder(tmp_path, 0.2)
    (tmp_path / "bad_UCParameterization.h5").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="cannot be read"):
        read_unit_cells(tmp_path / "bad_UCParameterization.h5", 0.2)
    with pytest.raises(InputError, match="name the file NAME_UCP"):
        write_unit_cells(tmp_path / "map.h5", make_map(4, 4))
