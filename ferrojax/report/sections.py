"""The analysis of a map in sentences, tables and panels, and the same figures for summary.json."""

from collections.abc import Sequence

import numpy as np

from ferrojax.image import Image
from ferrojax.polarization import (
    MapAnalysis,
    PolarizationMap,
    Wall,
    displacement_statistics,
    refused_columns,
)
from ferrojax.polarization.notes import SIGNIFICANT
from ferrojax.polarization.polarization_map import DRIFT
from ferrojax.polarization.rotation import OctahedralRotation
from ferrojax.report import checks
from ferrojax.report.content import Panel, Section, Table
from ferrojax.report.lattice_panels import CellQuantity, draw_domains, lattice_quantities, quantity_panel
from ferrojax.report.panels import middle_window

FAR = 3.0
"""Standard deviations beyond which pixels are counted; 0.27 % of normal ones are."""
PER_CENT_FAR = 0.27
MOST_WALLS = 20


def analysis_sections(image: Image, pmap: PolarizationMap, analysis: MapAnalysis) -> list[Section]:
    """Domains, lattice, refused columns, residual and scan; image: with the pixel size that the panels show."""
    return [
        domain_section(pmap, analysis),
        lattice_section(pmap, analysis),
        *rotation_sections(pmap, analysis),
        refused_section(image, pmap, analysis),
        residual_section(image, analysis),
        scan_section(pmap, analysis),
    ]


def analysis_checks(image: Image, pmap: PolarizationMap, analysis: MapAnalysis) -> list[Panel]:
    """The three panels that a composed figure shows: refused columns, residual, and the domains or the lattice."""
    last = domain_section(pmap, analysis).panels or lattice_section(pmap, analysis).panels[2:3]
    return [refused_section(image, pmap, analysis).panels[0], residual_section(image, analysis).panels[0], *last]


def analysis_summary(pmap: PolarizationMap, analysis: MapAnalysis) -> dict[str, object]:
    """What the sections show, as plain numbers in the units of their names."""
    found, z = analysis.found, analysis.residual[np.isfinite(analysis.residual)]
    quantities = lattice_quantities(analysis.lattice, analysis.strain)
    return {
        "mode_found": found.mode,
        "ambiguity": list(found.ambiguity),
        "columns": {"accepted": int(found.columns.accepted.sum()), "refused": refused_columns(found)},
        "cells_not_mapped": analysis.unmapped,
        "residual": {"rms_sigma": float(z.std()), "per_cent_beyond_3_sigma": _share_beyond(z)},
        "scan_pm": _scan_levels(pmap, analysis),
        "spread_split_pm": None if analysis.split is None else analysis.split.spreads(),
        "lattice": {q.name: {"unit": q.unit, "spread": q.spread, "sigma": _typical(q.error)} for q in quantities},
        "octahedral_rotation": _rotation_summary(analysis),
        "domains": _domain_summary(analysis),
        "winding": analysis.winding._asdict(),
        "not_determined": analysis.reasons,
    }


def domain_section(pmap: PolarizationMap, analysis: MapAnalysis) -> Section:
    """Domains and walls, or a sentence that there is none to believe."""
    text = [*_domain_text(pmap, analysis), _winding_text(analysis)]
    walls = analysis.walls
    if analysis.domains is None or not walls:
        return Section("Domains and walls", text)
    found, polar = analysis.domains, analysis.domains.quantity == "polarization"
    what = "polarization, which need not be that of the arrows" if polar else "displacement"
    caption = f"Cells by the direction of their domain's {what}; grey where not polar; walls numbered as in the table."
    panel = Panel(
        "Domains and walls", caption, lambda ax: draw_domains(ax, pmap, found, walls[:MOST_WALLS]), on_image=True
    )
    unit = "µC/cm²" if polar else "pm of displacement"
    note = (
        "Charge: what the wall binds, (P₁ − P₂)·n. The width is 2ξ of tanh(s/ξ); a tilt of the wall against the beam "
        "widens it. Errors hold the scatter of the cells only."
    )
    header = ("wall", "type", "angle shown", "width (pm)", f"charge ({unit})", "character", "step over scatter")
    if len(walls) > MOST_WALLS:
        note = f"The {MOST_WALLS} longest of {len(walls)}. {note}"
    table = Table("Walls", header, [_wall_row(k, wall) for k, wall in enumerate(walls[:MOST_WALLS], 1)], note)
    return Section("Domains and walls", text, [table], [panel])


