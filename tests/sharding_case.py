"""What test_sharding runs on 8 simulated devices: python -m tests.sharding_case."""

import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, PixelatedDetector, Scan, plan_simulation, simulate
from ferrojax.multislice import FrozenPhonons, plan_slices
from ferrojax.optics import Probe

DETECTORS = {"adf": AnnularDetector(40, 75), "abf": AnnularDetector(11, 21.4), "camera": PixelatedDetector(30, step=6)}
PROBE = Probe(200e3, 21.4, 10.0)


def cells(n: int):
    return displaced_supercell(material("BaTiO3"), np.random.default_rng(0).normal(size=(n, n, 3)) * 0.05, 2)


WHOLE: dict[str, Any] = {
    "scan": Scan.grid((0, 0), (3, 2), (3, 5)),
    "window": None,
    "thermal": FrozenPhonons(2),
}  # 15 on 8 devices
TILES: dict[str, Any] = {"scan": Scan.grid((1, 2), (13, 10), (2, 9)), "window": 8.0, "thermal": None}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "probes": (1, {**WHOLE, "route": "probes"}),
    "tilts": (1, {**WHOLE, "route": "probes", "tilt": np.linspace(-4, 4, 30).reshape(3, 5, 2)}),
    "matrix": (1, {**WHOLE, "route": "matrix"}),
    "windowed probes": (4, {**TILES, "route": "probes"}),
    "windowed matrix": (4, {**TILES, "route": "matrix"}),
}


def main() -> dict:
    devices = jax.devices()
    out: dict[str, Any] = {"devices": len(devices)}
    for name, (size, given) in CASES.items():
        atoms, case = cells(size), dict(given)
        scan = case.pop("scan")
        plan = plan_simulation(atoms, PROBE, scan, DETECTORS, sampling=0.1, devices=devices, **case)
        one, eight = (
            simulate(atoms, PROBE, scan, DETECTORS, sampling=0.1, devices=d, **case) for d in (devices[:1], devices)
        )
        error = {n: float(np.linalg.norm(one[n].data - eight[n].data) / np.linalg.norm(one[n].data)) for n in DETECTORS}
        used = plan.devices
        out[name] = {"error": max(error.values()), "windowed": plan.windowed, "tiles": plan.tiles, "devices": used}
    atoms = cells(1)
    slices = plan_slices(atoms, 2.0)

    def loss(position, tilt, devices):
        moved = eqx.tree_at(lambda a: a.position, atoms, position)
        images = simulate(
            moved,
            PROBE,
            WHOLE["scan"],
            DETECTORS,
            tilt=tilt,
            sampling=0.1,
            plan=slices,
            devices=devices,
            route="probes",
            window=None,
        )
        return (images["abf"].data * jnp.arange(15.0).reshape(3, 5)).sum()

    at = atoms.position, jnp.array([3.0, -2.0])
    one, eight = (jax.grad(loss, argnums=(0, 1))(*at, d) for d in (devices[:1], devices))
    out["gradient"] = [float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a)) for a, b in zip(one, eight, strict=True)]
    return out


if __name__ == "__main__":
    print(json.dumps(main()))
