"""What `ferrojax map` is asked for, and what it found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ferrojax.columns import FrameAlignment
    from ferrojax.crystal import Crystal
    from ferrojax.image import Image
    from ferrojax.polarization import MapAnalysis, PolarizationMap
    from ferrojax.refinement import ScanRecording


@dataclass(frozen=True)
class MapSettings:
    """What the options ask for."""

    image: str
    crystal: str
    zone: tuple[int, int, int]
    sampling: tuple[float, float] | None
    mode: str | None
    oxygen: bool
    signal: str | int | None
    frames: bool
    drift: tuple[float, float]
    correct_drift: bool
    displacement: str | None = None
    labels: dict[str, str] | None = None
    microscope: "MicroscopeSettings | None" = None


@dataclass(frozen=True)
class MicroscopeSettings:
    """How the image was recorded, to read it through the microscope.

    energy: eV. detector, beside_detector: mrad, (inner, outer). semiangle: mrad. known: name -> (value, error).
    beside: file of a second signal of the same scan.
    """

    energy: float
    detector: tuple[float, float]
    semiangle: float | None
    known: dict[str, tuple[float, float]]
    beside: str | None = None
    beside_detector: tuple[float, float] | None = None


@dataclass(frozen=True)
class Mapped:
    """A mapped image and what was found out about it.

    frames: how a series was aligned, None for a single image. remarks: on the crystal's file. columns: the map of the
    column fit, where `pmap` was read through the microscope that `recording` is.
    """

    image: "Image"
    crystal: "Crystal"
    pmap: "PolarizationMap"
    analysis: "MapAnalysis"
    frames: "FrameAlignment | None"
    remarks: list[str]
    columns: "PolarizationMap | None" = None
    recording: "ScanRecording | None" = None
