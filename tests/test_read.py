"""Reading images: what comes back, and the one clear error that everything else ends in."""

from importlib.resources import files
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from ferrojax.errors import InputError
from ferrojax.io import read

DEMO_IMAGE = Path(str(files("ferrojax.data"))) / "BTO_crystal_1.dm4"
rng = np.random.default_rng(0)
PICTURE = rng.random((20, 30))


def save(path, image=PICTURE, **calibration):
    np.savez(path, image=image, **calibration)
    return path


@pytest.mark.parametrize(
    ("calibration", "expected"),
    [
        ({"sampling": (0.2, 0.3)}, (0.2, 0.3)),
        ({"sampling": 0.25}, (0.25, 0.25)),
        ({"pixel_size_nm": 0.02}, (0.2, 0.2)),
        ({"pixel_size_nm_recorded": 0.03}, (0.3, 0.3)),
    ],
)
def test_npz_layout(tmp_path, calibration, expected):
    image = read(save(tmp_path / "scan.npz", **calibration))
    assert image.data.shape == (20, 30)
    assert image.data.dtype == np.float32
    assert image.name == "scan"
    np.testing.assert_allclose(np.asarray(image.sampling), expected, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(image.data), PICTURE, rtol=1e-6)


@pytest.mark.parametrize("sampling", [0.4, (0.4, 0.4)])
def test_given_sampling_replaces_the_file(tmp_path, sampling):
    image = read(save(tmp_path / "scan.npz", pixel_size_nm=0.02), sampling)
    np.testing.assert_allclose(np.asarray(image.sampling), 0.4, rtol=1e-6)


@pytest.mark.parametrize(("unit", "size"), [("nm", 0.02), ("pm", 20.0), ("Å", 0.2), ("Angstrom", 0.2), ("um", 2e-5)])
def test_units_become_angstrom(tmp_path, unit, size):
    path = tmp_path / "scan.hspy"
    write_hspy(path, PICTURE, [(size, unit), (size, unit)])
    np.testing.assert_allclose(np.asarray(read(path).sampling), 0.2, rtol=1e-6)


def write_hspy(path, data, axes):
    with h5py.File(path, "w") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
        group = file.create_group("Experiments/scan")
        group.attrs["package"], group.attrs["package_version"] = "test", "1"
        group.create_dataset("data", data=data)
        for i, (scale, unit) in enumerate(axes):
            axis = group.create_group(f"axis-{i}")
            axis.attrs.update({"name": "yxzt"[i], "scale": scale, "units": unit, "size": data.shape[i], "offset": 0.0})
            axis.attrs.update({"navigate": False, "_type": "UniformDataAxis"})
        for name in (
            "metadata",
            "original_metadata",
            "learning_results",
            "metadata/General",
            "metadata/Signal",
        ):
            group.require_group(name)


def test_vendor_file_comes_back_calibrated():
    image = read(DEMO_IMAGE)
    assert image.data.shape == (413, 469)
    np.testing.assert_allclose(np.asarray(image.sampling), 0.296599, rtol=1e-5)
    assert float(image.data.max()) == pytest.approx(344394.62)


@pytest.mark.parametrize(
    ("axes", "shown"),
    [
        ([(1.0, ""), (1.0, "")], "without unit"),
        ([(-1.0, "nm"), (-1.0, "nm")], "-1.0 nm"),
        ([(0.2, "1/nm"), (0.2, "1/nm")], "1/nm"),
        ([(0.2, "s"), (0.2, "s")], "0.2 s"),
    ],
)
def test_no_calibration(tmp_path, axes, shown):
    path = tmp_path / "scan.hspy"
    write_hspy(path, PICTURE, axes)
    with pytest.raises(InputError, match="no calibration") as error:
        read(path)
    assert "--sampling" in str(error.value)
    assert shown in str(error.value)
    np.testing.assert_allclose(np.asarray(read(path, 0.2).sampling), 0.2, rtol=1e-6)


