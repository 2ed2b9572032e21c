"""Simulations larger than memory: block by block of the scan into a Zarr store."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ferrojax.checks import real_number
from ferrojax.crystal import Atoms
from ferrojax.detection import CentreOfMass, Detector, Scan, plan_simulation, simulate
from ferrojax.errors import InputError
from ferrojax.image import DiffractionScan, Image
from ferrojax.optics import Probe

_ERROR = "_standard_error"
"""Ends the name of an array of standard errors."""
EDGES = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
"""Positions along an edge of a block that are tried, the largest first."""
GIB = 2**30


def simulate_to_zarr(
    path: str | os.PathLike[str],
    atoms: Atoms,
    probe: Probe,
    scan: Scan,
    detectors: Mapping[str, Detector],
    *,
    memory: float = 2.0,
    standard_errors: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, blocks: None,
    **arguments: Any,
) -> Path:
    """What `simulate` gives, written block by block of the scan into a Zarr store at `path`; returns its path.

    One array a detector, float32: a camera's (*stack, rows, cols, ky, kx), a ring's (*stack, rows, cols), one chunk a
    block, with sampling, angular_sampling and thickness as attributes; with `standard_errors`, NAME_standard_error
    beside it. memory: GiB that a block may plan for. on_progress: told (blocks done, blocks) after each. arguments:
    those of `simulate`. All blocks have one shape, so that they share a plan, and the same phonons. With a source
    over a repeated box a block blurs in what lies beyond the box, where the phonons are others'; `simulate` of the
    whole box wraps round instead, and differs by as much as configurations do.

    The store is written beside `path` and moved there when it is whole; the same call goes on where an interrupted one
    stopped. Errors: InputError for a path that exists or cannot be written, a half-written store of another request,
    and whatever `simulate` refuses, before anything is computed.
    """
    try:
        target = Path(path).expanduser().absolute()
    except TypeError:
        raise InputError("path", path, "is no path", 'give one such as "scan.zarr"') from None
    if target.exists():
        raise InputError("path", str(target), "exists already", "choose another name, or remove it")
    _check_request(scan, detectors)
    real_number("memory", memory, "give GiB, e.g. 2.0", above=0.0)
    edge = _block_edge(memory, (atoms, probe, scan, detectors), arguments)
    blocks = list(_blocks(scan.shape, edge))
    mark = _mark((atoms, probe, scan, dict(detectors), arguments, edge, standard_errors))
    store = _opened(target, mark, len(blocks))
    if "written" in store:  # else all is, and the move was not made
        written = store["written"]
        for number, (row, col) in enumerate(blocks):
            if not int(np.asarray(written[number])):
                given = _arguments(arguments, scan.shape, row, col, edge)
                out = simulate(atoms, probe, _part(scan, row, col, edge), detectors, **given)
                for name, result in out.items():
                    unit = "mrad" if isinstance(detectors[name], CentreOfMass) else "fraction of the beam"
                    _write(store, name, result, unit, scan.shape, (row, col), edge, standard_errors)
                written[number] = 1  # last, so that what says it is written is
            on_progress(number + 1, len(blocks))
        store.attrs.update({"probe_energy_eV": probe.energy, "scan_shape": list(scan.shape)})
        del store["written"]
    _partial(target).rename(target)
    return target


def _check_request(scan: Any, detectors: Any) -> None:
    """What is asked for before it is planned: a scan, and names that arrays of the store may have, none of its own."""
    if not isinstance(scan, Scan):
        raise InputError("scan", type(scan).__name__, "is no Scan", "give fj.Scan.grid(start, end, shape)")
    for name in detectors if isinstance(detectors, Mapping) else ():
        taken = name == "written" or (name.endswith(_ERROR) and name.removesuffix(_ERROR) in detectors)
        if taken or not name or set(name) & set("/\\") or name.startswith("."):
            raise InputError("detector", name, "is no name for an array of the store", "choose another, e.g. haadf")


def _block_edge(memory: float, asked: tuple, arguments: dict[str, Any]) -> tuple[int, int]:
    """(rows, cols) of the largest block whose plan fits; InputError where not even one position does."""
    atoms, probe, scan, detectors = asked
    plan = None
    for edge in EDGES:
        shape = (min(edge, scan.shape[0]), min(edge, scan.shape[1]))
        given = _arguments(arguments, scan.shape, 0, 0, shape)
        plan = plan_simulation(atoms, probe, _part(scan, 0, 0, shape), detectors, **given)
        if sum(plan.memory.values()) <= memory * GIB:
            return shape
    needed = sum(plan.memory.values()) / GIB if plan is not None else 0.0
    remedy = f"allow {needed:.1f} GiB, or use fewer detector pixels or exit planes"
    raise InputError("memory", memory, "GiB do not hold a single position", remedy)


def _blocks(shape: tuple[int, int], edge: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First (row, col) of every block; the last ones are moved back to end with the scan, over others' positions."""
    starts = [[min(i * e, n - e) for i in range(math.ceil(n / e))] for n, e in zip(shape, edge, strict=True)]
    yield from ((row, col) for row in starts[0] for col in starts[1])


