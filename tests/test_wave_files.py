"""Waves written and read back: values, grid, energy, and what is refused."""

import numpy as np
import pytest

import ferrojax as fj

GRID = fj.Grid((6, 4), (0.1, 0.2), (0.25, 0.0))
WAVE = (np.arange(48).reshape(2, 6, 4) + 1j).astype(np.complex64)


@pytest.mark.parametrize("name", ["wave.h5", "wave.hdf5", "wave.zarr"])
def test_a_wave_comes_back_as_it_was(tmp_path, name):
    path = fj.write_wave(tmp_path / name, WAVE, GRID, 200e3)
    fj.write_wave(path, 2 * WAVE, GRID, 300e3)  # replaces it
    wave, grid, energy = fj.read_wave(path)
    np.testing.assert_array_equal(wave, 2 * WAVE)
    assert wave.dtype == np.complex64
    assert (grid, energy) == (GRID, 300e3)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_the_exit_wave_of_a_crystal_is_kept(tmp_path):
    atoms = fj.displaced_supercell(fj.material("SrTiO3"), np.zeros((1, 1, 3)), 2)
    grid = fj.Grid.for_box(atoms.box[0], atoms.box[1], 0.2)
    psi = fj.exit_wave(atoms, fj.PlaneWave(200e3), grid)
    np.testing.assert_array_equal(fj.read_wave(fj.write_wave(tmp_path / "exit.zarr", psi, grid, 200e3))[0], psi)


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("path: is no .h5 or .zarr file .*wave.tif", {"name": "wave.tif"}),
        ("path: .*cannot be written", {"name": "/dev/null/wave.h5"}),
        ("wave: is no complex array of the grid's .6, 4.", {"wave": np.ones((6, 4), np.float32)}),
        ("wave: is no complex array", {"wave": WAVE[:, :5]}),
        ("wave: must be finite", {"wave": WAVE * np.nan}),
        ("energy: must be at least 10000", {"energy": 200.0}),
        ("energy: must be at least 10000", {"energy": 0.0}),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_written_is_refused(tmp_path, match, change):
    given = {"name": "wave.h5", "wave": WAVE, "energy": 200e3} | change
    with pytest.raises(fj.InputError, match=match):
        fj.write_wave(tmp_path / given["name"], given["wave"], GRID, given["energy"])
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    (tmp_path / "image.h5").write_bytes(b"no HDF5")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(fj.InputError, match=r"path: holds no wave of ferrojax"):
        fj.read_wave(tmp_path / "image.h5")
    with pytest.raises(fj.InputError, match=r"path: exists and is no Zarr store"):
        fj.read_wave(tmp_path / "folder.zarr")
    with pytest.raises(fj.InputError, match=r"path: does not exist"):
        fj.read_wave(tmp_path / "none.h5")
