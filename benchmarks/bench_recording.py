"""The recording fitted to mean cells whose microscope is known: every parameter beside its truth, its error, its prior.

usage: python benchmarks/bench_recording.py SET.npz [OUT_FOLDER]     (SET of simulations/render_polar_truth.py; the
response of the material is computed first, 5 to 10 minutes on two cores)
The set's boxes were rendered with explicit phonons, a microscope of their own and rings that end; the response knows
none of it, has its own phonons (FastThermal, 4 configurations) and rings without end. Priors are those of
ferrojax.refinement, with a semi-angle known to 0.5 mrad about its true value plus 0.3. No noise of counting: what
limits is the phonons' and the 9 cells' own scatter. `flat`: a fit that knows only a common displacement and the source,
at the prior's thickness and no tilt.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import jax.numpy as jnp
import numpy as np
from common import RESULTS, write_result

import ferrojax as fj
from ferrojax.polarization import CellFrames
from ferrojax.refinement import MeanCell, Recording, cell_response, fit_mean_cells, mean_cell

FARTHEST = 1.2
"""1/Å of the mean cell's coefficients."""


def read_set(path: Path) -> tuple[dict, dict[str, np.ndarray], np.ndarray]:
    """Settings, detector -> (boxes, rows, cols) mean of all pairs, and B's displacement (boxes, ny, nx, 2) Å."""
    with np.load(path) as z:
        settings = json.loads(str(z["settings"]))
        signals = {k: z[k].mean(1) * float(z[f"{k}_scale"]) for k in settings["detectors"]}
        return settings, signals, np.asarray(z["displacement_B"], float)[..., :2]


def cells_of(signal: np.ndarray, crystal: fj.Crystal) -> MeanCell:
    """The mean cell of a periodic box of 3 × 3 cells, about the true centroid of every cell's A columns."""
    a = float(crystal.cell[0, 0])
    step = 3 * a / signal.shape[-1]
    b = np.asarray(crystal.position)[crystal.label.index("B"), :2] * a
    index = np.stack(np.meshgrid(np.arange(1, 4), np.arange(1, 4)), -1).reshape(-1, 2)
    frames = CellFrames(
        jnp.asarray((index * a + b) / step),
        jnp.eye(2) / step,
        jnp.eye(2),
        jnp.zeros((9, 2)),
        jnp.tile(jnp.eye(2), (9, 1, 1)),
    )
    return mean_cell(fj.Image(jnp.asarray(np.tile(signal, (2, 2))), (step, step)), frames, (a, a), FARTHEST)


def truth_of(settings: dict, crystal: fj.Crystal, shift: np.ndarray) -> dict[str, float]:
    probe = settings["probe"]
    other = probe.get("aberrations", {})
    astigmatism = other.get("C12", 0.0) * np.exp(2j * other.get("phi12", 0.0))
    coma = other.get("C21", 0.0) * np.exp(1j * other.get("phi21", 0.0))
    mean = shift.reshape(-1, 2).mean(0)
    return {
        "thickness": settings["depth"] * float(crystal.cell[2, 2]),
        "tilt_x": settings["tilt"][0], "tilt_y": settings["tilt"][1],
        "defocus": probe.get("defocus", 0.0), "semiangle": probe["semiangle"],
        "astigmatism_x": astigmatism.real, "astigmatism_y": astigmatism.imag, "coma_x": coma.real, "coma_y": coma.imag,
        "displacement_x": mean[0], "displacement_y": mean[1], "spread": shift.reshape(-1, 2).std(0).mean(),
        "mode": settings["mode_scale"],
    }  # fmt: skip


def row(found: Recording, truth: dict[str, float], seconds: float) -> dict:
    table = {
        name: {
            "truth": truth.get(name), "value": found.value[i], "error": found.error[i], "prior": found.prior[i],
            "prior_error": found.prior_error[i],
            "pull": None if name not in truth else (found.value[i] - truth[name]) / found.error[i],
        }
        for i, name in enumerate(found.name)
    }  # fmt: skip
    return {"misfit": found.misfit, "depth": min(found.depth, 1e9), "seconds": seconds, "parameters": table}


def main(path: Path, folder: str | Path = RESULTS) -> None:
    settings, signals, shift = read_set(path)
    crystal = fj.material(path.stem)
    a = float(crystal.cell[2, 2])
    depth = settings["depth"]
    planes = [round(n * a, 3) for n in range(max(10, depth - 20), depth + 21, 5)]
    rings = {k: fj.AnnularDetector(r[0], np.inf if r[1] > 100 else r[1]) for k, r in settings["detectors"].items()}
    start = perf_counter()
    semiangle = settings["probe"]["semiangle"]
    response = cell_response(
        crystal, settings["probe"]["energy"], rings, thicknesses=planes, max_semiangle=semiangle + 2.0, max_tilt=7.0
    )
    figures: dict = {"set": path.stem, "response_seconds": perf_counter() - start, "boxes": []}
    for box in range(len(shift)):
        cells = {k: cells_of(v[box], crystal) for k, v in signals.items()}
        truth, rows = truth_of(settings, crystal, shift[box]), {}
        for name, some in {"haadf": ["haadf"], "haadf + abf": list(cells)}.items():
            start = perf_counter()
            priors = {"semiangle": (semiangle + 0.3, 0.5), "registration_x": (0.0, 0.02), "registration_y": (0.0, 0.02)}
            found = fit_mean_cells({k: cells[k] for k in some}, crystal, response, priors=priors)
            rows[name] = row(found, truth, perf_counter() - start)
            for key, one in rows[name]["parameters"].items():
                print(f"{name:12} {key:18}", *(f"{k} {v:.3f}" for k, v in one.items() if v is not None))
            print(f"{name}: misfit {found.misfit:.2f}, next basin {found.depth:.1f}, {rows[name]['seconds']:.0f} s")
        figures["boxes"].append(rows)
        write_result(f"recording_{path.stem}", figures, folder)  # after every box: a long run may be cut off


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:3])
