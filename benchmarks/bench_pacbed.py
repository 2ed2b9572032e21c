"""Thickness, semi-angle and tilt of a silicon foil from one measured PACBED pattern, fitted by gradient.

usage: FERROJAX_REFERENCE_DATA=FOLDER python benchmarks/bench_pacbed.py       (about 10 min on 2 cores)
Data: si110_pacbed_200kV (Allen, D'Alfonso & Findlay, Ultramicroscopy 151, 11 (2015)). The thickness is scanned by
starting fits from 50 to 300 Å; the best goes on at full resolution; its error is stated in three ways (Fisher,
block bootstrap, quadrants), and what the model takes for granted is varied.
"""

import json
import os
import platform
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from pacbed_fit import CENTRE, MRAD_PER_PX, RADIUS, RMS, SIZE, START, Choice, Fit, Picture, Specimen, fit

RESULTS = Path(__file__).parent / "results"
STARTS = tuple(range(50, 301, 50))
REPORTED = ("thickness", "semiangle", "tilt_x", "tilt_y", "rotation", "scale", "edge", "tail", "tail_width")
PACKAGES = ("jax", "numpy", "scipy", "equinox")
BLOCK = 30
"""px: side of the blocks that the bootstrap draws; blocks of twice that are drawn too, because misfit is correlated."""


def fisher(result: Fit) -> dict[str, float]:
    """Standard errors from the inverse of JᵀJ, inflated by the reduced χ² of the fit (which knows no correlation)."""
    n, p = result.jacobian.shape
    covariance = np.linalg.inv(result.jacobian.T @ result.jacobian) * (result.residual**2).sum() / (n - p)
    return {name: float(covariance[i, i] ** 0.5 * SIZE[name]) for i, name in enumerate(result.free)}


def bootstrap(result: Fit, picture: Picture, block: int, draws: int = 1000) -> dict[str, float]:
    """Standard deviation of one Gauss–Newton step from the fit when blocks of pixels are drawn with replacement."""
    label = picture.used.rows // block * 1000 + picture.used.cols // block
    _, label = np.unique(label, return_inverse=True)
    blocks = label.max() + 1
    j, r = result.jacobian, result.residual
    normal = np.stack([j[label == b].T @ j[label == b] for b in range(blocks)])
    gradient = np.stack([j[label == b].T @ r[label == b] for b in range(blocks)])
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, blocks, blocks), minlength=blocks)
        steps.append(-np.linalg.solve(np.tensordot(times, normal, 1), times @ gradient))
    return {name: float(np.std(steps, axis=0)[i] * SIZE[name]) for i, name in enumerate(result.free)}


def quadrants(start: dict, counts: np.ndarray, choice: Choice, specimen: Specimen) -> list[dict]:
    """Fits to each quarter of the pattern alone, geometry and blur held at the whole pattern's."""
    held = tuple(n for n in START if n not in ("thickness", "semiangle", "tilt_x", "tilt_y", "gain", "constant"))
    whole = Picture.of(counts, choice)
    found = []
    for sy in (-1, 1):
        for sx in (-1, 1):
            sector = (np.asarray(whole.x) * sx > 0) & (np.asarray(whole.y) * sy > 0)
            part = fit(start, specimen, Picture.of(counts, choice, sector), replace(choice, fixed=held), rounds=2)
            found.append({n: part.value[n] for n in ("thickness", "semiangle", "tilt_x", "tilt_y")})
    return found


def variations(start: dict, counts: np.ndarray, choice: Choice) -> dict[str, dict]:
    """The same fit under other assumptions."""
    cases = {
        "reference": choice,
        "Kirkland amplitudes": replace(choice, parametrization="kirkland"),
        "B +10 %": replace(choice, rms=RMS * 1.1**0.5),
        "B -10 %": replace(choice, rms=RMS * 0.9**0.5),
        "B fitted": replace(choice, fixed=()),
        "no thermal absorption": replace(choice, absorption=False),
        "finer grid and directions": replace(choice, shape=(64, 48), step=1.25),
        "pixels weighted equally": replace(choice, weighting="equal"),
        "mask of 1.5 radii": replace(choice, mask=1.5),
    }
    found = {}
    for name, case in cases.items():
        value = start | {"rms": case.rms}
        result = fit(value, Specimen(case), Picture.of(counts, case), case, rounds=3, done=0.02)
        found[name] = {n: result.value[n] for n in (*REPORTED, "rms")} | {"correlation": result.correlation}
        say(name, result)
    return found


def regions(image: np.ndarray, picture: Picture) -> dict[str, float]:
    """Correlations in parts of the mask, and what a picture without any diffraction contrast reaches."""
    rows, cols = picture.used.rows, picture.used.cols
    radius = np.hypot(np.asarray(picture.x), np.asarray(picture.y))[rows, cols] / RADIUS
    data, model = np.asarray(picture.data, float)[rows, cols], image[rows, cols]
    ring = np.minimum((radius * 30).astype(int), 80)
    mean = np.bincount(ring, data) / np.maximum(np.bincount(ring), 1)

    def r(a, b, where=None):
        return float(np.corrcoef(*((a, b) if where is None else (a[where], b[where])))[0, 1])

    return {
        "mask_2_radii": r(model, data),
        "inside_0.95_radii": r(model, data, radius < 0.95),
        "outside_1.05_radii": r(model, data, radius > 1.05),
        "logarithm_of_counts": r(np.log(np.maximum(model, 1)), np.log(np.maximum(data, 1))),
        "baseline_rotational_mean_of_the_data": r(mean[ring], data),
        "baseline_outside_1.05_radii": r(mean[ring], data, radius > 1.05),
        "rms_difference_over_rms_counts": float(np.sqrt(((model - data) ** 2).mean() / (data**2).mean())),
    }