def _wall_row(number: int, wall: Wall) -> list[object]:
    width, error, spacing = 100 * wall.width, 100 * wall.width_error, "narrower than a cell"
    charge, charge_error = 100 * wall.charge, 100 * wall.charge_error  # C/m² to µC/cm², or Å to pm
    return [
        str(number),
        " or ".join(f"{kind}°" for kind in wall.kind),
        f"{wall.angle:.0f}°",
        f"{width:.0f} ± {error:.0f}" if wall.resolved else spacing,
        f"{charge:+.1f} ± {charge_error:.1f}" if np.isfinite(charge) else "–",
        wall.character,
        f"{wall.contrast:.1f}",
    ]


def _domain_text(pmap: PolarizationMap, analysis: MapAnalysis) -> list[str]:
    if analysis.domains is None:
        return [f"Domains were not looked for: {analysis.reasons.get('domains', 'the map has none')}."]
    domains, walls = analysis.domains.domains, analysis.walls
    regions = int(domains.region.max()) + 1
    if regions == 0:
        return ["No domain and no wall is significant: scatter about zero explains the cells best."]
    if regions == 1:
        mean = displacement_statistics(pmap)
        away = float(np.linalg.norm(np.asarray(mean["mean"]) / np.maximum(mean["mean_error"], 1e-9)))
        return [
            "No domain wall is significant. The cells scatter about one direction: that is a single domain, or what "
            f"mis-tilt or an overlapping column adds to all cells alike. Their mean lies {away:.1f} standard errors "
            "from zero."
        ]
    if not walls:
        return [
            f"No domain wall is significant. {regions} regions differ in direction, but the steps between them are "
            "within the scatter of the cells, or match no wall that the crystal allows."
        ]
    family = analysis.domains.family
    return [
        f"{regions} domains, {len(walls)} wall{'s' if len(walls) > 1 else ''}; directions of the pseudo-cubic "
        f"⟨{family}⟩ family explain the map best. Domains that differ only along the beam cannot be told apart.",
        *analysis.domains.notes,
    ]


def _winding_text(analysis: MapAnalysis) -> str:
    turns = analysis.winding
    if not turns.plaquettes:
        return (
            f"Vortices cannot be told from noise: no four neighbouring cells are all displaced by more than "
            f"{SIGNIFICANT:.0f} of their standard errors."
        )
    return (
        f"Vortices: {turns.vortices}, antivortices: {turns.antivortices}, among {turns.plaquettes} groups of four "
        f"neighbouring cells that are all displaced by more than {SIGNIFICANT:.0f} of their standard errors."
    )


def _domain_summary(analysis: MapAnalysis) -> dict[str, object] | None:
    if analysis.domains is None:
        return None
    domains = analysis.domains.domains
    walls = [
        {
            "type_degrees": list(w.kind),
            "angle_degrees": w.angle,
            "width_pm": 100 * w.width if w.resolved else None,
            "width_error_pm": 100 * w.width_error if w.resolved else None,
            "charge": 100 * w.charge,
            "charge_error": 100 * w.charge_error,
            "character": w.character,
            "step_over_scatter": w.contrast,
        }
        for w in analysis.walls
    ]
    return {
        "family": analysis.domains.family,
        "notes": list(analysis.domains.notes),
        "offset": (100 * domains.offset).tolist(),
        "regions": int(domains.region.max()) + 1,
        "polar_cells": int((domains.label >= 0).sum()),
        "charge_unit": "µC/cm²" if analysis.domains.quantity == "polarization" else "pm",
        "walls": walls,
    }


