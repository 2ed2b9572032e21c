"""Simulated training cells: real multislice images of supercells with a random polar displacement in every cell."""

from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from ferrojax.crystal import displaced_supercell, material
from ferrojax.dataset.plan import TrainingPlan
from ferrojax.detection import AnnularDetector, detector_operator, operator_spectrum
from ferrojax.errors import InputError
from ferrojax.multislice import FastThermal, plan_slices
from ferrojax.optics import Probe

SPECIMEN = ("tilt_x", "tilt_y", "mode_scale", "thermal_scale")
OPTICS = ("semiangle", "defocus", "C12", "phi12", "C21", "phi21")
PARAMETERS = SPECIMEN + OPTICS
"""Columns of SimulatedSet.parameter; mrad, Å, rad."""


class SimulatedSet(eqx.Module):
    """Noise-free, periodic HAADF images of supercells, before source size and acquisition.

    image: (n, thickness, rows, cols) fraction of the beam. displacement: (n, cells, cells, 3) Å, of B against A
    in cell (row, col). thickness: (thickness,) Å. parameter: (n, len(PARAMETERS)). specimen: (n,) which supercell;
    those that share one differ in their optics. box: Å, side of the supercell.
    """

    image: Float[np.ndarray, "n thickness rows cols"]
    displacement: Float[np.ndarray, "n cells cells 3"]
    thickness: Float[np.ndarray, " thickness"]
    parameter: Float[np.ndarray, "n parameters"]
    specimen: Int[np.ndarray, " n"]
    box: float

    def save(self, path) -> None:
        """One compressed .npz; images as float16, exact to 0.05 %."""
        np.savez_compressed(
            path,
            image=self.image.astype(np.float16),
            displacement=self.displacement.astype(np.float32),
            thickness=self.thickness.astype(np.float32),
            parameter=self.parameter.astype(np.float32),
            specimen=self.specimen,
            box=np.float32(self.box),
        )

    @staticmethod
    def load(path) -> "SimulatedSet":
        """What `save` wrote."""
        with np.load(path) as z:
            image = z["image"].astype(np.float32)
            return SimulatedSet(
                image, z["displacement"], z["thickness"], z["parameter"], z["specimen"], float(z["box"])
            )

    def join(self, other: "SimulatedSet") -> "SimulatedSet":
        """Both sets one after the other; they must share thicknesses, box and shape."""
        if self.image.shape[1:] != other.image.shape[1:] or not np.allclose(self.thickness, other.thickness):
            raise ValueError("sets from different plans cannot be joined")
        specimen = np.concatenate([self.specimen, other.specimen + self.specimen.max() + 1])
        pairs = [
            (self.image, other.image),
            (self.displacement, other.displacement),
            (self.parameter, other.parameter),
        ]
        image, displacement, parameter = (np.concatenate(pair) for pair in pairs)
        return SimulatedSet(image, displacement, self.thickness, parameter, specimen, self.box)

    def subset(self, keep: np.ndarray) -> "SimulatedSet":
        """The rows that the boolean mask `keep` (n,) chooses."""
        image, displacement, parameter = self.image[keep], self.displacement[keep], self.parameter[keep]
        return SimulatedSet(image, displacement, self.thickness, parameter, self.specimen[keep], self.box)


def _draw_specimen(plan: TrainingPlan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A displacement field (cells, cells, 3) Å and the values of SPECIMEN."""
    direction = rng.normal(size=3)
    mean = direction / np.linalg.norm(direction) * rng.uniform(*plan.mean_displacement_pm)
    field = (mean + rng.normal(size=(plan.cells, plan.cells, 3)) * plan.spread_pm) / 100
    tilt = plan.tilt_max * np.sqrt(rng.uniform()) * np.exp(2j * np.pi * rng.uniform())
    return field, np.array([tilt.real, tilt.imag, rng.uniform(*plan.mode_scale), rng.uniform(*plan.thermal_scale)])


def _draw_optics(plan: TrainingPlan, rng: np.random.Generator) -> np.ndarray:
    """The values of OPTICS."""
    semiangle, defocus = rng.uniform(*plan.semiangle), rng.uniform(*plan.defocus)
    astigmatism, coma = rng.uniform(*plan.astigmatism), rng.uniform(*plan.coma)
    return np.array([semiangle, defocus, astigmatism, rng.uniform(0, np.pi), coma, rng.uniform(0, 2 * np.pi)])


def _probe(plan: TrainingPlan, optics: np.ndarray) -> Probe:
    return Probe(plan.energy, optics[0], optics[1], dict(zip(OPTICS[2:], optics[2:], strict=True)))


def generate(
    plan: TrainingPlan, indices: Sequence[int], seed: int, on_progress: Callable[[int], None] = lambda _: None
) -> SimulatedSet:
    """Simulate these supercells of the plan; all thicknesses and all optics come from one pass.

    What supercell i holds depends on the plan, the seed and i alone, so a set can be made in parts.
    """
    crystal = material(plan.crystal)
    if crystal.soft_mode is None:
        raise InputError("crystal", plan.crystal, "has no soft mode to displace along", "use a polar crystal")
    cell = np.diag(np.asarray(crystal.cell, float))
    depth = int(np.ceil(max(plan.thicknesses) / cell[2] - 1e-6))
    size = plan.cells * plan.probes_per_cell
    straight = displaced_supercell(crystal, np.zeros((plan.cells, plan.cells, 3)), depth)
    slices = plan_slices(straight, cell[2] / 2 + 1e-3, list(plan.thicknesses))
    detector = AnnularDetector(*plan.detector)
    images, fields, parameters = [], [], []
    for done, i in enumerate(indices, start=1):
        rng = np.random.default_rng([plan.seed, seed, i])
        field, specimen = _draw_specimen(plan, rng)
        tilt_x, tilt_y, mode_scale, thermal_scale = specimen
        moved = displaced_supercell(crystal, field, depth, mode_scale)
        atoms = eqx.tree_at(lambda a: a.thermal_rms, moved, moved.thermal_rms * thermal_scale)
        thermal = FastThermal(plan.configurations, seed=int(rng.integers(2**31)))
        operator = detector_operator(
            atoms, plan.energy, plan.semiangle[1], detector, thermal, slices, tilt=(tilt_x, tilt_y)
        )
        for _ in range(plan.optics):
            optics = _draw_optics(plan, rng)
            spectrum = operator_spectrum(operator, _probe(plan, optics), size)
            images.append(np.fft.ifft2(np.asarray(spectrum)).real * size**2)
            fields.append(field)
            parameters.append(np.concatenate([specimen, optics]))
        on_progress(done)
    return SimulatedSet(
        np.stack(images).astype(np.float32),
        np.stack(fields).astype(np.float32),
        np.array(plan.thicknesses, np.float32),
        np.stack(parameters).astype(np.float32),
        np.repeat(np.arange(len(indices)), plan.optics),
        float(straight.box[0]),
    )
