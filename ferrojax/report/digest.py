"""The few numbers that sum up a map and its calibration, the same for page, terminal and summary.json."""

import numpy as np

from ferrojax.columns import Calibration
from ferrojax.polarization import PolarizationMap, displacement_statistics


def map_statistics(pmap: PolarizationMap) -> dict[str, object]:
    """Valid cells; (x, y) in pm: mean displacement, its standard error, robust spread, typical σ of a cell.

    The standard error of the mean is a block bootstrap's: it knows of scatter and its correlation between cells,
    not of a common bias; errors_shared_along says along which lines cells far apart err together ("": none).
    column_sigma_of_scan_lines_pm: what the scan lines add to every column's error; lattice_disorder_pm: rms by which
    the columns of one sublattice scatter beyond their errors: structure, and part of no error. The error of the
    polarization adds the response's own.
    """
    found = displacement_statistics(pmap)
    spread = np.asarray(found["spread"])
    statistics: dict[str, object] = {
        "cells": found["n"],
        "mean_pm": np.asarray(found["mean"]).tolist(),
        "mean_error_pm": np.asarray(found["mean_error"]).tolist(),
        "errors_shared_along": found["along"],
        "spread_pm": spread.tolist(),
        "sigma_pm": np.asarray(found["standard_error"]).tolist(),
    }
    lines = pmap.columns.lines
    if lines is not None:
        statistics["column_sigma_of_scan_lines_pm"] = (100 * np.sqrt(np.asarray(lines.variance, float))).tolist()
        statistics["lattice_disorder_pm"] = (100 * np.asarray(lines.disorder, float)).tolist()
    if pmap.polarization is not None and pmap.response is not None:
        mean = np.asarray(pmap.polarization, float)[np.asarray(pmap.valid)].mean(axis=0)
        scatter = np.asarray(pmap.response, float) ** 2 @ (np.asarray(found["mean_error"]) / 100) ** 2
        error = np.sqrt(scatter + ((pmap.response_error or 0.0) * mean) ** 2)
        statistics["mean_polarization_C_per_m2"] = mean.tolist()
        statistics["mean_polarization_error_C_per_m2"] = error.tolist()
    return statistics


def map_facts(pmap: PolarizationMap) -> list[tuple[str, str]]:
    """`map_statistics` as (name, value with unit)."""
    found = map_statistics(pmap)
    facts = [
        ("cells mapped", str(found["cells"])),
        ("mean displacement (x, y)", f"{_pair(found['mean_pm'])} ± {_pair(found['mean_error_pm'], '')} pm"),
        ("spread over cells (x, y)", f"{_pair(found['spread_pm'], '')} pm"),
        ("σ of a cell (x, y)", f"{_pair(found['sigma_pm'], '')} pm"),
    ]
    if found["errors_shared_along"]:
        how = f"along {found['errors_shared_along']}, so the error of the mean is from whole lines of cells"
        facts.append(("cells err together", how))
    if "lattice_disorder_pm" in found:
        facts += [
            ("scan lines add to the σ of a column (x, y)", f"{_pair(found['column_sigma_of_scan_lines_pm'], '')} pm"),
            (
                "columns off the smooth lattice beyond their σ (x, y)",
                f"{_pair(found['lattice_disorder_pm'], '')} pm rms",
            ),
        ]
    if "mean_polarization_C_per_m2" in found:
        mean, error = (100 * np.asarray(found[f"mean_polarization{k}_C_per_m2"]) for k in ("", "_error"))
        facts.append(("mean polarization implied (x, y)", f"{_pair(mean)} ± {_pair(error, '')} µC/cm²"))
    return facts


def response_sentence(pmap: PolarizationMap) -> str:
    """What of the polarization is measured and what inferred, and how sure that is."""
    kind = dict(pmap.provenance).get("response")
    if kind is None or pmap.response is None:
        moving, around = pmap.displacement_of
        why = (
            "the crystal has no charges or no soft mode"
            if (moving, around) == ("B", "A")
            else "it goes with B against A"
        )
        return f"Measured: the displacement of {moving} against {around}. No polarization is given, because {why}."
    how = {
        "born": "by Born effective charges, with oxygen taken to follow the soft mode",
        "mode-effective": "by a mode-effective charge, a polarization over the displacement that goes with it",
    }.get(kind, kind)
    error = pmap.response_error
    sure = "unknown" if error is None else f"{100 * error:.0f} %, common to all cells"
    along = "against" if float(np.trace(np.asarray(pmap.response))) < 0 else "along"
    return (
        "Measured: the displacement of B against A in the plane of the image. Inferred: the polarization, "
        f"{how}; relative error of that step: {sure}. It points {along} the displacement that the arrows show."
    )


def calibration_facts(calibration: Calibration) -> list[tuple[str, str]]:
    """What the lattice said about the recorded pixel size, as (name, value with unit)."""
    recorded = np.asarray(calibration.recorded_sampling)
    affine = np.asarray(calibration.affine)
    return [
        ("pixel size recorded (y, x)", f"{recorded[0]:.4f}, {recorded[1]:.4f} Å"),
        ("pixel size on the lattice (y, x)", f"{affine[1, 1]:.4f}, {affine[0, 0]:.4f} Å"),
        ("recorded lengths against the crystal's", f"{float(calibration.sampling_error):+.2f} %"),
        ("recorded lengths along x against y", f"{float(calibration.anisotropy):+.2f} %"),
        ("shear removed", f"{float(calibration.shear):+.2f}°"),
        ("crystal x from image x", f"{float(calibration.rotation_deg):+.2f}° counter-clockwise"),
        ("A columns off the calibrated lattice", f"{float(calibration.rms_pm):.1f} pm rms per axis"),
    ]


def _pair(values: object, sign: str = "+", digits: int = 1) -> str:
    return f"({', '.join(f'{value:{sign}.{digits}f}' for value in np.asarray(values).tolist())})"
