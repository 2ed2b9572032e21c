"""The affine step that maps the measured lattice on the crystal's."""

import jax.numpy as jnp
import numpy as np
from scipy import linalg

from ferrojax.columns.columns import Calibration
from ferrojax.columns.indexing import lattice as lat
from ferrojax.columns.indexing.index import fit_lattice
from ferrojax.crystal.zone import Motif


def calibrate(
    position: np.ndarray, index: np.ndarray, motif: Motif, sampling: np.ndarray, column: int = 0
) -> Calibration:
    """Affine step and its figures from columns (n, 2) px of one kind (row of the motif) at lattice indices (n, 2)."""
    origin, lattice_px, residual = fit_lattice(index, position)
    origin = origin - (motif.position[column] - motif.position[0]) @ lattice_px
    to_crystal = motif.lattice.T @ np.linalg.inv(lattice_px.T)
    inverse_rotation, affine = linalg.polar(to_crystal)
    lat.check_fit(np.linalg.inv(to_crystal), motif, sampling)
    relative = np.diag(sampling[::-1]) @ np.linalg.inv(affine)  # recorded Å per true Å
    angle = np.arctan2(inverse_rotation[0, 1], inverse_rotation[0, 0])
    distance = residual @ affine
    typical = np.median(np.linalg.norm(distance, axis=1))
    kept = distance[np.linalg.norm(distance, axis=1) < max(4 * typical, 1e-9)]
    along = np.linalg.norm(relative, axis=0)
    figures = {
        "sampling_error": 100 * (np.sqrt(np.linalg.det(relative)) - 1),
        "anisotropy": 100 * (along[0] / along[1] - 1),
        "shear": 90 - np.degrees(np.arccos((relative[:, 0] @ relative[:, 1]) / along.prod())),
        "rotation_deg": -np.degrees(angle),
        "rms_pm": 100 * np.sqrt((kept**2).mean()),
    }
    arrays = {
        "affine": affine,
        "rotation": inverse_rotation.T,
        "lattice_px": lattice_px,
        "origin_px": origin,
        "recorded_sampling": sampling,
    }
    return Calibration(**{k: jnp.asarray(v, jnp.result_type(float)) for k, v in {**arrays, **figures}.items()})
