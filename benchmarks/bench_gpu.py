"""Wave-slices per second of the multislice recursion, and what part of the memory bandwidth that is.

usage: python benchmarks/bench_gpu.py [OUT_FOLDER]     (a minute on a GPU; needs neither abTEM nor ASE)
The bound counts, per wave, slice and pixel, two passes (rows, columns) over each of the two Fourier transforms, read
and written in complex64, and nothing else: 64 bytes. The bandwidth is measured by copying an array of 1 GiB. Before
timing, one case is checked against the same recursion in NumPy's double precision.
"""

import sys
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, write_result

from ferrojax.crystal import displaced_supercell, material
from ferrojax.grid import Grid
from ferrojax.multislice import band, plan_slices, propagator, slab, slice_tables, transport

BYTES = 64
SLICES = 50


def best(function, *arguments, repeats: int = 5) -> float:
    """Seconds of the fastest of several runs after compilation."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(perf_counter() - start)
    return min(times)


def bandwidth() -> float:
    """GB/s read and written by adding one to 1 GiB (256 MiB on a CPU)."""
    size = 2**28 if jax.default_backend() != "cpu" else 2**26
    array = jnp.zeros(size, jnp.float32)
    return 2 * array.nbytes / best(jax.jit(lambda a: a + 1), array) / 1e9


def case(pixels: int, batch: int) -> dict:
    cells = 2
    atoms = displaced_supercell(material("PbTiO3"), np.zeros((cells, cells, 3)), SLICES // 2)
    grid = Grid((pixels, pixels), (atoms.box[1] / pixels, atoms.box[0] / pixels))
    plan = plan_slices(atoms, atoms.box[2] / SLICES * 1.0001)
    tables = slice_tables(plan.elements, grid, 200e3)
    limit = grid.band_limit(*band("renormalised")[:2])
    kernel = propagator(grid, 200e3, plan.slice_thickness, jnp.zeros(2), limit)
    medium = jax.jit(lambda position: slab(position, atoms.occupancy, plan, tables))(atoms.position)
    assert medium.stack is not None
    start = np.random.default_rng(0).normal(size=(2, batch, pixels, pixels)).astype(np.float32)
    waves = jnp.asarray(start[0] + 1j * start[1]) * limit

    @jax.jit
    def run(waves):
        return transport(waves, medium, kernel, lambda spectrum, _: spectrum)[0]

    out = np.asarray(run(waves[:1]))[-1, 0]
    exact = np.asarray(waves[0], complex)
    for t in np.asarray(medium.stack[0], complex):
        exact = np.fft.fft2(np.fft.ifft2(exact) * t) * np.asarray(kernel, complex)
    error = float(np.linalg.norm(out - exact) / np.linalg.norm(exact))
    seconds = best(run, waves)
    rate = batch * SLICES / seconds
    return {"pixels": pixels, "batch": batch, "wave_slices_per_second": rate, "relative_error": error,
            "GB_per_second": rate * pixels**2 * BYTES / 1e9}  # fmt: skip


def main(folder) -> None:
    bound = bandwidth()
    batches = (16,) if jax.default_backend() == "cpu" else (16, 64, 256)
    cases = [case(pixels, batch) for pixels in (256, 512) for batch in batches]
    for row in cases:
        row["part_of_bound"] = row["GB_per_second"] / bound
        print(row, flush=True)
    name = "gpu" if jax.default_backend() == "gpu" else "recursion_cpu"
    print(write_result(name, {"bandwidth_GB_per_second": bound, "cases": cases}, folder))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
