"""A scan whose microscope is hidden, mapped by one command: `ferrojax map --method microscope`, beside the column fits.

usage: python benchmarks/bench_scan.py SET.npz FOLDER [OUT_FOLDER]     (20 minutes on two busy cores; SET of
simulations/render_polar_truth.py; FOLDER keeps images and map, and a map that is there is only scored again)
The first box of the set, HAADF and ABF under a source of 0.5 Å, tiled 3 × 3, 1500 counts a pixel. The command is told
energy, rings (HAADF as without end), the semi-angle 0.2 mrad too large, and a thickness of 130 ± 15 Å for 139.
"""

import json
import sys
from pathlib import Path

import numpy as np
from bench_displacement import DOSE, PIXELS, blurred, of_map, true_displacement
from bench_recording import read_set, truth_of
from common import RESULTS, write_result

import ferrojax as fj
from ferrojax.cli import main as ferrojax_command

KNOWN = "thickness=130:15"


def main(path: Path, place: Path, folder: str | Path = RESULTS) -> None:
    settings, signals, shift = read_set(path)
    crystal = fj.material(path.stem)
    a, rng = float(crystal.cell[0, 0]), np.random.default_rng(0)
    place.mkdir(parents=True, exist_ok=True)
    for name, signal in signals.items():
        clean = blurred(signal[0], 3 * a)
        drawn = rng.poisson(np.tile(clean / clean.mean() * DOSE, (3, 3))).astype(np.float32)
        np.savez(place / f"{name}.npz", image=drawn, sampling=a / PIXELS)
    ring, probe, out = settings["detectors"], settings["probe"], place / "out"
    if not (out / "map.hspy").exists():
        ferrojax_command([
            "map", str(place / "haadf.npz"), "--crystal", path.stem, "--method", "microscope",
            "--energy", str(probe["energy"]), "--detector", f"{ring['haadf'][0]}:",
            "--semiangle", str(probe["semiangle"] + 0.2), "--beside", str(place / "abf.npz"),
            "--beside-detector", ":".join(map(str, ring["abf"])), "--known", KNOWN, "--out", str(out),
        ])  # fmt: skip
    true, image = true_displacement(path, 0), fj.read(place / "haadf.npz")
    assert isinstance(image, fj.Image)
    maps = {
        "column fit": fj.map_polarization(image, crystal),
        "oxygen drawn": fj.map_polarization(image, crystal, oxygen=True),
        "one command": fj.read_map(out / "map.hspy"),
    }
    figures = {name: of_map(each, crystal, true) for name, each in maps.items()}
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    found, truth = summary["recording"], truth_of(settings, crystal, shift[0])
    figures["common_error"] = (np.sqrt(np.diag(found["common_covariance_pm2"]))).tolist()
    figures["seconds"] = summary["seconds"]
    figures["recording"] = {
        name: {"truth": truth.get(name), "value": value, "error": found["error"][name]}
        for name, value in found["value"].items()
    }
    for name, row in figures.items():
        print(name, row)
    write_result(f"scan_{path.stem}", figures, folder)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
