"""Reading images: what comes back, and the one clear error that everything else ends in."""

import zipfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from ferrojax.columns import find_columns
from ferrojax.columns.faulty_pixels import saturated_pixels
from ferrojax.constants import wavelength
from ferrojax.errors import InputError
from ferrojax.image import DiffractionScan, Image
from ferrojax.io import read
from ferrojax.io.units import angle_factor, length_factor, reciprocal_factor
from ferrojax.io.vendor import first_that_reads

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


def write_hspy(path, data, axes, names: Sequence[str] = "yxzt"):
    with h5py.File(path, "w") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
        group = file.create_group("Experiments/scan")
        group.attrs["package"], group.attrs["package_version"] = "test", "1"
        group.create_dataset("data", data=data)
        for i, (scale, unit) in enumerate(axes):
            axis = group.create_group(f"axis-{i}")
            axis.attrs.update({"name": names[i], "scale": scale, "units": unit, "size": data.shape[i], "offset": 0.0})
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
        (np.zeros((2, 3, 4, 5)), "is constant"),
        (np.zeros((2, 2, 3, 4, 5)), "series of diffraction scans"),
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


def test_a_file_that_is_cut_off_is_called_so(tmp_path):
    path = save(tmp_path / "cut.npz", PICTURE, sampling=0.2)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="cut off or damaged: copy it again"):
        read(path)


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
        ("fei_example_tem_stack.emd", "stack of 2 frames.*stack=True"),
        ("Si100_4D.emd", "series of diffraction scans.*stack=True"),
        ("py4DSTEM_size2x3x4x5.h5", "only with the beam energy.*energy="),
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


def test_a_series_is_read_where_asked(tmp_path, reference_data):
    frames = rng.random((3, 20, 30))
    path = save(tmp_path / "frames.npz", frames, sampling=0.2)
    np.testing.assert_allclose(np.asarray(read(path, stack=True).data), frames, rtol=1e-6)
    assert read(save(tmp_path / "one.npz", sampling=0.2), stack=True).data.shape == (1, 20, 30)
    image = read(reference_data / "vendor_files" / "fei_example_tem_stack.emd", stack=True)
    assert image.data.shape == (2, 3, 3)
    np.testing.assert_allclose(np.asarray(image.sampling), 0.08172883, rtol=1e-6)


def test_one_signal_of_several_by_name_or_number(tmp_path):
    path = tmp_path / "both.npz"
    np.savez(path, adf=PICTURE, abf=1 - PICTURE, pixel_size_nm=0.01)
    with pytest.raises(InputError, match=r"it holds adf \(20, 30\), abf \(20, 30\).*signal="):
        read(path)
    for name in ("ABF", "abf", 1):
        np.testing.assert_allclose(np.asarray(read(path, signal=name).data), 1 - PICTURE, atol=1e-6)
    with pytest.raises(InputError, match=r"names 0 of the signals in both\.npz: adf"):
        read(path, signal="HAADF")


def test_signals_of_a_vendor_file(tmp_path):
    """As a Velox file with two detectors: what RosettaSciIO returns has a title a signal."""
    path = tmp_path / "two.hspy"
    write_hspy(path, PICTURE, [(0.02, "nm")] * 2)
    with h5py.File(path, "a") as file:
        file.copy("Experiments/scan", "Experiments/other")
        for group, title in (("scan", "HAADF"), ("other", "BF")):
            file[f"Experiments/{group}/metadata/General"].attrs["title"] = title
        del file["Experiments/other/data"]
        file["Experiments/other/data"] = 1 - PICTURE
    with pytest.raises(InputError, match=r"holds 2 signals: .*HAADF.*choose one"):
        read(path)
    np.testing.assert_allclose(np.asarray(read(path, signal="bf").data), 1 - PICTURE, atol=1e-6)