def test_plain_tiff_needs_sampling(tmp_path):
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, PICTURE.astype(np.float32))
    with pytest.raises(InputError, match="no calibration"):
        read(path)
    assert read(path, 0.2).data.shape == (20, 30)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.where(PICTURE > 0.9, np.nan, PICTURE), "NaN or infinite"),
        (np.where(PICTURE > 0.9, np.inf, PICTURE), "NaN or infinite"),
        (np.full((20, 30), 7.0), "constant"),
        (PICTURE[0], "not two-dimensional"),
        (PICTURE[:1], "a line"),
        (np.stack([PICTURE] * 3), "a stack"),
        (np.zeros((2, 3, 4, 5)), "a stack"),
        (PICTURE + 1j, "real numbers"),
        (np.array([["a", "b"]] * 2), "real numbers"),
        (np.zeros((0, 5)), "a line"),
    ],
)
def test_pixels_that_are_no_image(tmp_path, image, message):
    path = save(tmp_path / "bad.npz", image, sampling=0.2)
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert error.value.field == "image"
    assert "bad.npz" in str(error.value)


@pytest.mark.parametrize("suffix", ["npz", "dm3", "dm4", "emd", "hspy", "mrc", "ser", "tif", "tiff", "h5"])
@pytest.mark.parametrize("content", [b"", b"this is no image at all, " * 40])
def test_rubbish_is_one_error(tmp_path, suffix, content):
    path = tmp_path / f"rubbish.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read(path, 0.2)
    assert error.value.field in ("image file", "image")
    assert "\n" not in str(error.value)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "absent.dm4")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(InputError, match=r"extension '\.docx'"):
        read(tmp_path / "notes.docx")
    np.save(tmp_path / "array.npy", PICTURE)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(InputError, match=r"no \.npz archive"):
        read(tmp_path / "array.npz")
    np.savez(tmp_path / "other.npz", picture=PICTURE)
    with pytest.raises(InputError, match="no array named 'image', it holds picture"):
        read(tmp_path / "other.npz")


@pytest.mark.parametrize("sampling", [0.0, -0.2, float("nan"), (0.2, 0.2, 0.2)])
def test_bad_sampling(tmp_path, sampling):
    path = save(tmp_path / "scan.npz")
    with pytest.raises(InputError) as error:
        read(path, sampling)
    assert error.value.field == "sampling"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test-2.dm3", "no calibration"),
        ("test-2.dm4", "no calibration"),
        ("example_image.emd", "no calibration"),
        ("example2_v3.1.hspy", "no calibration"),
        ("20241021_00405_final.mrc", "constant"),
        ("fei_example_tem_stack.emd", "stack"),
        ("Si100_4D.emd", "stack"),
        ("py4DSTEM_size2x3x4x5.h5", "cannot be read"),
    ],
)
def test_vendor_files_that_are_refused(reference_data, name, message):
    with pytest.raises(InputError, match=message):
        read(reference_data / "vendor_files" / name)


def test_vendor_files_that_are_read(reference_data):
    image = read(reference_data / "vendor_files" / "128x128-TEM_search_1.ser")
    np.testing.assert_allclose(np.asarray(image.sampling), 52.61214, rtol=1e-5)
    image = read(reference_data / "pto_sro_haadf" / "Cropped_PTO-SRO_Aligned.hspy")
    np.testing.assert_allclose(np.asarray(image.sampling), 0.14996803, rtol=1e-5)


def test_contrast_on_a_large_offset_and_huge_values_survive(tmp_path):
    """Single precision alone would call the first constant and the second infinite."""
    for name, values in (("offset", 1e9 + PICTURE.astype(float) / np.ptp(PICTURE)), ("huge", 1e40 * (1.0 + PICTURE))):
        np.savez(tmp_path / f"{name}.npz", image=values, sampling=0.2)
        data = np.asarray(read(tmp_path / f"{name}.npz").data, float)
        assert np.corrcoef(data.ravel(), PICTURE.ravel())[0, 1] > 0.999
