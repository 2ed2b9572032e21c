"""A simulation written block by block: the same figures, resumed where it stopped, never half written."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import zarr

import ferrojax as fj
from ferrojax.io import simulation

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

PROBE = fj.Probe(200e3, 21.4)
DETECTORS = {"camera": fj.PixelatedDetector(40, step=5.0), "adf": fj.AnnularDetector(40, 80)}
SCAN = fj.Scan.grid((0.3, 0.2), (2.3, 1.7), (5, 3))
ARGUMENTS: dict[str, Any] = {
    "thermal": fj.FrozenPhonons(2, seed=1),
    "thicknesses": [4.0, 8.0],
    "sampling": 0.1,
    "window": None,
    "slice_thickness": 2.0,
}


@pytest.fixture(scope="module")
def atoms():
    return fj.displaced_supercell(fj.material("BaTiO3"), np.full((1, 1, 3), [0.1, 0, 0]), 2)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(simulation, "EDGES", (2,))


def test_blocks_are_what_simulate_gives(atoms, small_blocks, tmp_path):
    seen = []
    path = fj.simulate_to_zarr(
        tmp_path / "new" / "scan.zarr", atoms, PROBE, SCAN, DETECTORS, standard_errors=True,
        on_progress=lambda *n: seen.append(n), **ARGUMENTS,
    )  # fmt: skip
    assert seen == [(n, 6) for n in range(1, 7)]
    assert [p.name for p in path.parent.iterdir()] == ["scan.zarr"]
    store: Any = zarr.open_group(path, mode="r")
    assert sorted(store) == ["adf", "adf_standard_error", "camera", "camera_standard_error"]
    whole = fj.simulate(atoms, PROBE, SCAN, DETECTORS, **ARGUMENTS)
    for name, result in whole.items():
        np.testing.assert_allclose(store[name][:], result.data, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(store[f"{name}_standard_error"][:], result.standard_error, rtol=1e-2, atol=1e-9)
    assert store["camera"].chunks == (2, 2, 2, 15, 15)
    attributes = dict(store["camera"].attrs)
    assert attributes["thickness_A"] == pytest.approx([4, 8])
    assert attributes["sampling_A"] == pytest.approx([0.3, 2 / 3])
    assert attributes["angular_sampling_mrad"] == [5, 5]


@pytest.mark.study
def test_blocks_of_a_blurred_scan_of_a_repeated_box_at_rest_are_what_simulate_gives(small_blocks, tmp_path):
    cell = fj.displaced_supercell(fj.material("BaTiO3"), np.full((1, 1, 3), [0.1, 0, 0]), 2)
    probe, scan = fj.Probe(200e3, 21.4, source_size=0.5), fj.Scan.grid((0, 0), cell.box[:2], (4, 4))
    rings = {"adf": fj.AnnularDetector(40, 80)}
    path = fj.simulate_to_zarr(tmp_path / "scan.zarr", cell, probe, scan, rings, sampling=0.1)
    store: Any = zarr.open_group(path, mode="r")
    whole = fj.simulate(cell, probe, scan, rings, sampling=0.1)
    np.testing.assert_allclose(store["adf"][:], whole["adf"].data, rtol=1e-4)


def test_an_interrupted_run_goes_on_and_another_request_does_not(atoms, small_blocks, tmp_path, monkeypatch):
    target = tmp_path / "scan.zarr"

    def stop(done, blocks):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fj.simulate_to_zarr(target, atoms, PROBE, SCAN, DETECTORS, on_progress=stop, **ARGUMENTS)
    assert not target.exists()
    with pytest.raises(fj.InputError, match=r"path: .*another request.*remove \.scan\.zarr\.partial"):
        fj.simulate_to_zarr(target, atoms, fj.Probe(200e3, 20.0), SCAN, DETECTORS, **ARGUMENTS)
    calls = []
    compute = simulation.simulate
    monkeypatch.setattr(simulation, "simulate", lambda *a, **k: calls.append(1) or compute(*a, **k))
    fj.simulate_to_zarr(target, atoms, PROBE, SCAN, DETECTORS, **ARGUMENTS)
    assert len(calls) == 4
    store: Any = zarr.open_group(target, mode="r")
    whole = fj.simulate(atoms, PROBE, SCAN, DETECTORS, **ARGUMENTS)
    np.testing.assert_allclose(store["adf"][:], whole["adf"].data, rtol=1e-4)
    with pytest.raises(fj.InputError, match="path: exists already"):
        fj.simulate_to_zarr(target, atoms, PROBE, SCAN, DETECTORS, **ARGUMENTS)


def test_what_cannot_be_written_or_held_is_told_before_anything_is_computed(atoms, tmp_path, monkeypatch):
    monkeypatch.setattr(simulation, "simulate", lambda *a, **k: pytest.fail("computed"))
    (tmp_path / "file").touch()
    with pytest.raises(fj.InputError, match="path: cannot be written"):
        fj.simulate_to_zarr(tmp_path / "file" / "scan.zarr", atoms, PROBE, SCAN, DETECTORS, **ARGUMENTS)
    with pytest.raises(fj.InputError, match=r"memory: GiB do not hold a single position.*allow 0\.2 GiB"):
        fj.simulate_to_zarr(tmp_path / "scan.zarr", atoms, PROBE, SCAN, DETECTORS, memory=0.01, **ARGUMENTS)
    with pytest.raises(fj.InputError, match="memory: must be positive"):
        fj.simulate_to_zarr(tmp_path / "scan.zarr", atoms, PROBE, SCAN, DETECTORS, memory=-1, **ARGUMENTS)
    with pytest.raises(fj.InputError, match="samplng"):
        fj.simulate_to_zarr(tmp_path / "scan.zarr", atoms, PROBE, SCAN, DETECTORS, samplng=0.1)
    for names in ({"written"}, {"haadf", "haadf_standard_error"}, {"a/b"}):
        rings = {name: fj.AnnularDetector(40, 80) for name in names}
        with pytest.raises(fj.InputError, match="detector: is no name for an array of the store"):
            fj.simulate_to_zarr(tmp_path / "scan.zarr", atoms, PROBE, SCAN, rings, **ARGUMENTS)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


CAMERA_RUN = """
import numpy as np
import ferrojax as fj