def draw(image: np.ndarray, picture: Picture, path: Path) -> None:
    """Measured, fitted, difference."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    n = picture.data.shape[0]
    binning = 618 // n
    half = 618 / 2 * MRAD_PER_PX
    shift = (308.5 - CENTRE) * MRAD_PER_PX
    extent = (shift[0] - half, shift[0] + half, shift[1] + half, shift[1] - half)
    seen = np.zeros(picture.data.shape, bool)
    seen[picture.used.rows, picture.used.cols] = True
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.3), layout="constrained")
    data = np.asarray(picture.data)
    for axis, values, title in ((axes[0], data, "measured"), (axes[1], image, "fitted")):
        shown = axis.imshow(
            np.where(seen, np.sqrt(np.maximum(values, 0)), np.nan), cmap="gray", extent=extent, vmin=0, vmax=72
        )
        axis.set_title(title)
    figure.colorbar(shown, ax=axes[:2], label="√counts", shrink=0.85)
    shown = axes[2].imshow(np.where(seen, data - image, np.nan), cmap="RdBu_r", extent=extent, vmin=-500, vmax=500)
    axes[2].set_title("measured − fitted")
    figure.colorbar(shown, ax=axes[2], label="counts", shrink=0.85)
    for axis in axes:
        axis.set_xlabel("mrad")
    figure.suptitle(f"Si [110], 200 kV, PACBED (pixels of {binning} × {binning}, mask of two disc radii)")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def commit() -> str:
    """The commit that this tree is at, "-dirty" where it differs."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=RESULTS.parent).stdout.strip()


def say(name, result: Fit) -> None:
    shown = ", ".join(f"{n} {result.value[n]:.4g}" for n in REPORTED)
    print(f"{name}: r = {result.correlation:.4f}, χ² {np.mean(result.residual**2):.2f}: {shown}", flush=True)


def main(folder: Path) -> None:
    begun, tree = time.time(), commit()
    counts = np.load(folder / "si110_pacbed_200kV" / "si110_pacbed.npz")["pattern"].astype(float)
    quick = Choice(binning=6)
    picture, specimen = Picture.of(counts, quick), Specimen(quick)
    scan = []
    for start in STARTS:
        result = fit(START | {"thickness": float(start)}, specimen, picture, quick, rounds=3, done=0.05)
        say(start, result)
        scan.append({"start": start, "chi2": float(np.mean(result.residual**2)), "correlation": result.correlation}
                    | {n: result.value[n] for n in ("thickness", "semiangle", "tilt_x", "tilt_y")})  # fmt: skip
        scan[-1]["all"] = result.value
    best = min(scan, key=lambda s: s["chi2"])["all"]
    seconds_scan = time.time() - begun
    named = fit(best | {"thickness": 143.0}, specimen, picture, replace(quick, fixed=("rms", "thickness")), rounds=3)
    say("held at 143 Å", named)
    full = Choice(binning=3)
    sharp = Picture.of(counts, full)
    final = fit(best, specimen, sharp, full, rounds=4)
    say("final", final)
    RESULTS.mkdir(exist_ok=True)
    draw(final.image, sharp, RESULTS / "pacbed.png")
    quarter = quadrants(final.value, counts, quick, specimen)
    print(quarter, flush=True)
    other = variations(final.value, counts, quick)
    spread = [v["thickness"] for v in other.values()]
    record = {
        "command": "FERROJAX_REFERENCE_DATA=... python benchmarks/bench_pacbed.py",
        "commit": tree,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "device": str(jax.devices()[0]),
        "value": final.value,
        "mrad_per_px": final.value["scale"] * MRAD_PER_PX,
        "correlation": regions(final.image, sharp),
        "standard_error": {
            "fisher_inflated": fisher(final),
            "bootstrap_of_30_px_blocks": bootstrap(final, sharp, BLOCK // full.binning),
            "bootstrap_of_60_px_blocks": bootstrap(final, sharp, 2 * BLOCK // full.binning),
            "quadrants_sd_over_2": {n: float(np.std([q[n] for q in quarter], ddof=1) / 2) for n in quarter[0]},
        },
        "chi2": float(np.mean(final.residual**2)),
        "quadrants": quarter,
        "variations": other,
        "systematic_half_range_of_thickness": (max(spread) - min(spread)) / 2,
        "file_name_thickness": 143.0,
        "held_at_143": {"correlation": named.correlation, "chi2": float(np.mean(named.residual**2))},
        "held_at_143_value": named.value,
        "scan": [{k: v for k, v in s.items() if k != "all"} for s in scan],
        "seconds": {"scan": seconds_scan, "all": time.time() - begun},
    }  # fmt: skip
    (RESULTS / "pacbed.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(os.environ["FERROJAX_REFERENCE_DATA"]))
