"""Plans of training sets: what is drawn from which range, read from YAML."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ferrojax.errors import InputError

Range = tuple[float, float]
Positive = Annotated[float, Field(gt=0)]


class TrainingPlan(BaseModel):
    """Supercells of cells × cells unit cells, each with its own polar displacement and tilt, under several optics.

    Every range is uniform. Lengths in Å unless the name says pm, angles in mrad, energy in eV.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    crystal: str
    cells: int = Field(default=2, ge=1)
    thicknesses: tuple[Positive, ...]
    energy: Positive = 200e3
    detector: Range
    semiangle: Range
    defocus: Range
    astigmatism: Range
    coma: Range
    optics: int = Field(default=4, ge=1)
    tilt_max: float = Field(ge=0)
    mean_displacement_pm: Range
    spread_pm: float = Field(ge=0)
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
        raise InputError("plan", str(path), "cannot be read", str(error).splitlines()[0]) from error
    if not isinstance(record, dict):
        raise InputError("plan", str(path), "holds no mapping", "write 'field: value' lines")
    try:
        return TrainingPlan(**record)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"plan field {field}", first.get("input"), first["msg"], f"correct it in {path.name}"
        ) from error
