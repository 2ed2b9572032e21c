"""What `ferrojax map` is asked for, and what it found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ferrojax.columns import FrameAlignment
    from ferrojax.crystal import Crystal
    from ferrojax.image import Image
    from ferrojax.polarization import MapAnalysis, PolarizationMap


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


@dataclass(frozen=True)
class Mapped:
    """A mapped image and what was found out about it.

    frames: how a series was aligned, None for a single image. remarks: on the crystal's file.
    """

    image: "Image"
    crystal: "Crystal"
    pmap: "PolarizationMap"
    analysis: "MapAnalysis"
    frames: "FrameAlignment | None"
    remarks: list[str]