def _part(scan: Scan, row: int, col: int, shape: tuple[int, int]) -> Scan:
    """The scan's positions from (row, col) on, `shape` of them."""
    start, end = np.asarray(scan.start, float), np.asarray(scan.end, float)
    step = (end - start) / np.array(scan.shape[::-1])
    first = start + step * (col, row)
    return Scan.grid(first, first + step * shape[::-1], shape)


def _arguments(
    arguments: dict[str, Any], scan: tuple[int, int], row: int, col: int, shape: tuple[int, int]
) -> dict[str, Any]:
    """Those of a block: a tilt for every position of the scan is cut as the scan is."""
    tilt = arguments.get("tilt", (0.0, 0.0))
    if np.shape(tilt) != (*scan, 2):
        return arguments
    return arguments | {"tilt": np.asarray(tilt)[row : row + shape[0], col : col + shape[1]]}


def _mark(request: Any) -> str:
    """A fingerprint of everything that decides the result."""
    from importlib.metadata import version

    leaves, structure = jax.tree.flatten(request)
    digest = hashlib.sha256(f"{version('ferrojax')} {structure}".encode())
    for leaf in leaves:
        digest.update(np.asarray(leaf).tobytes() if isinstance(leaf, jax.Array | np.ndarray) else repr(leaf).encode())
    return digest.hexdigest()


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _opened(target: Path, mark: str, blocks: int) -> Any:
    """The half-written store of this request, or a new one."""
    import zarr

    partial = _partial(target)
    try:
        if partial.exists():
            store = zarr.open_group(partial, mode="r+")
            if store.attrs.get("request") == mark:
                return store
            if not len(store.attrs) and set(store.array_keys()) <= {"written"}:  # stopped before it was begun
                shutil.rmtree(partial)
                return _opened(target, mark, blocks)
            remedy = f"remove {partial.name}, or write elsewhere"
            raise InputError("path", str(partial), "holds a half-written simulation of another request", remedy)
        target.parent.mkdir(parents=True, exist_ok=True)
        store = zarr.open_group(partial, mode="w-")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        remedy = "choose a folder that you can write to"
        raise InputError("path", str(target), f"cannot be written: {error}", remedy) from error
    store.create_array("written", shape=(blocks,), chunks=(1,), dtype="uint8", fill_value=0)
    store.attrs["request"] = mark
    return store


def _write(
    store: Any, name: str, result: Image | DiffractionScan, unit: str, scan: tuple[int, int], first: tuple[int, int],
    edge: tuple[int, int], errors: bool,
) -> None:  # fmt: skip
    """One block of one detector: its array is made with the first."""
    values = {name: result.data}
    if errors and result.standard_error is not None:
        values[f"{name}{_ERROR}"] = result.standard_error
    for key, value in values.items():
        data = np.asarray(value, np.float32)
        axis = data.ndim - (4 if isinstance(result, DiffractionScan) else 2)
        if key not in store:
            shape, chunks = list(data.shape), list(data.shape)
            shape[axis : axis + 2], chunks[axis : axis + 2] = scan, edge
            array = store.create_array(key, shape=tuple(shape), chunks=tuple(chunks), dtype="float32")
            array.attrs.update(_attributes(result, unit))
        where = [slice(None)] * data.ndim
        for i in (0, 1):
            where[axis + i] = slice(first[i], first[i] + edge[i])
        store[key][tuple(where)] = data


def _attributes(result: Image | DiffractionScan, unit: str) -> dict[str, Any]:
    found: dict[str, Any] = {"sampling_A": np.asarray(result.sampling, float).tolist(), "unit": unit}
    if isinstance(result, DiffractionScan):
        found["angular_sampling_mrad"] = np.asarray(result.angular_sampling, float).tolist()
    if result.thickness is not None:
        found["thickness_A"] = list(result.thickness)
    return found