def lattice_section(pmap: PolarizationMap, analysis: MapAnalysis) -> Section:
    """Lattice vectors, strain and rotation of every cell."""
    quantities = lattice_quantities(analysis.lattice, analysis.strain)
    rows = [[q.name, q.unit, f"{q.spread:.3g}", f"{_typical(q.error):.3g}"] for q in quantities]
    note = "σ of a cell is the median standard error; a spread no larger than it is noise."
    text = [
        "From the four A columns round every cell, against the crystal's own cell. The calibration lays the mean "
        "lattice on the crystal's, so only variation over the image is measured here, not the mean strain."
    ]
    table = Table("Local lattice", ("quantity", "unit", "spread over cells", "σ of a cell"), rows, note)
    return Section("Lattice, strain and rotation", text, [table], [quantity_panel(pmap, q) for q in quantities])


def rotation_sections(pmap: PolarizationMap, analysis: MapAnalysis) -> list[Section]:
    """Rotation of the octahedra, where the image shows it."""
    found = analysis.rotation
    if found is None:
        return []
    quantity = CellQuantity("octahedral rotation, clockwise", "°", found.angle, found.error)
    text = [
        f"{_rotation_sentence(found)} Seen in projection, from the oxygen columns between B columns, against the lines "
        "that join these; mis-tilt and columns that overlap turn it as well."
    ]
    return [Section("Rotation of the octahedra", text, [], [quantity_panel(pmap, quantity)])]


def _rotation_sentence(found: OctahedralRotation) -> str:
    cells = int(np.isfinite(found.angle).sum())
    if found.alternates is None:
        return (
            f"Octahedra of {cells} cells: no rotation beyond {_typical(found.error):.1f}°, the error of one, is common."
        )
    along = [f"vector {k + 1}" for k in (0, 1) if found.alternates[k]]
    how = f"alternately along lattice {' and '.join(along)}" if along else "all alike"
    return f"Octahedra of {cells} cells turn by {found.amplitude:.2f} ± {found.amplitude_error:.2f}°, {how}."


def _rotation_summary(analysis: MapAnalysis) -> dict[str, object] | None:
    found = analysis.rotation
    if found is None:
        return None
    return {
        "cells": int(np.isfinite(found.angle).sum()),
        "amplitude_degrees": found.amplitude,
        "amplitude_error_degrees": found.amplitude_error,
        "alternates_along_vectors": None if found.alternates is None else list(found.alternates),
        "sigma_of_a_cell_degrees": _typical(found.error),
    }


def refused_section(image: Image, pmap: PolarizationMap, analysis: MapAnalysis) -> Section:
    """Every refused column marked on the image, counted by reason, and what that costs the map."""
    found = analysis.found
    count, lost = refused_columns(found), analysis.unmapped
    accepted, refused = int(found.columns.accepted.sum()), sum(count.values())
    text = [f"{accepted} columns are accepted, {refused} refused."]
    tables = []
    if count:
        tables.append(Table("Why columns are refused", ("reason", "columns", "meaning"), checks.reason_rows(count)))
    if lost:
        text.append(f"{sum(lost.values())} cells whose column was sought have no displacement.")
        tables.append(Table("Why cells are not mapped", ("reason", "cells"), [[k, v] for k, v in lost.items()]))
    caption = "Every refused column, coloured by its reason; accepted ones are faint dots."
    panel = Panel("Refused columns", caption, lambda ax: checks.draw_refused(ax, image, found), on_image=True)
    return Section("Refused columns", text, tables, [panel])


