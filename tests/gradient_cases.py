"""What test_gradients runs in processes of its own, in float32 and in x64: python -m tests.gradient_cases."""

import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, CentreOfMass, Scan, at_thickness, simulate
from ferrojax.multislice import FastThermal, FrozenPhonons, SlicePlan, plan_slices
from ferrojax.optics import Probe

DETECTORS = {"haadf": AnnularDetector(40, 70, 5.0), "abf": AnnularDetector(11, 24, 2.0), "com": CentreOfMass(30.0)}
PLANES = [2.0, 4.0, 6.0, 8.0]
STEPS = {
    "position": 1e-4, "occupancy": 1e-4, "thermal_rms": 1e-4, "tilt": 1e-2, "defocus": 3e-2, "C12": 3e-2,
    "semiangle": 1e-3, "source_size": 1e-4, "focal_spread": 3e-2, "thickness": 1e-4,
}  # fmt: skip


def specimen():
    field = np.zeros((1, 1, 3))
    field[..., :2] = 0.1, 0.05
    return displaced_supercell(material("BaTiO3"), field, 2)


def parameters(atoms: Atoms) -> dict:
    real = {"defocus": 60.0, "C12": 20.0, "source_size": [0.3, 0.2], "focal_spread": 20.0, "thickness": 6.7}
    optics = {name: jnp.asarray(v, jnp.result_type(float)) for name, v in real.items()}
    optics |= {"tilt": jnp.asarray([3.0, -2.0]), "semiangle": jnp.asarray(20.0)}
    return {"position": atoms.position, "occupancy": 0.9 * atoms.occupancy, "thermal_rms": atoms.thermal_rms, **optics}


def loss(p: dict, base: Atoms, plan: SlicePlan, route: str, thermal, source: bool = True):
    """A weighted sum over three detectors' images at one thickness; C12 with its azimuth, soft aperture."""
    atoms = eqx.tree_at(
        lambda a: (a.position, a.occupancy, a.thermal_rms), base, (p["position"], p["occupancy"], p["thermal_rms"])
    )
    aberrations = {"C12": p["C12"], "phi12": 0.3}
    size = p["source_size"] if source else 0.0
    probe = Probe(200e3, p["semiangle"], p["defocus"], aberrations, size, p["focal_spread"], edge=6.0)
    scan = Scan.grid((0, 0), base.box[:2], (3, 3))
    images = simulate(
        atoms,
        probe,
        scan,
        DETECTORS,
        thermal=thermal,
        tilt=p["tilt"],
        sampling=0.1,
        plan=plan,
        route=route,
        window=None,
    )
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    haadf, abf, com = (at_thickness(images[name].data, PLANES, p["thickness"]) for name in DETECTORS)
    return (100 * weight * haadf).sum() + (weight * abf).sum() + 10 * (weight * com[0]).sum()


def along(name: str, value) -> jax.Array:
    """A fixed direction, the same in float32 and x64."""
    rng = np.random.default_rng(len(name))
    return jnp.asarray(rng.normal(size=value.shape) if value.ndim else 1.0, value.dtype)


def compare(names: list[str], thorough: bool, **case) -> dict:
    """name -> derivative along a direction by reverse mode; if thorough by forward mode and differences, too."""
    atoms = specimen()
    base, plan = parameters(atoms), plan_slices(atoms, 2.0, PLANES)
    free = {name: base[name] for name in names}
    zero = jax.tree.map(jnp.zeros_like, free)

    @jax.jit
    def value(free):
        return loss({**base, **free}, atoms, plan, **case)

    tangent = jax.jit(lambda along: jax.jvp(value, (free,), (along,))[1])
    gradient, out = jax.jit(jax.grad(value))(free), {}
    for name in names:
        direction, h = along(name, base[name]), STEPS[name]
        row = {"reverse": float((gradient[name] * direction).sum())}
        if thorough:
            row["forward"] = float(tangent({**zero, name: direction}))
            at = {s: float(value({**free, name: base[name] + s * direction})) for s in (h, -h, 2 * h, -2 * h)}
            near, far = ((at[s] - at[-s]) / (2 * s) for s in (h, 2 * h))
            row["differences"] = (4 * near - far) / 3
        out[name] = row
    return out


COMMON = ["position", "occupancy", "thermal_rms", "tilt", "defocus", "C12", "focal_spread", "thickness"]
CASES: dict[str, dict[str, Any]] = {
    "probes": {"route": "probes", "thermal": FrozenPhonons(1), "names": [*COMMON, "semiangle"], "source": False},
    "matrix": {"route": "matrix", "thermal": FrozenPhonons(1), "names": [*COMMON, "source_size"]},
    "fast": {"route": "probes", "thermal": FastThermal(2), "names": ["position", "thermal_rms", "tilt"]},
}

if __name__ == "__main__":
    x64 = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    print(json.dumps({name: compare(**case, thorough=x64) for name, case in CASES.items()}))
