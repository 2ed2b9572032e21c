"""4D-STEM: patterns per second beside abTEM's, and the memory of a scan written block by block.

usage: python benchmarks/bench_camera.py [OUT_FOLDER]     (about 10 minutes)
patterns: BaTiO3 domains, 8 × 8 cells (32 Å), 20 cells thick, 12 × 12 probes, a camera of 256 × 256 pixels to 60 mrad,
single precision, 0.05 Å per pixel, all cores; a pattern of one thermal configuration counts as one. abTEM on the whole
box; ferrojax on the same box and grid, and as it comes (windows) with two configurations. Times without ferrojax's
compilation. store: 48 × 48 probes × 256 × 256 pixels (576 MiB), two configurations, written under a plan of 1 GiB:
peak memory of the process. plan: what 128 × 128 probes × 256 × 256 pixels and eight configurations take, as planned.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from common import RESULTS, write_result

import ferrojax as fj

fj.use_all_cores()  # before JAX starts, so that it shares its work out as abTEM's threads do

PROBE = fj.Probe(200e3, 21.4)
CAMERA = {"camera": fj.PixelatedDetector(60, shape=(256, 256))}


def specimen(cells: int, depth: int) -> fj.Atoms:
    field = fj.stripe_field((cells, cells), (0.1, 0.0, 0.0), (-0.1, 0.0, 0.0))
    return fj.displaced_supercell(fj.material("BaTiO3"), field, depth)


def timed(run) -> float:
    run()
    start = perf_counter()
    run()
    return perf_counter() - start


def ours(atoms, scan, configurations=1, **how) -> float:
    """Patterns per second."""
    thermal = fj.FrozenPhonons(configurations) if configurations > 1 else None

    def run():
        out = fj.simulate(atoms, PROBE, scan, CAMERA, thermal=thermal, sampling=0.05, slice_thickness=2.0, **how)
        out["camera"].data.block_until_ready()

    return scan.shape[0] * scan.shape[1] * configurations / timed(run)


def theirs(atoms, scan) -> float:
    from ferrojax.interop.abtem import scan_pixelated

    start = perf_counter()
    scan_pixelated(atoms, PROBE, scan, 60.0, 0.05, 2.0)
    return scan.shape[0] * scan.shape[1] / (perf_counter() - start)


def store() -> dict:
    atoms, scan = specimen(8, 2), fj.Scan.grid((4, 4), (20, 20), (48, 48))
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        fj.simulate_to_zarr(
            Path(folder) / "scan.zarr", atoms, PROBE, scan, CAMERA, memory=1.0, sampling=0.05,
            thermal=fj.FrozenPhonons(2, seed=0),
        )  # fmt: skip
        seconds = perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"positions": 48 * 48, "patterns_MiB": 576, "seconds": seconds, "peak_GiB": peak}


def plan() -> dict:
    """Of the whole scan of a domain structure in blocks of 32 × 32 positions: minutes on two cores, a block's plan."""
    atoms, scan = specimen(12, 20), fj.Scan.grid((4, 4), (14, 14), (32, 32))
    block = fj.plan_simulation(atoms, PROBE, scan, CAMERA, thermal=fj.FrozenPhonons(8), sampling=0.05)
    return {"minutes": block.seconds * 16 / 60, "block": str(block)}


def main(folder) -> None:
    atoms, scan = specimen(8, 20), fj.Scan.grid((4, 4), (16, 16), (12, 12))
    rows = {
        "abtem": theirs(atoms, scan),
        "same box and grid": ours(atoms, scan, window=None, route="probes"),
        "windows": ours(atoms, scan, 2),
    }
    ratio = {name: rate / rows["abtem"] for name, rate in rows.items()}
    print(rows, ratio, flush=True)
    done = subprocess.run([sys.executable, __file__, "store"], capture_output=True, text=True, check=True)
    figures = {
        "patterns_per_second": rows,
        "times_abtem": ratio,
        "store": json.loads(done.stdout.splitlines()[-1]),
        "plan": plan(),
    }
    print(write_result("camera", figures, folder))


if __name__ == "__main__":
    if sys.argv[1:] == ["store"]:
        print(json.dumps(store()))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
