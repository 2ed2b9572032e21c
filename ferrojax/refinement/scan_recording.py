"""From the images of one scan to the recording that made them, and on to a predictor that reads through it."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, Unpack

import numpy as np

from ferrojax.checks import real_number
from ferrojax.columns import FindOptions
from ferrojax.crystal import Crystal
from ferrojax.crystal.given import given_crystal
from ferrojax.detection import AnnularDetector
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization import cell_frames, map_polarization
from ferrojax.refinement.displacement import Microscope
from ferrojax.refinement.mean_cell import harmonics, mean_cell
from ferrojax.refinement.recording import POOR, PRIORS, Recording, fit_mean_cells, known_beforehand
from ferrojax.refinement.response import CellResponse, cell_response

FARTHEST = 1.2
"""1/Å of the mean cell's coefficients."""
SEMIANGLE_ERROR = 0.5
"""mrad, of a semi-angle that is given."""
BEYOND = 2.0
"""mrad by which the simulated beams reach farther than the semi-angle known beforehand."""
RANGE = 2.5
"""Standard errors of the thickness known beforehand that are simulated on either side of it."""
THINNEST = 8
"""Cells."""
APART = 5
"""Cells between the exit planes that are simulated."""
NEAR = (-4, -2, 0, 2)
"""Cells of the exit planes about the thickness found, to read single cells with."""


class ScanRecording(NamedTuple):
    """What a scan was recorded at, and all that reading displacements through it needs.

    fit: of its mean cells. images: those it was fitted to, by the names of their detectors. on_specimen: called
    with (specimens done, of how many) as `predictor` simulates.
    """

    fit: Recording
    crystal: Crystal
    energy: float
    detectors: dict[str, AnnularDetector]
    images: dict[str, Image]
    on_specimen: Callable[[int, int], Any] | None = None

    @property
    def value(self) -> dict[str, float]:
        """Name -> value: thickness, defocus, astigmatism, coma, source Å, tilt and semi-angle mrad, and the rest."""
        return dict(zip(self.fit.name, self.fit.value.tolist(), strict=True))

    @property
    def error(self) -> dict[str, float]:
        return dict(zip(self.fit.name, self.fit.error.tolist(), strict=True))

    @property
    def prior_error(self) -> dict[str, float]:
        return dict(zip(self.fit.name, self.fit.prior_error.tolist(), strict=True))

    @property
    def identified(self) -> dict[str, bool]:
        """Whether the images told a parameter better than it was known beforehand."""
        return self.fit.moved

    @property
    def misfit(self) -> float:
        """Mean square of what is left of the mean cells over its error; 1 where the recording explains them."""
        return self.fit.misfit

    @property
    def notes(self) -> tuple[str, ...]:
        return self.fit.notes

    def mean_cells(self, points: int = 48) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Detector -> (points, points) mean cell about the centroid of A, measured and fitted, in the image's unit."""
        cell = np.diag(np.asarray(self.crystal.cell, float))
        q = harmonics((float(cell[0]), float(cell[1])), FARTHEST)
        at = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, points)] * 2), -1).reshape(-1, 2)
        wave = np.exp(2j * np.pi * at @ q.T) * np.where((q == 0).all(1), 1.0, 2.0)

        def drawn(coefficient: np.ndarray) -> np.ndarray:
            return np.real(wave @ coefficient).reshape(points, points)

        return {name: (drawn(self.fit.data[name]), drawn(self.fit.model[name])) for name in self.fit.data}

    def predictor(self, image: Image, crystal: Crystal | None = None) -> Microscope:
        """What reads an image of this scan, all others of it together with it; the response is simulated at the tilt
        that was found (some 140 specimens).

        Errors: InputError for another crystal, an image that is none of the scan's, and a recording that does not
        explain its images.
        """
        if crystal is not None and crystal.name != self.crystal.name:
            remedy = f"map {self.crystal.name}, or fit the recording with {crystal.name}"
            raise InputError("recording", self.crystal.name, f"is of another crystal than {crystal.name}", remedy)
        if self.fit.misfit > POOR:
            problem = f"does not explain its images: misfit {self.fit.misfit:.1f} instead of 1"
            raise InputError("recording", self.crystal.name, problem, "check crystal, energy, detectors and priors")
        own = [k for k, one in self.images.items() if one is image or np.array_equal(one.data, image.data)]
        if not own:
            raise InputError("image", image.name, "is none that the recording was fitted to", "fit it with this image")
        response = self.response()
        beside = {k: one for k, one in self.images.items() if k != own[0]}
        return Microscope(self.fit, response, self.crystal, own[0], beside)

    def response(self) -> CellResponse:
        """Of all columns by themselves, at the tilt that was found and about its thickness."""
        found, side = self.value, float(self.crystal.cell[2, 2])
        middle = max(found["thickness"] / side, THINNEST - NEAR[0])
        planes = np.unique([max(round(middle) + n, 1) for n in (*NEAR, NEAR[-1] + 2)])
        return cell_response(
            self.crystal, self.energy, self.detectors,
            thicknesses=[round(n * side, 3) for n in planes.tolist()],
            max_semiangle=max(found["semiangle"] + 1.0, PRIORS["semiangle"][0]),
            tilt=(found["tilt_x"], found["tilt_y"]),
            progress=self.on_specimen,
        )  # fmt: skip


