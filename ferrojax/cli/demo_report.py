"""What `ferrojax demo` writes: maps, the report, the checkpoint and summary.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferrojax.cli.info import versions
from ferrojax.crystal import material
from ferrojax.data import data_file
from ferrojax.dataset import SimulatedSet
from ferrojax.inference import Truth, no_signal, score
from ferrojax.io import write_csv, write_map
from ferrojax.polarization import displacement_statistics
from ferrojax.report import (
    Curve,
    MapReport,
    Table,
    calibration_facts,
    map_facts,
    polarization_figure,
    write_html,
    write_summary,
)
from ferrojax.training import Schedule, save_model


@dataclass(frozen=True)
class Outcome:
    """All that the demo computed: scan -> image, scan -> method -> map, name -> trained network, and the settings."""

    scans: dict
    maps: dict[str, dict]
    trained: dict
    simulated: SimulatedSet
    schedule: Schedule
    watch: Any
    seed: int


METHODS = {
    "classical": "column fit",
    "simulation_only": "network, simulation only",
    "joint": "network, joint with the unlabelled scan",
}


FOUND = {
    "thickness_A": "thickness / Å",
    "semiangle_mrad": "semi-angle / mrad",
    "tilt_mrad": "size of the tilt / mrad",
    "source_rms_x_A": "rms width of source and filter along the crystal's x / Å",
    "source_rms_y_A": "the same along y / Å",
    "noise_rms": "noise of a patch, relative to its standard deviation",
    "typical_mismatch": "mismatch of the mean cell, weighted mean",
    "best_mismatch": "mismatch of the mean cell, best simulation",
}


def errors(maps: dict[str, dict]) -> dict[str, dict]:
    """Method -> score on the pseudo-experiment, pm, and the map that says zero everywhere."""
    truth = Truth.load(data_file("pseudo_experiment.npz"))
    found: dict[str, dict] = {method: score(maps["pseudo"][method], truth) for method in METHODS}
    found["no_signal"] = no_signal(truth)
    return found


def null_statistics(maps: dict[str, dict]) -> dict[str, Any]:
    """False displacement that the column fit reports on non-polar SrTiO3, pm (x, y)."""
    found = displacement_statistics(maps["null"]["classical"])
    return {
        "mean": np.asarray(found["mean"]).tolist(),
        "sd": np.asarray(found["spread"]).tolist(),
        "mean_error": np.asarray(found["mean_error"]).tolist(),
        "cells": found["n"],
    }


def error_table(found: dict[str, dict]) -> Table:
    """The table of the pseudo-experiment."""
    rows = []
    for method, name in {**METHODS, "no_signal": "zero everywhere (sees no signal)"}.items():
        s = found[method]
        coverage = [f"{100 * s[k]:.0f} %" if k in s else "" for k in ("coverage_68", "coverage_95")]
        extra = [f"{s[k]:.2f}" if k in s else "" for k in ("scatter", "slope")]
        rows.append([name, f"{s['rmse']:.2f}", f"{s['bias']:.2f}", *extra, *coverage])
    return Table(
        "Errors on the pseudo-experiment, whose truth is known",
        ("method", "RMSE / pm", "bias / pm", "scatter / pm", "slope", "inside 68 %", "inside 95 %"),
        rows,
        "A BaTiO3 field rendered by abTEM (PRISM, its own frozen phonons) with hidden semi-angle, thickness, tilt, "
        "detector, source size, dose and scan distortion. RMSE per component over all cells; bias: length of the "
        "mean error; scatter: RMSE without it; slope of measured on true displacement (1 is right). No method saw "
        f"the truth. The {found['joint']['n']} cells repeat a field of 4 × 4: the figures rest on 16 displacements and "
        "one tilt.",
    )


def null_table(null: dict[str, Any]) -> Table:
    """False polarization of the control."""
    rows = [
        [axis, f"{m:+.2f} ± {e:.2f}", f"{s:.2f}"]
        for axis, m, e, s in zip("xy", null["mean"], null["mean_error"], null["sd"], strict=True)
    ]
    return Table(
        "Non-polar control: SrTiO3 [110]",
        ("axis", "mean / pm", "spread / pm"),
        rows,
        f"{null['cells']} cells of a real ADF image; the true displacement is zero. Column fit, nothing subtracted. "
        "± is spread/√cells: neighbouring cells share columns, so the error of the mean is larger than that.",
    )


def domain_table(trained: dict[str, Any]) -> Table:
    """What was found about the unlabelled scans."""
    rows = [[title, *(f"{trained[t].found[n]:.3g}" for t in ("real", "pseudo"))] for n, title in FOUND.items()]
    return Table(
        "What the unlabelled scans say about their recording",
        ("weighted mean over the simulations that match", "real BaTiO3", "pseudo-experiment"),
        rows,
        "From the inversion-even harmonics of the mean cell and the noise spectrum alone; mismatch is relative.",
    )


def curves(trained: dict[str, Any]) -> list[Curve]:
    """Training curves: label error on simulated patches, and the losses on real patches."""
    names = {"simulation_only": "simulation only", "pseudo": "joint, pseudo-experiment", "real": "joint, real image"}

    def series(term: str):
        return {names[n]: trained[n].curves[term] for n in names if term in trained[n].curves}

    return [
        Curve("Error on simulated patches", "step", "RMSE / pm", series("rmse_pm")),
        Curve("Supervised loss", "step", "negative log-likelihood", series("supervised")),
        Curve("Consistency on the unlabelled scan", "step", "(mean + half-turned mean)² / σ²", series("consistency")),
        Curve("Alignment of even features", "step", "CORAL distance", series("alignment"), log_y=True),
    ]


def settings_facts(outcome: Outcome) -> list[tuple[str, object]]:
    """Settings, seeds, times and versions."""
    s, simulated, watch = outcome.schedule, outcome.simulated, outcome.watch
    supercells = len(set(simulated.specimen))
    return [
        ("seed", outcome.seed),
        ("simulated cells", f"{supercells * simulated.displacement[0, ..., 0].size} in {supercells} supercells"),
        ("thicknesses", ", ".join(f"{t / 10:.1f}" for t in simulated.thickness) + " nm"),
        ("training steps", f"{s.base} on simulation, then {s.final} (simulation only, or joint)"),
        ("joint loss", f"supervised + {s.consistency} · consistency + {s.alignment} · alignment"),
        *[(f"time, {stage}", f"{seconds:.0f} s") for stage, seconds in watch.seconds.items()],
        *versions().items(),
    ]


NOTES = (
    "Arrows show the displacement of Ti against its Ba neighbours, not P. In BaTiO3 both point the same way.",
    "Supervised: Gaussian negative log-likelihood on simulated patches, drawn as the scan records them: simulations "
    "are weighted by how well their mean cell can look like the scan's, under an even, zero-phase source, and get "
    "the scan's own noise spectrum. Consistency: a patch turned by 180° must give the opposite displacement, which "
    "is exact for any even point spread. Alignment: means and covariances of features averaged over the half turn, "
    "so that a net polarization cannot be aligned away. No label of the scan enters.",
    "The recorded pixel size of the BaTiO3 image is wrong, and its x and y scales differ by 5 %: both are corrected "
    "by an affine step on the Ba lattice, which also removes a real mean strain (c/a of BaTiO3 is 1.011).",
    "Microscope settings of the real image are not recorded: 200 kV and a detector from 60 mrad are assumed.",
    "A displacement common to all cells can be polarization, mis-tilt or an odd aberration. One HAADF image without "
    "a non-polar reference region cannot tell them apart; nothing is subtracted.",
    "The oxygen part of the soft mode is uncertain: training varies its ratio to Ti by a factor 0.7 to 1.3.",
    "A network answers with the mean of what fits the patch, so it shrinks what it cannot see: its slope is below 1, "
    "and its map is smoother than the truth. Its error bar includes that.",
    "Best mismatch is how far the closest simulation stays from the scan's mean cell. Where it exceeds a few percent "
    "the simulations do not yet span the recording (here: the Wiener filter and unknown optics of the real image), "
    "and the error on the real image, which nothing here measures, is probably larger than on the pseudo-experiment.",
)


def write_demo(folder: Path, outcome: Outcome) -> None:
    """All results of the demo."""
    scans, maps, trained, watch = outcome.scans, outcome.maps, outcome.trained, outcome.watch
    found, null = errors(maps), null_statistics(maps)
    real = maps["real"]
    joint = real["joint"]
    gain = [found[m]["rmse"] / found["joint"]["rmse"] for m in ("classical", "simulation_only")]
    report = MapReport(
        title="Polarization of BaTiO3, learned from simulation and from the image itself",
        lead=(
            f"{int(np.asarray(joint.valid).sum())} cells of a real HAADF image. On a pseudo-experiment of known truth "
            f"the joint network errs by {found['joint']['rmse']:.1f} pm per component, the column fit by "
            f"{found['classical']['rmse']:.1f} pm ({gain[0]:.1f} times as much), the network without the unlabelled "
            f"scan by {found['simulation_only']['rmse']:.1f} pm ({gain[1]:.2f} times as much)."
        ),
        image=scans["real"],
        maps={"Column fit": real["classical"], "Joint network": joint},
        columns=joint.columns,
        tables=[error_table(found), null_table(null), domain_table(trained)],
        curves=curves(trained),
        facts=[
            *calibration_facts(joint.calibration),
            *[(f"joint network: {k}", v) for k, v in map_facts(joint)],
            *[(f"column fit: {k}", v) for k, v in map_facts(real["classical"])],
            *settings_facts(outcome),
        ],
        notes=[*NOTES, *joint.notes],
    )
    write_map(folder / "map.hspy", joint)
    write_map(folder / "map_classical.hspy", real["classical"])
    write_csv(folder / "map.csv", joint)
    save_model(folder / "model", trained["real"].model)
    polarization_figure(report).savefig(folder / "map.png", dpi=130)
    watch.lap("maps and figure")
    write_html(folder / "report.html", report)
    summary = {
        "errors_pm": found,
        "null_pm": null,
        "calibration": joint.calibration.summary(),
        "map_pm": {m: displacement_statistics(real[m]) for m in METHODS},
        "recording_found": {name: trained[name].found for name in ("real", "pseudo")},
        "spread_scale": {name: t.spread_scale for name, t in trained.items()},
        "seconds": {**watch.seconds, "total": watch.total()},
        "versions": versions(),
        "seed": outcome.seed,
        "crystal": {"name": "BaTiO3", "sources": dict(material("BaTiO3").sources)},
    }
    write_summary(folder / "summary.json", summary)


def printed(outcome: Outcome) -> list[str]:
    """The result in lines for the terminal."""
    maps, watch = outcome.maps, outcome.watch
    found, null = errors(maps), null_statistics(maps)
    joint = maps["real"]["joint"]
    lines = [f"{name}: {value}" for name, value in calibration_facts(joint.calibration)]
    lines += [f"joint map, {name}: {value}" for name, value in map_facts(joint)]
    lines.append("pseudo-experiment (known truth), pm:")
    for method, name in METHODS.items():
        s = found[method]
        lines.append(f"  {name}: RMSE {s['rmse']:.2f}, bias {s['bias']:.2f}, slope {s['slope']:.2f}")
    lines.append(f"  zero everywhere: RMSE {found['no_signal']['rmse']:.2f}, bias {found['no_signal']['bias']:.2f}")
    mean, sd = (", ".join(f"{v:.2f}" for v in null[k]) for k in ("mean", "sd"))
    lines.append(f"non-polar SrTiO3, column fit: mean ({mean}) pm, spread ({sd}) pm; true value 0")
    lines.append(f"{watch.total():.0f} s")
    return lines
