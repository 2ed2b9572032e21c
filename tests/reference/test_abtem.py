"""The engine against abTEM on the same grid, in the mode that mirrors it: atoms anywhere, tilted or not."""

import numpy as np
import pytest

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.interop import abtem as reference
from ferrojax.interop.agreement import Experiment, bound, relative_differences, with_abtem, with_ferrojax
from ferrojax.multislice import plan_slices
from ferrojax.optics import Probe

PROBE = Probe(200e3, 21.4, defocus=20.0, aberrations={"C30": 5e4, "C12": 30.0, "phi12": 0.4})
DETECTORS = {"HAADF": AnnularDetector(60, 130), "ABF": AnnularDetector(11, 21.4)}
TILTS = [(0.0, 0.0), (5.0, -3.0)]


def polar(depth: int) -> Atoms:
    """PbTiO3, B and O off centre and off the pixels."""
    return displaced_supercell(material("PbTiO3"), np.full((1, 1, 3), [0.17, -0.09, 0.0]), depth)


def scattered() -> Atoms:
    """Twelve atoms anywhere in a cell that is not square, one on the far edges, one outside the box."""
    generator = np.random.default_rng(3)
    position = np.column_stack([generator.uniform(0, 4.1, 12), generator.uniform(0, 3.7, 12), np.arange(0.3, 8, 0.66)])
    position[:2, :2] = [[4.0999, 3.6999], [-0.013, 3.9]]
    return Atoms(position, [82, 22, 8, 8, 8, 56] * 2, (4.1, 3.7, 8.0))


SPECIMENS = {"polar, one cell": polar(1), "polar, ten cells": polar(10), "scattered": scattered()}


def experiment(atoms: Atoms, tilt: tuple[float, float]) -> Experiment:
    width, height, depth = atoms.box
    return Experiment(
        atoms,
        PROBE,
        Scan.grid((0.1, 0.2), (0.1 + width, 0.2 + height), (2, 2)),
        DETECTORS,
        Grid.for_box(width, height, 0.06),
        cbed_position=(1.1, 0.4),
        tilt=tilt,
        slice_thickness=depth / round(depth / 2),
    )


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize("name", SPECIMENS)
def test_waves_patterns_and_images_agree_with_atoms_anywhere(name, tilt):
    """Off the pixels abTEM shares an atom out among four of them, and so does the mode that mirrors it."""
    setup = experiment(SPECIMENS[name], tilt)
    found = relative_differences(with_ferrojax(setup, "abtem"), with_abtem(setup))
    assert set(found) == {"exit wave", "CBED", "HAADF", "ABF"}
    assert {what: value for what, value in found.items() if not value <= bound(what)} == {}


@pytest.mark.parametrize("tilt", TILTS)
def test_line_scan_by_the_default_route(tilt):
    atoms = SPECIMENS["polar, ten cells"]
    setup = experiment(atoms, tilt)
    options = {"tilt": tilt, "sampling": setup.grid, "slice_thickness": setup.slice_thickness}
    ours = simulate(atoms, PROBE, setup.scan, DETECTORS, transmission="abtem", **options)
    theirs = reference.scan_annular(
        atoms, PROBE, setup.scan, DETECTORS, setup.grid, slice_thickness=setup.slice_thickness, tilt=tilt
    )
    found = relative_differences({name: np.asarray(image.data) for name, image in ours.items()}, theirs)
    assert max(found.values()) < 1e-3


def moved_by_half_a_pixel(transmission: str) -> float:
    """Largest relative change of HAADF on two columns of a thin cell when cell and scan move by half a pixel."""
    crystal, atoms = material("PbTiO3"), displaced_supercell(material("PbTiO3"), np.zeros((1, 1, 3)), 1)
    grid = Grid.for_box(atoms.box[0], atoms.box[1], 0.06)
    position = np.asarray(atoms.position, float)
    lead, titanium = (position[crystal.label.index(label), :2] for label in "AB")
    options = {"sampling": grid, "slice_thickness": atoms.box[2] / 2, "window": None, "route": "probes"}
    on_columns = []
    for shift in (np.zeros(2), np.array(grid.sampling[::-1]) / 2):
        moved = Atoms(position + np.append(shift, 0.0), atoms.number, atoms.box)
        scan = Scan.grid(lead + shift, 2 * titanium - lead + shift, (2, 2))
        image = simulate(moved, PROBE, scan, {"HAADF": DETECTORS["HAADF"]}, transmission=transmission, **options)
        on_columns.append(np.diag(np.asarray(image["HAADF"].data)))
    return float(np.abs(on_columns[1] / on_columns[0] - 1).max())


def test_moving_crystal_and_scan_together_changes_nothing():
    """The renormalised transmission knows no pixels; exp(iσV) of a heavy atom and abTEM's placement do."""
    assert moved_by_half_a_pixel("renormalised") < 1e-3
    assert moved_by_half_a_pixel("conventional") > 1e-2
    assert moved_by_half_a_pixel("abtem") > 1e-2


def with_occupancy(share: list[float]) -> Atoms:
    position = [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [3.0, 2.0, 1.0]]
    return Atoms(position, [11, 19, 8], (4.0, 4.0, 2.0), occupancy=np.array(share))


def test_abtem_is_given_whole_atoms_only():
    """A partial occupancy is refused, with the remedy; an atom of occupancy zero is left out."""
    with pytest.raises(InputError, match=r"occupancy: is partial.*draw_occupancy"):
        reference.exit_wave(with_occupancy([0.5, 0.5, 1.0]), 200e3, Grid((32, 32), (0.125, 0.125)))
    assert list(reference._ase(with_occupancy([1.0, 0.0, 1.0])).numbers) == [11, 8]
    with pytest.raises(InputError, match="leaves no atom"):
        reference._ase(with_occupancy([0.0, 0.0, 0.0]))


def test_abtem_cuts_as_many_slices_as_we_do():
    """A single-precision box that divides into 99 slices but for its last digit."""
    atoms = Atoms(np.zeros((1, 3)), [22], (4.0, 4.0, 198.2200026512146))
    step = atoms.box[2] / 99 * (1 - 1e-9)
    with reference._quiet() as abtem:
        potential = reference._potential(abtem, atoms, Grid((120, 128), (4.0 / 120, 4.0 / 128)), step, "lobato")
    assert len(potential) == plan_slices(atoms, step).exits[-1] == 99
