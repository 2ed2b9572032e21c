"""The detector as an operator on the illumination: one multislice pass, images under any optics.

A probe is a sum of the plane waves inside the aperture, so the signal at r is Σ_ab c_a* c_b H_ab exp(2πi(k_a−k_b)·r)
with c the probe's spectrum and H_ab = ⟨ψ_a|D|ψ_b⟩ from the exit waves of those plane waves. H knows the specimen,
its tilt and its thickness; semi-angle, defocus and aberrations enter afterwards. This is the scattering matrix of
PRISM without interpolation: exact for the periodic box, and cheaper than scanning wherever the aperture holds
fewer beams than the scan has positions.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from ferrojax.crystal import Atoms
from ferrojax.detection.detectors import AnnularDetector
from ferrojax.detection.simulate import FAST_CARRIED, FAST_FRACTION, FAST_SAMPLING, check_reach
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import (
    FastThermal,
    SlicePlan,
    configurations,
    displaced_positions,
    multislice,
    propagator,
    slab,
    slice_tables,
)
from ferrojax.optics import Probe, probe_spectrum


class DetectorOperator(eqx.Module):
    """H of one specimen. matrix: (exits, beams, beams), Hermitian. beam: (beams, 2) (x, y) grid frequencies."""

    matrix: Complex[Array, "exits beams beams"]
    beam: tuple[tuple[int, int], ...] = eqx.field(static=True)
    grid: Grid = eqx.field(static=True)
    energy: float = eqx.field(static=True)


def detector_operator(
    atoms: Atoms,
    energy: float,
    max_semiangle: float,
    detector: AnnularDetector,
    thermal: FastThermal,
    plan: SlicePlan,
    *,
    tilt=(0.0, 0.0),
    grid: Grid | None = None,
    batch: int = 16,
) -> DetectorOperator:
    """H for every beam within `max_semiangle` (mrad), thermally averaged, at the plan's exit planes.

    The detector must end within the band limit or be unbounded (outer = inf), because what is scattered beyond an
    outer angle in between is not taken out here.
    """
    grid = Grid.for_box(atoms.box[0], atoms.box[1], FAST_SAMPLING) if grid is None else grid
    illumination = Probe(energy, max_semiangle)
    reach = FAST_FRACTION * grid.nyquist * illumination.wavelength * 1e3
    check_reach({"detector": detector}, reach, True, illumination)
    if reach < detector.outer < np.inf:
        raise InputError(
            "detector",
            detector.outer,
            f"ends between the band limit of {reach:.0f} mrad and infinity",
            "use outer=inf",
        )
    limit = grid.band_limit(FAST_FRACTION, 0.0)
    tables = slice_tables(plan.elements, grid, energy, "renormalised", grid.band_limit(FAST_CARRIED, 0.0))
    kernel = propagator(grid, energy, plan.slice_thickness, jnp.asarray(tilt, tables.carried.dtype), limit)
    rows, cols = np.nonzero(grid.k * illumination.wavelength * 1e3 < max_semiangle)
    ring = detector.weights(grid, illumination.wavelength)
    lost = float(detector.outer == np.inf)
    inside = tuple(jnp.asarray(i) for i in np.nonzero(limit))
    beams = jnp.asarray(np.stack([rows, cols]))
    total = 0
    for c in range(configurations(thermal)):
        position = displaced_positions(atoms, thermal, c)
        total += _matrix(position, atoms.occupancy, plan, tables, kernel, ring, beams, inside, lost, batch)
    signed = [np.where(i > n // 2, i - n, i) for i, n in zip((cols, rows), grid.shape[::-1], strict=True)]
    beam = tuple((int(x), int(y)) for x, y in zip(*signed, strict=True))
    return DetectorOperator(total / configurations(thermal), beam, grid, energy)  # pyright: ignore[reportArgumentType]


@eqx.filter_jit
def _matrix(position, occupancy, plan, tables, kernel, ring, beam, inside, lost, batch):
    specimen = slab(position, occupancy, plan, tables)
    n = beam.shape[1]
    padded = jnp.pad(beam, ((0, 0), (0, -n % batch)), mode="edge")

    def one_batch(index):
        spectrum = jnp.zeros((batch, *ring.shape), kernel.dtype)
        spectrum = spectrum.at[jnp.arange(batch), index[0], index[1]].set(1.0)
        psi = jnp.fft.ifft2(spectrum, norm="ortho")
        return multislice(psi, specimen, kernel, lambda p, _: jnp.fft.fft2(p, norm="ortho")[:, inside[0], inside[1]])

    waves = jax.lax.map(one_batch, jnp.moveaxis(padded.reshape(2, -1, batch), 1, 0))  # batches, exits, batch, k
    waves = jnp.swapaxes(waves, 0, 1).reshape(waves.shape[1], -1, waves.shape[-1])[:, :n]
    # An unbounded detector collects all but what the wave holds outside the ring: I − ⟨ψ_a|1 − D|ψ_b⟩.
    seen = ring[inside] - lost
    return lost * jnp.eye(n) + jnp.einsum("eak,k,ebk->eab", jnp.conj(waves), seen, waves)


@eqx.filter_jit
def operator_spectrum(operator: DetectorOperator, probe: Probe, size: int) -> Complex[Array, "exits size size"]:
    """Fourier coefficients of the image of the periodic box, FFT order; frequencies beyond size/2 are dropped.

    `ifft2(spectrum) * size²` is the image on size × size positions from the origin.
    """
    x, y = np.array(operator.beam).T
    spectrum = probe_spectrum(probe, operator.grid)[y, x]
    pair = jnp.conj(spectrum)[:, None] * spectrum[None] * operator.matrix
    qx, qy = x[:, None] - x[None], y[:, None] - y[None]
    keep = (np.abs(qx) < size // 2) & (np.abs(qy) < size // 2)
    flat = (qy % size) * size + qx % size
    exits = operator.matrix.shape[0]
    image = jnp.zeros((exits, size * size), pair.dtype).at[:, flat[keep]].add(pair[:, keep])
    return image.reshape(exits, size, size)
