"""The few numbers that sum up a map and its calibration, the same for page, terminal and summary.json."""

import numpy as np

from ferrojax.columns import Calibration
from ferrojax.polarization import PolarizationMap, displacement_statistics


def map_statistics(pmap: PolarizationMap) -> dict[str, object]:
    """Valid cells; (x, y) in pm: mean displacement, its standard error, robust spread, typical σ of a cell.

    The standard error of the mean is a block bootstrap's: it knows of scatter and its correlation between cells,
    not of a common bias.
    """
    found = displacement_statistics(pmap)
    spread = np.asarray(found["spread"])
    statistics: dict[str, object] = {
        "cells": found["n"],
        "mean_pm": np.asarray(found["mean"]).tolist(),
        "mean_error_pm": np.asarray(found["mean_error"]).tolist(),
        "spread_pm": spread.tolist(),
        "sigma_pm": np.asarray(found["standard_error"]).tolist(),
    }
    if pmap.polarization is not None:
        valid = np.asarray(pmap.valid)
        statistics["mean_polarization_C_per_m2"] = np.asarray(pmap.polarization)[valid].mean(axis=0).tolist()
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
    if "mean_polarization_C_per_m2" in found:
        mean = found["mean_polarization_C_per_m2"]
        facts.append(("mean polarization implied (x, y)", f"{_pair(mean, digits=3)} C/m²"))
    return facts


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
