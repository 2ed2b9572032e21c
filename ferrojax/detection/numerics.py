"""How a simulation is computed: the numbers that decide accuracy and cost, not what is measured."""

from typing import Literal, TypedDict, get_args

import equinox as eqx

from ferrojax.checks import real_number, whole_number
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice.scattering import PARAMETRIZATIONS
from ferrojax.multislice.slices import slice_step
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

    sampling: a ceiling in Å per pixel (None: 0.045, finer where a detector needs it; or what FastThermal needs), or a
    Grid of the whole box.
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
        if self.sampling is not None and not isinstance(self.sampling, Grid):
            give = "give a ceiling in Å per pixel such as 0.05, or a Grid"
            real_number("sampling", self.sampling, give, unit="Å", above=0.0, low=0.001, high=1.0)
        if self.slice_thickness is not None:
            slice_step(self.slice_thickness)
        if self.window is not None and self.window != "auto":
            give = 'give Å such as 20.0, "auto" or None'
            real_number("window", self.window, give, unit="Å", above=0.0, low=0.5, high=1e4)
        choices = (("route", get_args(Route)), ("transmission", TRANSMISSIONS), ("parametrization", PARAMETRIZATIONS))
        for field, allowed in choices:
            if getattr(self, field) not in allowed:
                raise InputError(field, getattr(self, field), "unknown", f"choose {' or '.join(allowed)}")
        if self.batch is not None:
            whole_number("batch", self.batch, "leave it out to take the plan's")
