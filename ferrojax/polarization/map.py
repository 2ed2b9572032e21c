"""How a PolarizationMap is made from an image."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ferrojax.columns import (
    Columns,
    FindOptions,
    FoundColumns,
    find_with_motif,
    scan_distortion,
    straightened,
)
from ferrojax.columns.columns import ACCEPTED, MOVED, POOR, WIDTH
from ferrojax.columns.indexing.orientation import UNDECIDED_SITES
from ferrojax.columns.remainder import other_periods
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.given import given_crystal
from ferrojax.crystal.polar import polarization_response
from ferrojax.crystal.roles import SITES_OF_B, displacement_roles
from ferrojax.crystal.zone import Motif, projected_motif
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization.born import plane_response
from ferrojax.polarization.displacement import displacement_operator
from ferrojax.polarization.notes import bias_notes, image_notes, polarization_notes
from ferrojax.polarization.polarization_map import COLUMN_FIT, DRIFT, PolarizationMap, valid_indices
from ferrojax.polarization.predictor import Prediction, Predictor, cell_frames
from ferrojax.polarization.scan_error import CellColumns, line_covariance
from ferrojax.polarization.statistics import displacement_statistics
from ferrojax.products import exact

MIN_CELLS = 12
COLUMN_METHOD, METHODS = "columns", ("columns", "microscope")
_ASTRAY = 0.5
"""Share of the B columns that are fitted at all."""
_ZONES = ((0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, -1, 0), (2, 1, 0), (2, -1, 0))
"""Zone axes to try where one shows nothing."""


def map_polarization(
    image: Image,
    crystal: Crystal | str | PathLike[str],
    zone: Sequence[int] = (0, 0, 1),
    predictor: Any = None,
    *,
    method: str = COLUMN_METHOD,
    recording: Any = None,
    displacement: str | None = None,
    correct_drift: bool = False,
    **options: Unpack[FindOptions],
) -> PolarizationMap:
    """Map the displacement of B against its A neighbours, and the polarization it implies.

    crystal: a Crystal, a name of the library ("PbTiO3") or the path of a structure file.
    displacement: whose displacement against whose centroid, where it is not B's against A: "Fe:Bi", "Al:N", "Mg1:Mg2"
    (`crystal.roles.displacement_roles`). A cell with several such columns has their mean. A polarization is implied for
    "B:A" alone, the default; cations against anions ("A:O") is that of crystals without B.

    predictor: a `Predictor`. Without one the positions are Gaussian column fits; options: those of `find_columns`. No
    mean and no plane is subtracted: what mis-tilt adds is still in the map, and what overlapping oxygen adds unless it
    is drawn. What stands out is said in `notes`.
    method: "columns", or "microscope": displacements read through the recording that `fit_recording` found in this
    scan, with their structural and common errors.
    correct_drift: take the slow drift of the scan out of the positions (`scan_distortion`, `straightened`); a strain
    gradient across the lines goes with it. A predictor, which sees the image itself, does not profit.
    Errors: InputError as `find_columns`, where no B column is free of A along this zone axis, for a predictor without
    `predict`, with correct_drift for an image with too few columns to follow the drift, for an unknown method, and with
    "microscope" for a recording that is missing, of another crystal, or that does not explain its image.
    """
    reads = _asked(method, recording, predictor)
    if not (predictor is None or isinstance(predictor, Predictor)):
        remedy = "pass an object with predict(image, cells), such as ferrojax.inference.NetworkPredictor, or None"
        raise InputError("predictor", predictor, "is no predictor", remedy)
    if (reads or predictor is not None) and displacement not in (None, SITES_OF_B):
        raise InputError("displacement", displacement, "is not what a predictor answers", f"leave it at {SITES_OF_B}")
    result, _ = map_with_model(image, crystal, zone, displacement=displacement, correct_drift=correct_drift, **options)
    if reads:  # only now, because it takes minutes to make
        predictor = recording.predictor(image, given_crystal(crystal))
    return result if predictor is None else with_prediction(result, image, predictor)


def _asked(method: str, recording: Any, predictor: Any) -> bool:
    """Whether a method reads the image through a recording."""
    if method not in METHODS:
        raise InputError("method", method, "is unknown", f"choose from {', '.join(METHODS)}")
    if method == COLUMN_METHOD:
        if recording is not None:
            raise InputError("recording", "given", "is what columns do not use", 'pass method="microscope" with it')
        return False
    if predictor is not None:
        raise InputError("predictor", predictor, f"is given beside method {method!r}", "leave one of the two out")
    if not callable(getattr(recording, "predictor", None)):
        remedy = "fit it first: recording = ferrojax.fit_recording(images, crystal, detectors=..., energy=...)"
        raise InputError("recording", recording, "is no recording that was fitted to images", remedy)
    return True


def map_with_model(
    image: Image,
    crystal: Crystal | str | PathLike[str],
    zone: Sequence[int] = (0, 0, 1),
    *,
    displacement: str | None = None,
    correct_drift: bool = False,
    **options: Unpack[FindOptions],
) -> tuple[PolarizationMap, FoundColumns]:
    """The classical map, with the fitted image that it rests on; arguments and errors as `map_polarization`."""
    crystal = given_crystal(crystal)
    motif = projected_motif(crystal, zone, displacement=displacement)
    if not motif.moving:
        raise _unseen(crystal, motif)
    usual = projected_motif(crystal, zone)
    # Sites told apart by number may make a larger cell; otherwise only the shells differ, and oxygen needs B's own.
    alike = usual.members == motif.members
    if not alike and options.get("oxygen"):
        remedy = "leave one of the two out"
        raise InputError(
            "oxygen", motif.displacement, "is drawn where B moves against A, not for sites by number", remedy
        )
    found = find_with_motif(image, crystal, usual if alike else motif, **options)
    if UNDECIDED_SITES in found.ambiguity:
        raise InputError(
            "image",
            f"{found.mode} of {crystal.name}",
            "shows columns that could be A as well as B, so that the sign of every displacement is open",
            "check crystal and pixel size; give mode if it is known",
        )
    calibration = found.columns.calibration
    assert calibration is not None
    lattice = np.asarray(calibration.lattice_px, float)
    found = found._replace(
        other_periods=other_periods(np.asarray(image.data, float), found.model, lattice, ~found.blank)
    )
    oxygen = bool(options.get("oxygen"))
    facts = [
        ("image", image.name),
        ("mode", found.mode),
        ("oxygen under B", "drawn along the soft mode" if oxygen else "not drawn"),
    ]
    notes = image_notes(found, motif, oxygen)
    if correct_drift:
        drift = scan_distortion(upright(image, found), found.columns, ~found.blank).drift
        found = found._replace(columns=straightened(found.columns, drift, motif))
        pm = 100 * float(np.sqrt(np.linalg.det(np.asarray(calibration.affine, float))))
        x, y = drift.levels(pm)["drift_removed"]
        facts.append((DRIFT, f"taken out of the positions, rms ({x:.1f}, {y:.1f}) pm"))
        notes += (f"Slow drift of the scan, rms ({x:.1f}, {y:.1f}) pm, is taken out. {drift.caveat}",)
    pmap = map_from_columns(found.columns, crystal, motif, tuple(facts))
    return _with_notes(pmap, notes), found


def _unseen(crystal: Crystal, motif: Motif) -> InputError:
    """Why no displacement is seen along a zone axis, and along which it is."""
    roles = displacement_roles(crystal, motif.displacement)
    moving, around = motif.displacement.split(":")
    absent = [name for name, sites in zip((moving, around), roles, strict=True) if not sites.any()]
    if absent:
        known = ", ".join(f"{e} ({crystal.label[crystal.elements.index(e)]})" for e in dict.fromkeys(crystal.elements))
        problem = f"{crystal.name} has no site {' and none '.join(absent)}: its sites are {known}"
        return InputError("displacement", motif.displacement, problem, "say what moves against what, such as Fe:Bi")
    shown = [axis for axis in _ZONES if projected_motif(crystal, axis, displacement=motif.displacement).moving]
    remedy = f"choose a zone axis that does, such as {' or '.join(map(str, shown[:2]))}" if shown else "choose others"
    problem = f"{crystal.name} shows no column of {moving} that is free of {around} along it"
    return InputError("zone axis", motif.zone, problem, remedy)


def upright(image: Image, found: FoundColumns) -> Image:
    """The image with bright columns: turned over where they are dark."""
    return Image(-image.data, image.sampling, name=image.name) if found.columns.dark else image


def _with_notes(pmap: PolarizationMap, notes: tuple[str, ...]) -> PolarizationMap:
    """A map with these notes and those of its own displacements."""
    return replace(pmap, notes=(*notes, *_value_notes(pmap)))


def _value_notes(pmap: PolarizationMap) -> tuple[str, ...]:
    if pmap.polarization is not None:
        return polarization_notes(np.asarray(pmap.polarization, float)[valid_indices(pmap)])
    found = displacement_statistics(pmap)
    return bias_notes(found["mean"], found["mean_error"])


def _check_fitted(columns: Columns, motif: Motif) -> None:
    """Refuse what is not the sublattice that moves: most of it fitted somewhere else, or to something else."""
    moving = motif.displacement.split(":")[0]
    reason = np.asarray(columns.rejection)[np.isin(np.asarray(columns.column), motif.moving)]
    if not len(reason):
        raise InputError(
            "displacement",
            motif.displacement,
            f"needs columns of {moving}, which this image does not show",
            "choose what a HAADF image shows, or give an ABF or iDPC image (mode)",
        )
    astray = int(np.isin(reason, (MOVED, WIDTH, POOR)).sum())
    if astray > _ASTRAY * (astray + int((reason == ACCEPTED).sum())):
        raise InputError(
            "crystal",
            f"{astray} of {len(reason)} {moving} columns off their sites or unlike a column",
            "does not describe this image",
            "check crystal, zone axis and pixel size",
        )


@exact
def map_from_columns(
    columns: Columns, crystal: Crystal, motif: Motif, provenance: tuple[tuple[str, str], ...] = ()
) -> PolarizationMap:
    """The classical map from columns that are fitted and indexed."""
    assert columns.calibration is not None
    _check_fitted(columns, motif)
    index, b, a = cell_members(columns, motif)
    if len(index) < MIN_CELLS:
        raise InputError(
            "image",
            f"{len(index)} cells with all columns of {motif.displacement}",
            "has too few columns",
            f"give an image that shows at least {MIN_CELLS} such cells",
        )
    weight = jnp.asarray(motif.shell.weight, columns.position.dtype)
    alone = columns.own_covariance
    spread, count = alone[b].mean(1) / b.shape[1], b.shape[1]
    if columns.oxygen_error is not None:  # the columns of a cell share it
        each = columns.oxygen_error[b]
        own, both = (jnp.einsum("...i,...j->...ij", e, e) for e in (each, each.mean(1)))
        spread = spread - own.mean(1) / count + both
    displacement, covariance = displacement_operator(
        columns.position[a], alone[a], columns.position[b].mean(1), spread, weight
    )
    cells = CellColumns(index, b[:, 0], a, np.asarray(motif.shell.weight, float))
    by_lines = line_covariance(np.asarray(displacement, float), cells, columns)
    covariance = covariance + jnp.asarray(by_lines, covariance.dtype)
    centre = jnp.einsum("k,nki->ni", weight, columns.position[a])
    centre_px = jnp.einsum("k,nki->ni", weight, columns.position_px[a])
    first = index.min(0)
    index = index - first
    shape = (int(index[:, 1].max()) + 1, int(index[:, 0].max()) + 1)
    at = (index[:, 1], index[:, 0])
    usual = motif.displacement == SITES_OF_B
    response = plane_response(crystal, motif.axes, columns.calibration.rotation) if usual else None
    displacement = _scatter(displacement, at, shape)
    return PolarizationMap(
        position=_scatter(centre, at, shape),
        position_px=_scatter(centre_px, at, shape),
        displacement=displacement,
        covariance=_scatter(covariance, at, shape),
        valid=jnp.zeros(shape, bool).at[at].set(True),
        polarization=None if response is None else displacement @ response.T,
        response=response,
        calibration=columns.calibration,
        columns=columns,
        provenance=(
            *provenance,
            ("crystal", crystal.name),
            ("zone", " ".join(map(str, motif.zone))),
            *(() if usual else (("displacement", motif.displacement),)),
            *(() if response is None else (("response", polarization_response(crystal).kind),)),
            ("method", COLUMN_FIT),
        ),
        first_cell=(int(first[0]), int(first[1])),
        response_error=None if response is None else crystal.response_error,
    )


def cell_members(columns: Columns, motif: Motif) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the complete cells: lattice index (n, 2), rows of the columns that move (n, m) and of those around (n, k)."""
    row = rows_of_cells(columns)
    shell = [(int(c), int(i), int(j)) for c, (i, j) in zip(motif.shell.column, motif.shell.index, strict=True)]
    found = []
    for i, j in sorted({(i, j) for column, i, j in row if column in motif.moving[:1]}):
        moving = [row.get((column, i, j)) for column in motif.moving]
        around = [row.get((column, i + di, j + dj)) for column, di, dj in shell]
        if None not in moving and None not in around:
            found.append(((i, j), moving, around))
    sizes = (2, len(motif.moving), len(shell))
    index, b, a = (np.array([part[k] for part in found], int).reshape(-1, size) for k, size in enumerate(sizes))
    return index, b, a