def residual_section(image: Image, analysis: MapAnalysis) -> Section:
    """What the fitted image leaves over, in units of the noise."""
    residual, found = analysis.residual, analysis.found
    window = middle_window(residual.shape, int(np.unique(found.columns.lattice_index, axis=0).shape[0]))
    z = residual[np.isfinite(residual)]
    text = [
        f"The residual is {z.std():.2f} σ of the noise (rms), and {_share_beyond(z):.2f} % of the pixels lie beyond "
        f"{FAR:.0f} σ, against {PER_CENT_FAR} % of normal noise. Unless it is given, the noise is estimated from this "
        "very residual: its pattern tells what the model misses, its size does not."
    ]
    panels = [
        Panel(
            "Residual", "Data minus fitted image in units of the noise.",
            lambda ax: checks.draw_residual(ax, image, residual), on_image=True,
        ),
        Panel(
            "Residual, close-up", "Around the middle: a pattern that every column repeats is what the model misses.",
            lambda ax: checks.draw_residual(ax, image, residual, window),
        ),
        Panel(
            "Residual of pixels", "Beside the normal law; tails are misfit or outliers.",
            lambda ax: checks.draw_residual_histogram(ax, residual),
        ),
        Panel(
            "Misfit of columns", "Residual round every column by site; a second hump is a second kind of column.",
            lambda ax: checks.draw_misfit(ax, found),
        ),
    ]  # fmt: skip
    return Section("What the fit leaves over", text, [], panels)


def scan_section(pmap: PolarizationMap, analysis: MapAnalysis) -> Section:
    """Drift and jitter in pm, and how the spread of the map divides."""
    distortion, title = analysis.distortion, "Distortion of the scan"
    if distortion is None:
        return Section(title, [f"Drift and line jitter were not measured: {analysis.reasons.get('distortion', '')}."])
    levels = _scan_levels(pmap, analysis) or {}
    rows = [[name, *_pair(levels[key]), meaning] for key, name, meaning in _LEVELS]
    tables = [Table("Drift and line jitter", ("rms", "x (pm)", "y (pm)", "meaning"), rows)]
    if analysis.split is not None:
        spreads = analysis.split.spreads()
        rows = [[name, *_pair(spreads[key]), meaning] for key, name, meaning in _PARTS]
        note = "Squares add up: total² = counting² + line jitter² + rest²."
        tables.append(Table("Spread of the displacements", ("part", "x (pm)", "y (pm)", "meaning"), rows, note))
    scale = _pm_per_px(pmap)
    panel = Panel(
        "Drift of the scan", "The smooth shift of the lines against a regular lattice, with one standard error.",
        lambda ax: checks.draw_drift(ax, distortion, scale),
    )  # fmt: skip
    taken = DRIFT in dict(pmap.provenance)
    text = [
        "The slow drift is taken out of the map's positions, line jitter is not." if taken
        else "None of this is taken out of the map.",
        distortion.drift.caveat,
    ]  # fmt: skip
    return Section(title, text, tables, [panel])


_LEVELS = (
    ("drift_removed", "slow drift", "Smooth shift of the lines; B and its A neighbours move together."),
    ("drift_error", "error of the drift", "What remains unknown of it."),
    ("disagreement", "halves of the lines differ by", "Large against the error: strain, not drift, moves the columns."),
    (
        "jitter",
        "line jitter",
        "Of single lines, from the fit's residual; 0 if none shows. Along y no better than the model.",
    ),
    ("jitter_error", "error of the jitter", "Where the jitter is 0, about the largest that would be missed."),
    ("remains", "jitter after a correction", "What would remain if the lines were moved back."),
)
_PARTS = (
    ("total", "total", "Robust spread over the cells."),
    ("counting", "counting noise", "From the fit's own errors."),
    ("scan", "line jitter", "Lines that cross B and not its neighbours."),
    ("rest", "rest", "What neither explains: real variation, sample surface, misfit."),
)


def _scan_levels(pmap: PolarizationMap, analysis: MapAnalysis) -> dict[str, Sequence[float]] | None:
    if analysis.distortion is None:
        return None
    scale = _pm_per_px(pmap)
    return {**analysis.distortion.drift.levels(scale), **analysis.distortion.jitter.levels(scale)}


def _pm_per_px(pmap: PolarizationMap) -> float:
    return 100 * float(np.sqrt(np.linalg.det(np.asarray(pmap.calibration.affine, float))))


def _pair(values: Sequence[float]) -> list[str]:
    return [f"{v:.2f}" if np.isfinite(v) else "–" for v in values]


def _typical(error: np.ndarray) -> float:
    return float(np.nanmedian(error)) if np.isfinite(error).any() else float("nan")


def _share_beyond(z: np.ndarray) -> float:
    return 100 * float((np.abs(z) > FAR).mean())