def test_axes_named_x_before_y_are_transposed(tmp_path):
    path = tmp_path / "turned.hspy"
    write_hspy(path, PICTURE, [(0.02, "nm"), (0.03, "nm")], names="xy")
    image = read(path)
    np.testing.assert_allclose(np.asarray(image.data), PICTURE.T, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(image.sampling), (0.3, 0.2), rtol=1e-6)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([(0.02, "nm"), (0.2, "nm")], "far from square"),
        ([(0.02, "nm"), (0.02, "1/nm")], "diffraction pattern or a Fourier transform"),
        ([(0.02, "mrad"), (0.02, "mrad")], "diffraction pattern or a Fourier transform"),
        ([(2.0, "mm"), (2.0, "mm")], "print resolution"),
    ],
)
def test_calibrations_that_cannot_be(tmp_path, axes, message):
    path = tmp_path / "scan.hspy"
    write_hspy(path, PICTURE, axes)
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert "--sampling" in str(error.value)


@pytest.mark.parametrize(
    ("unit", "per_unit"), [("nm", 10.0), ("pm", 0.01), ("micron", 1e4), ("\\u00B5m", 1e4), ("Å", 1.0)]
)
def test_imagej_tiff(tmp_path, unit, per_unit):
    """Pixels of 0.2 Å along x and 0.3 Å along y in any unit that ImageJ writes."""
    path = tmp_path / "scan.tif"
    metadata = {"unit": unit.replace("Å", "angstrom")}
    resolution = per_unit / 0.2, per_unit / 0.3
    tifffile.imwrite(path, PICTURE.astype(np.float32), imagej=True, resolution=resolution, metadata=metadata)
    np.testing.assert_allclose(np.asarray(read(path).sampling), (0.3, 0.2), rtol=1e-5)


def test_tiff_resolution_unit(tmp_path):
    path = tmp_path / "scan.tif"
    data = PICTURE.astype(np.float32)
    tifffile.imwrite(path, data, resolution=(5e8, 5e8), resolutionunit="CENTIMETER")
    np.testing.assert_allclose(np.asarray(read(path).sampling), 0.2, rtol=1e-5)
    tifffile.imwrite(path, data, resolution=(300, 300), resolutionunit="INCH")
    with pytest.raises(InputError, match=r"print resolution.*84\.67 µm.*--sampling"):
        read(path)


def test_diffraction_scan_in_npz(tmp_path):
    data = rng.random((3, 4, 6, 5))
    path = save(tmp_path / "scan.npz", data, sampling=0.5, angular_sampling=(1.5, 1.0))
    scan = read(path)
    assert isinstance(scan, DiffractionScan)
    np.testing.assert_allclose(np.asarray(scan.data), data, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(scan.angular_sampling), (1.5, 1.0))
    again = read(path, angular_sampling=2.0)
    assert isinstance(again, DiffractionScan)
    np.testing.assert_allclose(np.asarray(again.angular_sampling), 2.0)
    with pytest.raises(InputError, match=r"angle.*angular_sampling="):
        read(save(tmp_path / "bare.npz", data, sampling=0.5))


def test_reciprocal_pixels_become_angles_with_the_beam_energy(reference_data):
    path = reference_data / "vendor_files" / "py4DSTEM_size2x3x4x5.h5"
    scan = read(path, energy=300e3)
    assert isinstance(scan, DiffractionScan)
    assert scan.data.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(np.asarray(scan.sampling), 1.26796875, rtol=1e-6)
    expected = 0.044251566616087125 * wavelength(300e3) * 1e3
    np.testing.assert_allclose(np.asarray(scan.angular_sampling), expected, rtol=1e-6)
    with pytest.raises(InputError, match="positive number"):
        read(path, energy=-1.0)