def rows_of_cells(columns: Columns) -> dict[tuple[int, int, int], int]:
    """(row of the motif, lattice index) -> row of the accepted columns."""
    assert columns.column is not None
    chosen = np.nonzero(columns.accepted)[0]
    index, of_motif = (np.asarray(v)[chosen].tolist() for v in (columns.lattice_index, columns.column))
    return {(c, i, j): int(k) for c, (i, j), k in zip(of_motif, index, chosen, strict=True)}


def _scatter(values: Array, at: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...]) -> Array:
    return jnp.full((*shape, *values.shape[1:]), jnp.nan, values.dtype).at[at].set(values)


def with_prediction(pmap: PolarizationMap, image: Image, predictor: Predictor) -> PolarizationMap:
    """The same cells with a predictor's displacements and covariances; columns and calibration stay.

    Cells for which the predictor answers NaN, displacement or covariance, become invalid.
    """
    cells = cell_frames(pmap)
    answer = predictor.predict(image, cells)
    answer = answer if isinstance(answer, Prediction) else Prediction(*answer)
    displacement, covariance = jnp.asarray(answer.displacement), jnp.asarray(answer.covariance)
    n = len(cells.centre_px)
    if displacement.shape != (n, 2) or covariance.shape != (n, 2, 2):
        raise InputError(
            "predictor",
            f"{displacement.shape} and {covariance.shape}",
            "answered the wrong shapes",
            f"return ({n}, 2) Å and ({n}, 2, 2) Å²",
        )
    finite = np.asarray(jnp.isfinite(displacement).all(1) & jnp.isfinite(covariance).all((1, 2)))
    at, shape = valid_indices(pmap), pmap.valid.shape
    displacement = _scatter(displacement, at, shape)
    method = getattr(predictor, "name", type(predictor).__name__)
    kept = tuple(pair for pair in pmap.provenance if pair[0] != "method")
    changes = {
        "displacement": displacement,
        "covariance": _scatter(covariance, at, shape),
        "valid": pmap.valid.at[at].set(finite),
        "polarization": None if pmap.response is None else displacement @ pmap.response.T,
        "provenance": (*kept, ("method", str(method))),
        "structural_covariance": None if answer.structural is None else _scatter(answer.structural, at, shape),
        "common_covariance": answer.common,
    }
    own = _value_notes(pmap)
    others = tuple(note for note in pmap.notes if note not in own)
    return _with_notes(replace(pmap, **changes), (*others, *answer.notes))