def peak():  # KiB, of this program alone
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])


atoms = fj.displaced_supercell(fj.material("BaTiO3"), np.zeros((1, 1, 3)), 1)
scan, camera = fj.Scan.grid((1, 1), (2, 2), (32, 32)), {"c": fj.PixelatedDetector(40, shape=(192, 192))}
asked = atoms, fj.Probe(200e3, 21.4), scan, camera
how = dict(thermal=fj.FrozenPhonons(THERMAL, seed=0), sampling=0.1, window=None, route="probes")
plan = sum(fj.plan_simulation(*asked, **how).memory.values())
before = peak()
fj.simulate(*asked, **how)["c"].data.block_until_ready()
print(plan / 1024 / (peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("configurations", [1, 3])
def test_the_plan_of_a_camera_knows_its_memory(configurations):
    """150 MiB of patterns: planned within a quarter of what the process grows by."""
    code = CAMERA_RUN.replace("THERMAL", str(configurations))
    # compiled anew: that takes memory, too, which a program that was kept does not
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert float(done.stdout) == pytest.approx(1, abs=0.25)


def test_a_store_whose_move_was_not_made_is_moved(atoms, small_blocks, tmp_path, monkeypatch):
    target = tmp_path / "scan.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(simulation.Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fj.simulate_to_zarr(target, atoms, PROBE, SCAN, DETECTORS, **ARGUMENTS)
    monkeypatch.setattr(simulation, "simulate", None)  # nothing is computed again
    assert fj.simulate_to_zarr(target, atoms, PROBE, SCAN, DETECTORS, **ARGUMENTS) == target
    assert [p.name for p in tmp_path.iterdir()] == ["scan.zarr"]


def test_a_store_that_was_stopped_before_its_first_word_is_made_anew(atoms, small_blocks, tmp_path):
    group = zarr.open_group(tmp_path / ".scan.zarr.partial", mode="w-")
    group.create_array("written", shape=(6,), dtype="uint8")
    assert fj.simulate_to_zarr(tmp_path / "scan.zarr", atoms, PROBE, SCAN, {"adf": DETECTORS["adf"]}, **ARGUMENTS)


def test_a_tilt_for_every_position_and_units(atoms, small_blocks, tmp_path):
    tilt = np.random.default_rng(0).normal(0, 10, (*SCAN.shape, 2))
    detectors = {"adf": fj.AnnularDetector(40, 80), "com": fj.CentreOfMass(40)}
    arguments = {**ARGUMENTS, "thermal": None, "tilt": tilt}
    store: Any = zarr.open_group(
        fj.simulate_to_zarr(tmp_path / "scan.zarr", atoms, PROBE, SCAN, detectors, **arguments), mode="r"
    )
    whole = fj.simulate(atoms, PROBE, SCAN, detectors, **arguments)
    np.testing.assert_allclose(store["com"][:], whole["com"].data, atol=1e-3)
    assert store["com"].attrs["unit"] == "mrad"
    assert store["adf"].attrs["unit"] == "fraction of the beam"