def test_zero_beam_comes_to_the_centre(reference_data):
    """The file's axis has its zero on pixel 4 of 8: the first row and column go."""
    scan = read(reference_data / "vendor_files" / "Si100_4D.emd", stack=True, energy=100e3)
    assert isinstance(scan, DiffractionScan)
    assert scan.data.shape == (2, 11, 11, 7, 7)
    mean = np.asarray(scan.data).mean((0, 1, 2))
    y, x = scan.angle
    assert abs(float((mean.sum(1) * y).sum() / mean.sum())) < 0.02 * float(y[-1])
    assert abs(float((mean.sum(0) * x).sum() / mean.sum())) < 0.02 * float(x[-1])


@pytest.mark.parametrize("rate", [0.02, 0.5, 3.0, 40.0, 5000.0])
def test_counts_are_not_saturated(rate):
    """Columns of Poisson counts beside a vacuum, at any dose, as integers or scaled."""
    y, x = np.mgrid[:200, :300]
    columns = np.exp(-((y % 20 - 10) ** 2 + (x % 20 - 10) ** 2) / 20) * (x > 100)
    counts = np.random.default_rng(3).poisson(rate * columns)
    assert not saturated_pixels(counts).any()
    assert not saturated_pixels(counts * 0.37 + 2.0).any()


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_cut_off_intensities_are_found(kind):
    y, x = np.mgrid[:200, :300]
    columns = 20 + 200 * np.exp(-((y % 20 - 10) ** 2 + (x % 20 - 10) ** 2) / 20)
    data = np.random.default_rng(4).normal(columns, 6).clip(30, 190).astype(kind)
    np.testing.assert_array_equal(saturated_pixels(data), data == data.max())
    both = saturated_pixels(data, minimum=True)
    np.testing.assert_array_equal(both, (data == data.max()) | (data == data.min()))
    assert both.mean() > 0.02
    assert not saturated_pixels(data * 0).any()


def test_real_images_are_not_saturated(reference_data):
    archive = np.load(reference_data / "sto110_adf_abf" / "sto110_adf_abf.npz")
    for name in ("adf", "abf"):
        assert saturated_pixels(archive[name]).mean() < 1e-4
    assert not saturated_pixels(np.asarray(read(DEMO_IMAGE).data)).any()


@pytest.mark.parametrize(
    ("unit", "inverse_angstrom"),
    [
        ("$A^{-1}$", 1.0),
        ("$\\AA^{-1}$", 1.0),
        ("A^{-1}", 1.0),
        ("1/\\AA", 1.0),
        ("$\\mathrm{\\AA}^{-1}$", 1.0),
        ("nm$^{-1}$", 0.1),
        ("$\\mathrm{nm}^{-1}$", 0.1),
        ("nm^(-1)", 0.1),
        ("1/(nm)", 0.1),
        ("k_A^-1", 1.0),
        ("k_nm^-1", 0.1),
        ("q_nm^-1", 0.1 / (2 * np.pi)),
    ],
)
def test_units_that_are_written_for_plots(unit, inverse_angstrom):
    assert reciprocal_factor(unit) == pytest.approx(inverse_angstrom)
    assert length_factor(unit) is None


@pytest.mark.parametrize(
    ("unit", "angstrom"),
    [("$\\AA$", 1.0), ("$\\mathrm{nm}$", 10.0), ("$\\mu m$", 1e4), ("$µ$m", 1e4), ("\\u00B5m", 1e4)],
)
def test_lengths_that_are_written_for_plots(unit, angstrom):
    assert length_factor(unit) == pytest.approx(angstrom)
    assert reciprocal_factor(unit) is None


def test_angles_of_patterns():
    assert angle_factor("2th_deg") == angle_factor("deg") == pytest.approx(17.4533, rel=1e-5)
    assert angle_factor("$mrad$") == 1.0
    assert angle_factor("2th_rad") == 1000.0


