"""`ferrojax info`: what is installed, what it runs on, which materials it knows."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DISTRIBUTIONS = (
    "ferrojax jax jaxlib flax equinox optax orbax-checkpoint numpy scipy scikit-image abTEM ase "
    "rosettasciio h5py matplotlib"
)


def versions() -> dict[str, str]:
    """Version of Python and of every package that the figures depend on."""
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in DISTRIBUTIONS.split()}}


def used(kinds: "Mapping[str, int]") -> list[str]:
    """Devices (kind -> number), cores and kept programs, a line each."""
    import os
    from pathlib import Path

    from ferrojax.devices import available_cores, kept_bytes

    lines = [f"{number} device{'s' if number > 1 else ''}: {kind}" for kind, number in kinds.items()]
    cpus = sum(number for kind, number in kinds.items() if kind.startswith("cpu"))
    if cpus:
        share = "all are used by `ferrojax simulate`, `validate`, and after fj.use_all_cores()"
        lines.append(f"cores: {cpus} of {available_cores()} seen by JAX; {share}")
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder:
        lines.append(f"compiled programs: {kept_bytes(Path(folder)) / 1e6:.1f} MB in {folder}")
    else:
        lines.append("compiled programs: not kept; FERROJAX_CACHE=1 keeps them for the next command")
    return lines


def info() -> None:
    """Show versions, devices, cores, kept programs and the material library."""
    from collections import Counter

    import jax
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from ferrojax.crystal import available_materials, material

    console = Console()
    console.print("  ".join(f"{name} {number}" for name, number in versions().items()), highlight=False)
    kinds = Counter(f"{device.platform} {device.device_kind}" for device in jax.devices())
    console.print(*used(kinds), sep="\n", highlight=False, soft_wrap=True, markup=False)
    table = Table("material", "cell (Å)", "soft mode", "charges", "sites")
    for name in available_materials():
        crystal = material(name)
        cell = " × ".join(f"{length:.3f}" for length in np.linalg.norm(np.asarray(crystal.cell), axis=1))
        mode = "none" if crystal.soft_mode is None else "yes"
        charges = "Born" if crystal.born_charge is not None else "none"
        if crystal.born_charge is None and crystal.mode_charge is not None:
            charges = "mode-effective"
        counts = Counter(crystal.elements)
        sites = " ".join(symbol if count == 1 else f"{symbol}{count}" for symbol, count in counts.items())
        table.add_row(name, cell, mode, charges, sites)
    console.print(table)
