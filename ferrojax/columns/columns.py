"""What the column analysis returns: columns and the calibration that the lattice gave them."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrojax.columns.fitting.noise import Noise

SITES = ("A", "B", "O")
REJECTIONS = (
    "",
    "image edge",
    "no column",
    "moved off its site",
    "width",
    "poor fit",
    "lattice seam",
    "off the lattice",
    "saturated",
    "unlike the crystal",
    "scan jump",
)
ACCEPTED, EDGE, FAINT, MOVED, WIDTH, POOR, SEAM, OFF_LATTICE, SATURATED, UNLIKE, JUMP = range(len(REJECTIONS))


class Calibration(eqx.Module):
    """The affine step from pixels to Å that maps the measured lattice on the crystal's.

    affine: (2, 2) Å per pixel on (x, y) vectors; symmetric and positive, so it removes scale, anisotropy and
        shear and leaves the rotation: axes stay those of the image. A real mean strain against the crystal
        goes too.
    rotation: (2, 2), image-frame vector = rotation @ crystal-frame vector (the axes of the projected motif).
    lattice_px: (2, 2) px, rows are the measured lattice vectors as (x, y).
    origin_px: (2,) the A column of cell (0, 0).
    recorded_sampling: (2,) Å per pixel (y, x), what the file said.
    sampling_error: %, lengths in recorded Å against the crystal's, mean of both axes.
    anisotropy: %, how much longer recorded Å make lengths along x than along y.
    shear: degrees, departure of the image's axes from a right angle that the affine takes away.
    rotation_deg: crystal x from image x, counter-clockwise on the screen.
    rms_pm: root mean square distance of the A columns from the calibrated lattice, pm per axis.
    """

    affine: Float[Array, "2 2"]
    rotation: Float[Array, "2 2"]
    lattice_px: Float[Array, "2 2"]
    origin_px: Float[Array, "2"]
    recorded_sampling: Float[Array, "2"]
    sampling_error: Float[Array, ""]
    anisotropy: Float[Array, ""]
    shear: Float[Array, ""]
    rotation_deg: Float[Array, ""]
    rms_pm: Float[Array, ""]

    def summary(self) -> dict[str, float | list]:
        """Plain numbers for a report or a JSON file."""
        names = ("sampling_error", "anisotropy", "shear", "rotation_deg", "rms_pm")
        numbers: dict[str, float | list] = {name: round(float(getattr(self, name)), 4) for name in names}
        return {
            **numbers,
            "recorded_sampling_yx": np.asarray(self.recorded_sampling, float).round(6).tolist(),
            "affine_xy": np.asarray(self.affine, float).round(6).tolist(),
        }


class LineError(eqx.Module):
    """What the columns of a scan line share that is not the crystal's: jitter, flicker and hum of the scan.

    variance: (2,) Å² along x and y, a part of every column's covariance.
    jitter_px: (2,) px rms (x, y) of single lines, as it shows inside the columns; along y, where brighter lines look
        the same, it is not looked for and zero. correlation: (2,) of one line's jitter with the next one's; further
        lines follow its powers. height_px: (3,) px, of the columns of each of SITES, rms radius of the Gaussian whose
        square is how much the fit weighs lines: the column's own for even noise, larger where bright pixels are noisy.
    disorder: (2,) Å rms along x and y by which the columns of the anchor sublattice scatter beyond their error bars on
        their own: structure, such as that of a relaxor, and no part of any covariance.
    """

    variance: Float[Array, "2"]
    jitter_px: Float[Array, "2"]
    correlation: Float[Array, "2"]
    height_px: Float[Array, "3"]
    disorder: Float[Array, "2"]


class Columns(eqx.Module):
    """Atomic columns of an image.

    position: (n, 2) Å (x, y), calibrated. position_px: (n, 2) px (x, y), pixel centres at whole numbers.
    covariance: (n, 2, 2) Å² of position: the fit's own, correlated noise included, plus what the columns of a scan
        line share (jitter of the scan). Disorder of the crystal, and bias from tilt or overlapping oxygen, are not in
        it.
    intensity: (n,) integrated Gaussian, intensity unit × px². width: (n,) Å, rms radius per axis.
    residual: (n,) root mean square of data − fit in the column's window, in units of the column's amplitude.
    site: (n,) index into SITES, −1 without a crystal.
    lattice_index: (n, 2) cell of the column, 0 without a crystal.
    rejection: (n,) index into REJECTIONS; 0 is accepted.
    calibration: None without a crystal: then Å are the recorded ones.
    oxygen_error: (n, 2) Å (x, y), how far every column may be off because of the oxygen drawn under it: one error that
        all share, in the covariance with its square; None where none was drawn.
    lines: what the scan lines add; None without a crystal. column: (n,) row of the motif; None without a crystal.
    noise: of the image's intensities, as given or as the residuals show it; None if unknown.
    dark: columns are darker than their surroundings, as in ABF. image_shape: (rows, cols) of the image, None if
        unknown.
    """

    position: Float[Array, "n 2"]
    position_px: Float[Array, "n 2"]
    covariance: Float[Array, "n 2 2"]
    intensity: Float[Array, " n"]
    width: Float[Array, " n"]
    residual: Float[Array, " n"]
    site: Int[Array, " n"]
    lattice_index: Int[Array, "n 2"]
    rejection: Int[Array, " n"]
    calibration: Calibration | None
    lines: LineError | None = None
    noise: Noise | None = None
    column: Int[Array, " n"] | None = None
    oxygen_error: Float[Array, "n 2"] | None = None
    dark: bool = eqx.field(static=True, default=False)
    image_shape: tuple[int, int] | None = eqx.field(static=True, default=None)

    @property
    def own_covariance(self) -> Float[Array, "n 2 2"]:
        """(n, 2, 2) Å², the covariance without what the columns of a scan line share."""
        return self.covariance if self.lines is None else self.covariance - jnp.diag(self.lines.variance)

    @property
    def accepted(self) -> np.ndarray:
        """(n,) bool, columns that no check refused."""
        return np.asarray(self.rejection) == ACCEPTED

    @property
    def label(self) -> tuple[str, ...]:
        """Site label of every column, "" without a crystal."""
        return tuple(SITES[i] if i >= 0 else "" for i in np.asarray(self.site))

    @property
    def rejection_reason(self) -> tuple[str, ...]:
        """Why a column was refused, "" if it was not."""
        return tuple(REJECTIONS[i] for i in np.asarray(self.rejection))