def test_pattern_in_the_unit_of_pyxem(tmp_path):
    """0.1 per Å at the 200 kV that the file keeps: 2.508 mrad."""
    path = tmp_path / "scan.hspy"
    data = rng.poisson(5, (6, 7, 16, 16)).astype(np.uint16)
    axes = [(0.02, "nm"), (0.02, "nm"), (0.1, "$A^{-1}$"), (0.1, "$A^{-1}$")]
    write_hspy(path, data, axes, names=["y", "x", "ky", "kx"])
    with h5py.File(path, "a") as file:
        file.create_group("Experiments/scan/metadata/Acquisition_instrument/TEM").attrs["beam_energy"] = 200.0
    scan = read(path)
    assert isinstance(scan, DiffractionScan)
    np.testing.assert_allclose(np.asarray(scan.angular_sampling), 0.1 * wavelength(200e3) * 1e3, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(scan.angular_sampling), 2.508, rtol=1e-3)


def hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
    return path


def test_hdf5_of_another_program(tmp_path):
    """Its arrays are offered; the refusal speaks of the file, not of a package for another format."""
    path = hdf5(tmp_path / "lattice.hdf5", image_data0=PICTURE, A_sublattice__atom_positions=rng.random((9, 2)))
    with pytest.raises(InputError, match=r"holds 2 signals: .*atom_positions \(9, 2\), image_data0.*choose one"):
        read(path, 0.2)
    np.testing.assert_allclose(np.asarray(read(path, 0.2, signal="image_data0").data), PICTURE, rtol=1e-6)
    only = hdf5(tmp_path / "only.h5", image=PICTURE)
    np.testing.assert_allclose(np.asarray(read(only, 0.2).data), PICTURE, rtol=1e-6)
    with pytest.raises(InputError, match="no calibration"):
        read(only)
    with pytest.raises(InputError, match="not known here and has no image in it: it holds positions"):
        read(hdf5(tmp_path / "none.h5", positions=np.arange(4.0)), 0.2)


def test_a_missing_reader_is_named_only_where_no_other_looked(tmp_path):
    path = tmp_path / "scan.mrc"
    path.write_bytes(b"x" * 4096)
    with pytest.raises(InputError, match=r"not installed \(absent_reader\).*install the Python package"):
        first_that_reads(path, ["absent_reader"])
    with pytest.raises(Exception, match=r"^(?!.*absent_reader)"):
        first_that_reads(path, ["absent_reader", "rsciio.mrc"])


def test_images_beside_spectra(tmp_path):
    """A Velox file with an EDS map: 16 × 20 pixels of 1.997 nm, all of them saturated."""
    with zipfile.ZipFile(Path(__file__).parent / "files" / "velox_emd_v11_elementSelection.zip") as packed:
        packed.extractall(tmp_path)
    path = next(tmp_path.rglob("*.emd"))
    with pytest.warns(UserWarning, match="all pixels of HAADF are 65535"):
        image = read(path, signal="HAADF")
    assert image.data.shape == (16, 20)
    with pytest.raises(InputError, match="is constant"):
        read(path)
    np.testing.assert_allclose(np.asarray(image.sampling), 19.968, rtol=1e-3)


COUNTS = (200 * PICTURE).astype(np.uint8)
OPAQUE = np.full_like(COUNTS, 255)
GREYS = np.stack([np.arange(256) * 257] * 3).astype(np.uint16)


