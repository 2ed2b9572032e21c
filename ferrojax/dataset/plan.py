"""Plans of training sets: what is drawn from which range, read from YAML."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ferrojax.errors import InputError


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] <= limits[1]:
        raise ValueError("needs the lower limit first")
    return limits


def _positive(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] > 0:
        raise ValueError("must be positive")
    return limits


def _picometres(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] <= limits[1] <= 100:
        raise ValueError("must lie between 0 and 100 pm")
    return limits


Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
Range = Annotated[tuple[Finite, Finite], AfterValidator(_rising)]
"""Lower and upper limit, finite."""
Ring = Annotated[tuple[Annotated[Finite, Field(ge=0)], float], AfterValidator(_rising)]
"""Inner and outer angle, mrad; the outer may be infinite."""


class TrainingPlan(BaseModel):
    """Supercells of cells × cells unit cells, each with its own polar displacement and tilt, under several optics.

    Every range is uniform. Lengths in Å unless the name says pm, angles in mrad, energy in eV.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    crystal: str
    cells: int = Field(default=2, ge=1)
    thicknesses: tuple[Annotated[Positive, Field(le=5000)], ...] = Field(min_length=1)
    energy: float = Field(default=200e3, ge=1e4, le=2e6)
    detector: Ring
    semiangle: Annotated[Range, AfterValidator(_positive)]
    defocus: Range
    astigmatism: Range
    coma: Range
    optics: int = Field(default=4, ge=1)
    tilt_max: float = Field(ge=0, le=50)
    mean_displacement_pm: Annotated[Range, AfterValidator(_picometres)]
    spread_pm: float = Field(ge=0, le=100)
    mode_scale: Range
    thermal_scale: Range
    configurations: int = Field(default=2, ge=2, multiple_of=2)
    probes_per_cell: int = Field(default=12, ge=4)
    count: int = Field(ge=1)
    seed: int = Field(ge=0)


def read_plan(path: str | Path) -> TrainingPlan:
    """The plan in a YAML file; anything wrong in it is named with its field."""
    path = Path(path)
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = f"cannot be read: {str(error).splitlines()[0]}"
        raise InputError(
            "plan", str(path), problem, "give a YAML file such as simulations/bto_training.yaml"
        ) from error
    if not isinstance(record, dict):
        raise InputError("plan", str(path), "holds no mapping", "write 'field: value' lines")
    try:
        return TrainingPlan.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        value = "nothing" if first["type"] == "missing" else first.get("input")
        raise InputError(f"plan field {field}", value, first["msg"], f"correct it in {path.name}") from error
