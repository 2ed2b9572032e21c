"""How a simulation is computed: the numbers that decide accuracy and cost, not what is measured."""

import math
from typing import Any, Literal, TypedDict, get_args

import equinox as eqx
import numpy as np

from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice.scattering import PARAMETRIZATIONS
from ferrojax.multislice.transmission import TRANSMISSIONS

Route = Literal["auto", "probes", "matrix"]


class NumericOptions(TypedDict, total=False):
    """The fields of Numerics, as `simulate` takes them."""

    sampling: float | Grid | None
    slice_thickness: float | None
    transmission: str
    parametrization: str
    window: float | str | None
    route: str
    batch: int | None


class Numerics(eqx.Module):
    """Numerical settings of a simulation; all static.

    sampling: a ceiling in Å per pixel (None: 0.045, or what FastThermal needs), or a Grid of the whole box.
    slice_thickness: a ceiling in Å (None: 2.1, in step with the atomic layers). transmission: "renormalised",
    "conventional" or "abtem". parametrization of the scattering factors: "lobato" or "kirkland".
    window: Å of specimen that every probe sees around it, "auto" (from the probe and the depth) or None (the periodic
    box as it stands). route: "probes", "matrix" or "auto". batch: waves propagated together (None: planned).
    """

    sampling: float | Grid | None = eqx.field(static=True, default=None)
    slice_thickness: float | None = eqx.field(static=True, default=None)
    transmission: str = eqx.field(static=True, default="renormalised")
    parametrization: str = eqx.field(static=True, default="lobato")
    window: float | str | None = eqx.field(static=True, default="auto")
    route: str = eqx.field(static=True, default="auto")
    batch: int | None = eqx.field(static=True, default=None)

    @staticmethod
    def of(options: NumericOptions) -> "Numerics":
        """From keyword arguments; a name that is none of the fields is refused with the list of them."""
        known = Numerics.__dataclass_fields__
        for name, value in options.items():
            if name not in known:
                raise InputError(name, value, "is no argument of simulate", f"choose from {', '.join(known)}")
        return Numerics(**options)

    def __check_init__(self):
        if not isinstance(self.sampling, Grid):
            check_length("sampling", self.sampling, "a ceiling in Å per pixel such as 0.05, or a Grid", 0.001, 1.0)
        check_length("slice_thickness", self.slice_thickness, "a ceiling in Å such as 2.0", 0.05, 100.0)
        if self.window != "auto":
            check_length("window", self.window, 'Å such as 20.0, "auto" or None', 0.5, 1e4)
        choices = (("route", get_args(Route)), ("transmission", TRANSMISSIONS), ("parametrization", PARAMETRIZATIONS))
        for field, allowed in choices:
            if getattr(self, field) not in allowed:
                raise InputError(field, getattr(self, field), "unknown", f"choose {' or '.join(allowed)}")
        whole = isinstance(self.batch, int | np.integer) and not isinstance(self.batch, bool)
        if self.batch is not None and not (whole and self.batch >= 1):
            raise InputError("batch", self.batch, "must be a whole number from 1", "leave it out to take the plan's")


def check_length(field: str, value: Any, give: str, least: float, most: float) -> None:
    """A length in Å between the limits, or None."""
    if value is None:
        return
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > 0):
        raise InputError(field, value, "must be positive, in Å", f"give {give}")
    if not least <= value <= most:
        raise InputError(field, value, f"must lie between {least:g} and {most:g} Å", f"give {give}; nm or pm?")
