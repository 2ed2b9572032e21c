"""Maps written to HyperSpy, HDF5 and Zarr files read back value for value; columns as a table."""

import csv
import dataclasses
import subprocess
import sys
from typing import Any

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rsciio.hspy
import zarr

from ferrojax.columns import REJECTIONS, Columns
from ferrojax.errors import InputError
from ferrojax.io import read_map, write_columns_csv, write_map
from ferrojax.polarization import PolarizationMap
from tests.test_report import make_map

EXTENSIONS = ("hspy", "h5", "hdf5", "zarr")


@pytest.fixture(scope="module")
def pmap():
    return make_map(rows=4, cols=5)


def assert_same(a: eqx.Module, b: eqx.Module):
    """Bit for bit, NaN included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_round_trip_is_exact(tmp_path, pmap, extension):
    path = tmp_path / f"map.{extension}"
    write_map(path, pmap)
    again = read_map(path)
    assert_same(again, pmap)
    assert again.provenance == pmap.provenance
    assert np.isnan(np.asarray(again.displacement)[0, 0]).all()
    write_map(path, again)  # overwrites its own
    assert_same(read_map(path), pmap)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_notes_are_read_back_and_an_older_file_has_none(tmp_path, pmap, extension):
    path = tmp_path / f"map.{extension}"
    warned = dataclasses.replace(pmap, notes=("Undecided: α < β.", "12 % of the cells are more polar than 1.6 C/m²."))
    write_map(path, warned)
    assert read_map(path).notes == warned.notes
    if extension == "zarr":
        del zarr.open_group(path).attrs["notes"]
    else:
        with h5py.File(path, "a") as file:
            holder: Any = file.get("ferrojax", file)
            del holder.attrs["notes"]
    assert read_map(path).notes == ()


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_map_without_polarization_in_double_precision(tmp_path, pmap, extension):
    path = tmp_path / f"map.{extension}"
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(float) * 1.1 if a.dtype == np.float32 else a, pmap)
        wide = PolarizationMap(**{**fields(wide), "polarization": None, "response": None})
        write_map(path, wide)
        again = read_map(path)
        assert again.displacement.dtype == np.float64
        assert again.polarization is None
        assert_same(again, wide)
    assert read_map(path).displacement.dtype == np.float32


def fields(module) -> dict:
    return {item.name: getattr(module, item.name) for item in dataclasses.fields(module)}


def test_the_files_explain_themselves(tmp_path, pmap):
    write_map(tmp_path / "map.zarr", pmap)
    group = zarr.open_group(tmp_path / "map.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group["polarization"].attrs["units"] == "C/m²"
    write_map(tmp_path / "map.h5", pmap)
    with h5py.File(tmp_path / "map.h5") as file:
        found = {name: item.attrs["units"] for name, item in walked(file)}
        assert "BaTiO3" in str(file.attrs["provenance"])
        assert "y down" in str(file.attrs["convention"])
    assert found["columns/covariance"] == "Å²"
    assert all(found.values()), found


def walked(file) -> list:
    """(name, data set) of every data set in an HDF5 file."""
    found = []
    file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
    return found


def test_hyperspy_sees_its_own_signal_only(tmp_path, pmap):
    write_map(tmp_path / "map.hspy", pmap)
    (signal,) = rsciio.hspy.file_reader(str(tmp_path / "map.hspy"))
    assert signal["data"].shape == (4, 5, 13)


def test_what_is_no_map(tmp_path, pmap):
    with pytest.raises(InputError, match="does not exist"):
        read_map(tmp_path / "absent.h5")
    with pytest.raises(InputError, match=r"extension \.hspy, \.h5 or \.zarr"):
        read_map(tmp_path / "map.csv")
    (tmp_path / "rubbish.h5").write_bytes(b"no map")
    with pytest.raises(InputError, match="cannot be read"):
        read_map(tmp_path / "rubbish.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.ones((2, 2))
    with pytest.raises(InputError, match="holds no map of ferrojax"):
        read_map(tmp_path / "other.h5")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(InputError, match="exists and is no Zarr store"):
        write_map(tmp_path / "folder.zarr", pmap)


def test_a_file_that_lacks_something_says_what(tmp_path, pmap):
    path = tmp_path / "map.h5"
    write_map(path, pmap)
    with h5py.File(path, "a") as file:
        del file["columns/width"]
    with pytest.raises(InputError, match="lacks the width of Columns"):
        read_map(path)
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 99
    with pytest.raises(InputError, match=r"format version 99.*update ferrojax"):
        read_map(path)


def test_columns_table(tmp_path, pmap):
    columns: Columns = eqx.tree_at(lambda c: c.site, pmap.columns, jnp.asarray([1] * 20 + [-1] * 20))
    write_columns_csv(tmp_path / "columns.csv", columns)
    with (tmp_path / "columns.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert [rows[0]["site"], rows[39]["site"]] == ["B", ""]
    assert [rows[0]["rejection"], rows[1]["rejection"]] == [REJECTIONS[1], ""]
    assert float(rows[7]["x (px)"]) == float(columns.position_px[7, 0])
    assert float(rows[7]["covariance yy (Å²)"]) == pytest.approx(1e-4, rel=1e-6)
    assert float(rows[7]["y (Å)"]) == pytest.approx(float(columns.position[7, 1]), rel=1e-7)


def test_zarr_loads_only_for_zarr_files():
    code = "import sys; import ferrojax.io; print('zarr' in sys.modules, 'rsciio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("field", ["displacement", "valid", "columns/width"])
def test_a_map_whose_arrays_do_not_belong_together_is_refused(tmp_path, pmap, field):
    path = tmp_path / "map.h5"
    write_map(path, pmap)
    with h5py.File(path, "a") as file:
        values = np.asarray(file[field])
        del file[field]
        file[field] = values[:-1]
    with pytest.raises(InputError, match=r"map file: .*map\.h5|map file: (holds|cannot be read)"):
        read_map(path)


def test_the_refusal_of_such_a_map_names_the_array(tmp_path, pmap):
    """In a process of its own: these tests check shapes before the reader does."""
    path = tmp_path / "map.h5"
    write_map(path, pmap)
    with h5py.File(path, "a") as file:
        values = np.asarray(file["displacement"])
        del file["displacement"]
        file["displacement"] = values[:-1]
    script = (
        f"import ferrojax as fj\ntry:\n    fj.read_map({str(path)!r})\nexcept fj.InputError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "map file: holds displacement of shape (3, 5, 2), which does not fit 4 × 5 cells" in run.stdout


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("displacement", np.nan, "displacement, which is not finite in 1 of"),
        ("position", np.inf, "position, which is not finite in 1 of"),
        ("covariance", np.nan, "covariance, which is not finite in 1 of"),
        ("covariance", -1.0, "covariance, which has a negative variance in 1 of"),
    ],
)
def test_numbers_that_make_no_map_are_refused(tmp_path, pmap, field, value, said):
    write_map(tmp_path / "map.h5", pmap)
    with h5py.File(tmp_path / "map.h5", "a") as file:
        values = np.array(file[field])
        values[tuple(np.argwhere(np.asarray(pmap.valid))[0])] = value
        del file[field]
        file[field] = values
    with pytest.raises(InputError, match=said):
        read_map(tmp_path / "map.h5")
    at = tuple(np.argwhere(np.asarray(pmap.valid))[0])
    wrong = dataclasses.replace(pmap, **{field: getattr(pmap, field).at[at].set(value)})
    with pytest.raises(InputError, match=f"pmap: holds {said}"):
        write_map(tmp_path / "wrong.h5", wrong)
    assert not (tmp_path / "wrong.h5").exists()


def test_a_signal_that_was_changed_is_not_passed_over(tmp_path, pmap):
    write_map(tmp_path / "map.hspy", pmap)
    assert_same(read_map(tmp_path / "map.hspy"), pmap)
    with h5py.File(tmp_path / "map.hspy", "a") as file:
        name = "Experiments/polarization map/data"
        values = np.array(file[name])
        values[..., 2] *= 1.5
        del file[name]
        file[name] = values
    with pytest.raises(InputError, match=r"has a signal that was changed since"):
        read_map(tmp_path / "map.hspy")