@pytest.mark.parametrize(
    ("samples", "how"),
    [
        (np.stack([COUNTS, OPAQUE], -1), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
        (np.stack([COUNTS, COUNTS[::-1]], -1), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
        (np.stack([COUNTS, OPAQUE], -1), {"photometric": "minisblack", "extrasamples": ["unspecified"]}),
        (np.stack([COUNTS] * 3, -1), {"photometric": "rgb"}),
        (np.stack([COUNTS] * 3 + [OPAQUE], -1), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (255 - COUNTS, {"photometric": "miniswhite"}),
        (COUNTS, {"photometric": "palette", "colormap": GREYS}),
        (COUNTS.astype(">u2"), {"byteorder": ">"}),
    ],
    ids=["alpha", "half opaque", "alpha unnamed", "rgb", "rgba", "white is zero", "palette", "big-endian"],
)
def test_grey_tiffs_in_other_clothes(tmp_path, samples, how):
    path = tmp_path / "scan.tif"
    planar = {"planarconfig": "contig"} if samples.ndim == 3 else {}
    tifffile.imwrite(path, samples, resolution=(5e8, 4e8), resolutionunit="CENTIMETER", **planar, **how)
    image = read(path)
    assert image.data.shape == COUNTS.shape
    assert np.corrcoef(np.asarray(image.data).ravel(), COUNTS.ravel())[0, 1] > 1 - 1e-6
    np.testing.assert_allclose(np.asarray(image.sampling), (0.25, 0.2), rtol=1e-5)


def test_colours_are_refused(tmp_path):
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, np.stack([COUNTS, COUNTS[::-1], COUNTS], -1), photometric="rgb")
    with pytest.raises(InputError, match="is a colour image"):
        read(path, 0.2)
    tifffile.imwrite(path, COUNTS, photometric="palette", colormap=GREYS * np.array([[1], [0], [1]], np.uint16))
    with pytest.raises(InputError, match="is a colour image"):
        read(path, 0.2)
    with pytest.raises(InputError, match="is a colour image"):
        read(save(tmp_path / "rgb.npz", np.stack([PICTURE, PICTURE[::-1], PICTURE], -1), sampling=0.2))
    with pytest.raises(InputError, match="two values a pixel"):
        read(save(tmp_path / "two.npz", np.stack([PICTURE, PICTURE[::-1]], -1), sampling=0.2))


@pytest.mark.parametrize(
    "image",
    [
        PICTURE[None],
        PICTURE[..., None],
        np.stack([PICTURE] * 3, -1),
        np.stack([PICTURE, np.ones_like(PICTURE)], -1),
        PICTURE.astype(">f8"),
        PICTURE.astype(">f4"),
        np.asfortranarray(PICTURE),
        PICTURE.astype(np.longdouble),
    ],
    ids=["one frame", "one channel", "grey rgb", "grey alpha", "big-endian", "big-endian single", "fortran", "long"],
)
def test_one_image_in_any_layout(tmp_path, image):
    found = read(save(tmp_path / "scan.npz", image, sampling=(0.2, 0.3)))
    np.testing.assert_allclose(np.asarray(found.data), PICTURE, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found.sampling), (0.2, 0.3), rtol=1e-6)


@pytest.mark.parametrize("kind", [">f8", ">f4", ">u2", np.longdouble, np.float16, np.uint8])
def test_arrays_of_any_kind_are_images(kind):
    counts = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(np.asarray(Image(counts.astype(kind), 0.2).data), counts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (1e9 + PICTURE, "varies by too little on its offset.*subtract the offset"),
        (10**9 + (100 * PICTURE).astype(np.int32), "varies by too little on its offset"),
        (1e40 * PICTURE, "is beyond single precision.*divide it by its maximum"),
        (PICTURE + 1j, "must be real numbers"),
        (np.ma.masked_greater(PICTURE, 0.9), "would lose its mask"),
    ],
    ids=["offset", "integers on an offset", "huge", "complex", "masked"],
)
def test_arrays_that_are_no_images(data, message):
    with pytest.raises(InputError, match=message):
        Image(data, 0.2)
    assert Image(np.full((3, 4), 1e9), 0.2).data.shape == (3, 4)


def test_faint_images(tmp_path):
    """Scaled where they are read; refused where columns are to be found in them as they are."""
    found = np.asarray(read(save(tmp_path / "faint.npz", 1e-13 * PICTURE, sampling=0.2)).data)
    np.testing.assert_allclose(found, PICTURE / PICTURE.max(), rtol=1e-6)
    with pytest.raises(InputError, match=r"too faint for single precision.*divide it by its maximum"):
        find_columns(Image(1e-13 * PICTURE, 0.2))
