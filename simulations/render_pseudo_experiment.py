"""The pseudo-experiment: render a polar field with abTEM, then record it as a microscope would.

usage: python simulations/render_pseudo_experiment.py render RAW.npz [PLAN.yaml]   (10 minutes a configuration, 2 cores)
       python simulations/render_pseudo_experiment.py record RAW.npz OUT.npz
RAW holds `image` (rows, cols), the mean over frozen configurations, `spread` (its standard error), `field`
(ny, nx, 3) Å, and grows after each configuration, so that an interrupted run keeps what it has. OUT is what
ships: `image` (counts), `sampling` as a file would record it, and the truth, which only the score reads.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from ferrojax.acquisition import ScanGeometry, expose, record
from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector
from ferrojax.interop.abtem import scan_prism
from ferrojax.multislice import FrozenPhonons, displaced_positions
from ferrojax.optics import Probe

PLAN = Path(__file__).with_name("pseudo_experiment.yaml")


def displacement_field(plan: dict) -> np.ndarray:
    """(ny, nx, 3) Å, at the B sites: a net displacement, a periodic lattice of vortices and a random part."""
    ny, nx = plan["cells"]
    f = plan["field"]
    y, x = np.meshgrid((np.arange(ny) + 0.5) / ny, (np.arange(nx) + 0.5) / nx, indexing="ij")
    swirl = np.stack(
        [np.sin(2 * np.pi * y) * np.cos(2 * np.pi * x), -np.cos(2 * np.pi * y) * np.sin(2 * np.pi * x)], -1
    )
    random = np.random.default_rng(plan["seed"]).normal(size=(ny, nx, 2))
    in_plane = np.array(f["mean_pm"]) + f["swirl_pm"] * swirl + f["random_pm"] * random
    along_beam = f["beam_pm"] * np.cos(2 * np.pi * x)[..., None]
    return np.concatenate([in_plane, along_beam], -1) / 100


def tilted(atoms: Atoms, position: np.ndarray, tilt: list[float]) -> Atoms:
    """The specimen sheared as a tilt of the beam (mrad) shears it."""
    slope = np.tan(np.array(tilt) * 1e-3)
    position = position.copy()
    position[:, :2] -= position[:, 2:] * slope
    return Atoms(position, atoms.number, atoms.box)


def render(plan: dict, out: str) -> None:
    field = displacement_field(plan)
    atoms = displaced_supercell(material(plan["crystal"]), field, plan["depth"], plan["mode_scale"])
    phonons = FrozenPhonons(plan["configurations"], seed=plan["seed"], antithetic=True)
    images = []
    for c in range(plan["configurations"]):
        start = time.time()
        specimen = tilted(atoms, np.asarray(displaced_positions(atoms, phonons, c), float), plan["tilt"])
        image = scan_prism(
            specimen,
            Probe(**plan["probe"]),
            (plan["scan"][0], plan["scan"][1]),
            AnnularDetector(*plan["detector"]),
            plan["sampling"],
            plan["interpolation"],
        )
        images.append(image)
        error = np.std(images, axis=0, ddof=1) / len(images) ** 0.5 if len(images) > 1 else np.full_like(image, np.nan)
        np.savez_compressed(
            out,
            image=np.mean(images, axis=0).astype(np.float32),
            spread=error.astype(np.float32),
            field=field.astype(np.float32),
            configurations=len(images),
        )
        print(f"configuration {c}: {time.time() - start:.0f} s, mean {image.mean():.4f}", flush=True)


def record_scan(plan: dict, raw: str, out: str) -> None:
    """Counts of a scan over several periods, and where the truth lies in it."""
    a = plan["acquisition"]
    with np.load(raw) as z:
        image, field = z["image"], z["field"].astype(float)
    box = np.array(plan["cells"][::-1]) * 4.0
    rows, cols = (int(a["repeat"] * b / s) for b, s in zip(box[::-1], a["sampling"], strict=True))
    geometry = ScanGeometry(
        (rows, cols),
        jnp.array(a["sampling"]),
        jnp.deg2rad(a["rotation_deg"]),
        jnp.array(a["jitter_pm"] / 100),
        jnp.array(a["drift_pm_per_line"]) / 100,
    )
    keys = jax.random.split(jax.random.key(plan["seed"]), 2)
    clean = record(keys[0], jnp.asarray(image), box, geometry, jnp.array(a["source_size"]))
    counts = expose(keys[1], clean, a["dose"], a["background"])
    position_px, displacement = _truth(field, box, geometry, a["repeat"])
    np.savez_compressed(
        out,
        image=np.asarray(counts).astype(np.uint16),
        sampling=np.full(2, a["recorded_sampling"]),
        position_px=position_px.astype(np.float32),
        displacement=displacement.astype(np.float32),
    )
    print(f"{rows} × {cols} pixels, {counts.mean():.0f} counts a pixel, {len(position_px)} cells")


def _truth(field: np.ndarray, box: np.ndarray, geometry: ScanGeometry, repeat: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel (x, y) and displacement in image axes of every cell inside the scan."""
    ny, nx = field.shape[:2]
    j, i = np.meshgrid(np.arange(-2 * ny, 3 * repeat * ny), np.arange(-2 * nx, 3 * repeat * nx), indexing="ij")
    at = np.stack([(i + 0.5) * box[0] / nx, (j + 0.5) * box[1] / ny], -1).reshape(-1, 2)
    d = field[j.ravel() % ny, i.ravel() % nx, :2]
    c, s = np.cos(float(geometry.rotation)), np.sin(float(geometry.rotation))
    to_image = np.array([[c, -s], [s, c]])
    x, y = (at @ to_image.T).T
    row = y / float(geometry.sampling[0] + geometry.drift[1])
    col = (x - row * float(geometry.drift[0])) / float(geometry.sampling[1])
    rows, cols = geometry.shape
    inside = (row > 0) & (row < rows - 1) & (col > 0) & (col < cols - 1)
    return np.stack([col, row], -1)[inside], (d @ to_image.T)[inside]


if __name__ == "__main__":
    given = Path(sys.argv[3]) if sys.argv[1] == "render" and len(sys.argv) > 3 else PLAN
    settings = yaml.safe_load(given.read_text())
    if sys.argv[1] == "render":
        render(settings, sys.argv[2])
    else:
        record_scan(settings, *sys.argv[2:4])