def fit_recording(
    images: Image | Mapping[str, Image],
    crystal: Crystal | str | PathLike[str],
    zone: Sequence[int] = (0, 0, 1),
    *,
    detectors: AnnularDetector | Mapping[str, AnnularDetector],
    energy: float,
    semiangle: float | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    max_tilt: float = 7.0,
    response: CellResponse | None = None,
    on_specimen: Callable[[int, int], Any] | None = None,
    **options: Unpack[FindOptions],
) -> ScanRecording:
    """Fit thickness, tilt, optics and source to the mean cells of one scan, without labels.

    images: one, or those of one scan by name, the first of them showing A and B best (HAADF). detectors: what each was
    recorded with; one or by the same names. energy: eV. semiangle: mrad, known to 0.5; None: 21 ± 0.7.
    priors: name -> (value, standard error) of what is known of the recording, see `ferrojax.refinement.PRIORS`: the
    thickness (Å) above all, which also says what is simulated. max_tilt: mrad, of the tilts that are looked for.
    response: of `cell_response` under a lattice of tilts, where it is at hand from another scan of these detectors.
    on_specimen: called with (specimens done, of how many) as the response is simulated; minutes on a few cores.
    options: those of `find_columns`.
    Errors: InputError as `map_polarization`, `fit_mean_cells` and `cell_response`; for another zone axis than 0 0 1,
    images of other shapes or without a detector.
    """
    given = given_crystal(crystal)
    scan = {"image": images} if isinstance(images, Image) else dict(images)
    rings = {next(iter(scan), "image"): detectors} if isinstance(detectors, AnnularDetector) else dict(detectors)
    _check_scan(scan, rings)
    if tuple(zone) != (0, 0, 1):
        raise InputError("zone", tuple(zone), "is not fitted yet", "turn the crystal so that it is 0 0 1")
    known = dict(priors or {})
    if semiangle is not None:
        remedy = "give mrad, or None"
        known.setdefault("semiangle", (real_number("semiangle", semiangle, remedy, above=0.0), SEMIANGLE_ERROR))
    known_beforehand(known, scan)  # before minutes of simulation
    cell = np.diag(np.asarray(given.cell, float))
    if response is not None and response.energy != energy:
        problem = f"is of {response.energy:g} eV, not of {energy:g}"
        raise InputError("response", f"{response.energy:g} eV", problem, "make it anew, or leave it out")
    if response is None:
        planes = _planes(known.get("thickness", PRIORS["thickness"]), float(cell[2]))
        response = cell_response(
            given, energy, rings, thicknesses=planes,
            max_semiangle=known.get("semiangle", PRIORS["semiangle"])[0] + BEYOND, max_tilt=max_tilt,
            progress=on_specimen,
        )  # fmt: skip
    first = next(iter(scan.values()))
    frames = cell_frames(map_polarization(first, given, zone, **options))
    cells = {k: mean_cell(one, frames, (float(cell[0]), float(cell[1])), FARTHEST) for k, one in scan.items()}
    fit = fit_mean_cells(cells, given, response, priors=known)
    return ScanRecording(fit, given, energy, rings, scan, on_specimen)


def _planes(known: tuple[float, float], side: float) -> list[float]:
    """Å, exit planes between cells of that length, for a thickness known so well beforehand; four or more."""
    low = max(THINNEST, int((known[0] - RANGE * known[1]) / side))
    high = int(np.ceil((known[0] + RANGE * known[1]) / side))
    return [round(n * side, 3) for n in range(low, max(high, low + 2 * APART + 1) + APART, APART)]


def _check_scan(images: Mapping[str, Image], detectors: Mapping[str, AnnularDetector]) -> None:
    if not images:
        raise InputError("images", {}, "names no image", 'give {"haadf": image}')
    first = next(iter(images.values()))
    for name, image in images.items():
        if name not in detectors:
            remedy = f"say which ring recorded it: detectors={{{name!r}: AnnularDetector(...)}}"
            raise InputError("detectors", ", ".join(detectors), f"has none for the image {name!r}", remedy)
        if image.data.shape != first.data.shape:
            problem = f"has shape {image.data.shape}, not {first.data.shape}"
            raise InputError("images", name, problem, "give images of one scan")
