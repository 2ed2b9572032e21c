"""Matrix products state their precision: a GPU rounds the factors of those that do not to ten bits."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.columns import GaussianNoise, cramer_rao, find_columns
from ferrojax.crystal import displaced_supercell, material, polar_crystal
from ferrojax.detection import (
    AnnularDetector,
    CentreOfMass,
    PixelatedDetector,
    Scan,
    SegmentedDetector,
    detector_operator,
    differential_phase_contrast,
    integrated_centre_of_mass,
    operator_spectrum,
    simulate,
)
from ferrojax.grid import Grid
from ferrojax.image import DiffractionScan, Image
from ferrojax.io import read
from ferrojax.multislice import FastThermal, FrozenPhonons, exit_wave, plan_slices
from ferrojax.optics import PlaneWave, Probe
from ferrojax.polarization import (
    cell_polarization,
    displacement_statistics,
    map_lattice,
    map_polarization,
    octahedral_tilt,
    perovskite_cells,
    strain,
)
from ferrojax.polarization.born import atom_charges
from ferrojax.polarization.cells import crystal_lattice

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

SHIPPED = Path(str(files("ferrojax.data")))
ATOMS = displaced_supercell(material("BaTiO3"), np.full((1, 1, 3), [0.1, 0, 0]), 2)
PLAN = plan_slices(ATOMS, 2.0, [4.0, 8.0])
DETECTORS = {
    "adf": AnnularDetector(40, 80),
    "com": CentreOfMass(40),
    "quarters": SegmentedDetector(10, 40),
    "camera": PixelatedDetector(40, step=5.0),
}
WHOLE = Scan.grid((0, 0), ATOMS.box[:2], (4, 4))
HAADF = {"haadf": AnnularDetector(60, 170)}


def run(detectors=DETECTORS, source=0.0, **kw: Any):
    probe = Probe(200e3, 21.4, source_size=source)
    given: dict[str, Any] = {"sampling": 0.1, "window": None, "plan": PLAN} | kw
    return lambda tilt: simulate(ATOMS, probe, WHOLE, detectors, tilt=tilt, **given)


def operator(tilt):
    found = detector_operator(ATOMS, 200e3, 20.0, AnnularDetector(60, np.inf), FastThermal(2), PLAN, tilt=tilt)
    return operator_spectrum(found, Probe(200e3, 20.0), 12)


def phases(tilt):
    signals = run()(tilt)
    camera = DiffractionScan(signals["camera"].data, (1, 1), (5, 5)).centre_of_mass()
    divided = differential_phase_contrast(signals["quarters"], SegmentedDetector(10, 40), 21.4)
    return camera, integrated_centre_of_mass(divided, 0.025)


CASES: dict[str, Any] = {
    "probes": run(route="probes", thermal=FrozenPhonons(2)),
    "matrix": run(route="matrix", source=0.4),
    "fast probes": run(HAADF, thermal=FastThermal(2), sampling=None, route="probes"),
    "fast matrix": run(HAADF, thermal=FastThermal(2), sampling=None, route="matrix"),
    "windows": run({"adf": DETECTORS["adf"]}, window=16.0, plan=None),
    "operator": operator,
    "exit wave": lambda tilt: exit_wave(ATOMS, PlaneWave(200e3), Grid((40, 40), (0.1, 0.1)), tilt=tilt),
    "phases": phases,
}


def products(jaxpr) -> list[Any]:
    """Every matrix product of floats in a program and the programs inside it."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.inexact):
            found.append(equation)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(value, "jaxpr", value)
            found += products(inner) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_product_is_in_full_precision(case):
    program = jax.make_jaxpr(lambda tilt: jax.tree.leaves(CASES[case](tilt)))(jnp.array([1.0, -2.0]))
    found = products(program.jaxpr)
    assert found
    for equation in found:
        assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2, equation


@pytest.mark.study
def test_products_of_the_analysis_are_in_full_precision(tmp_path):
    """From the programs that JAX compiles while an image is mapped, because much of it runs outside of any trace."""
    image, crystal = read(SHIPPED / "BTO_crystal_1.dm4"), material("BaTiO3")
    part = Image(image.data[:300, :300], image.sampling)
    cells = perovskite_cells(ATOMS.position, np.diag(ATOMS.box), [crystal.label[i % 5] for i in range(10)])
    jax.clear_caches()
    jax.config.update("jax_dump_ir_to", str(tmp_path))
    try:
        columns = find_columns(part, crystal)
        cramer_rao(columns, part, GaussianNoise(0.01))
        found = map_polarization(part, crystal)
        strain(map_lattice(found), crystal_lattice(found))
        displacement_statistics(found)
        polar_crystal(crystal, (0.0, 0.0, 0.1))
        cell_polarization(ATOMS.position, np.diag(ATOMS.box), cells, atom_charges(crystal, cells, 10))
        octahedral_tilt(ATOMS.position, np.diag(ATOMS.box), cells)
    finally:
        jax.config.update("jax_dump_ir_to", None)
    programs = "\n".join(file.read_text() for file in tmp_path.rglob("*.mlir"))
    lines = [line for line in programs.splitlines() if "stablehlo.dot_general" in line]
    assert len(lines) > 20
    loose = [line for line in lines if "precision = [HIGHEST, HIGHEST]" not in line]
    assert not loose, loose[:5]
