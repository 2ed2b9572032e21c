"""Columns found and indexed right on phantoms with exact truth: distortions, walls, zones, samplings, modes, doses.

A column counts as right where a seed of its sublattice lies within 0.3 of the nearest distance between columns and
carries its cell, up to one lattice symmetry and origin for the whole picture (one a region beside an antiphase
boundary). Columns nearer than one such distance to the edge of the image (or of the crystal), and those within 1.6
cells of an antiphase boundary, which may be marked, do not count. False positives are seeds that no check refused, on
the image, more than that distance from any column that is there.

python benchmarks/bench_indexing.py [--seeds N] [--only NAME]
"""

import argparse
import itertools
import time
from dataclasses import replace

import numpy as np
from common import write_result
from lattice_phantom import Scene, draw, marks

from ferrojax.columns.indexing.seeds import seed_columns
from ferrojax.crystal import material
from ferrojax.crystal.zone import Motif, projected_motif
from ferrojax.errors import InputError

ALL = Scene(strain=0.05, anisotropy=0.03, drift=3.0, walls="180", vacancies=0.02, counts=1000.0)
SCENES = {
    "plain": Scene(counts=1000.0),
    "strain 10 %": Scene(strain=0.10),
    "scan anisotropy 5 %": Scene(anisotropy=0.05),
    "drift 6 Å": Scene(drift=6.0),
    "180° walls": Scene(walls="180", shift=0.25),
    "90° walls, c/a 1.06": Scene(walls="90"),
    "antiphase boundary": Scene(walls="antiphase"),
    "vacancies 2 %": Scene(vacancies=0.02),
    "film 3 times brighter": Scene(film=3.0, counts=600.0),
    "vacuum and amorphous edge": Scene(edge=0.35),
    "stripes 10 %, gradient 80 %": Scene(stripes=0.1, gradient=0.8),
    "100 counts a column": Scene(counts=100.0),
    "50 counts a column": Scene(counts=50.0),
    "all at once": ALL,
    "all at once, 10 % strain": replace(ALL, strain=0.10, anisotropy=0.05),
    "all at once, 100 counts": replace(ALL, counts=100.0),
    "ABF, all at once": replace(ALL, mode="ABF", counts=4000.0, shift=0.08, walls="none"),
    "iDPC, all at once": replace(ALL, mode="iDPC", counts=4000.0, shift=0.08, walls="none"),
    "5 px per cell": Scene(sampling=0.8, shape=(150, 160), strain=0.05, counts=1000.0),
    "8 px per cell": Scene(sampling=0.5, shape=(220, 230), strain=0.05, counts=1000.0),
    "40 px per cell": Scene(sampling=0.1, shape=(640, 660), strain=0.05, counts=1000.0),
    "60 px per cell": Scene(sampling=0.067, shape=(900, 880), strain=0.05, counts=1000.0),
}
ZONES = [
    ("PbTiO3", (0, 0, 1)),
    ("BaTiO3", (0, 0, 1)),
    ("SrTiO3", (1, 1, 0)),
    ("KNbO3", (1, 0, 0)),
    ("BiFeO3", (1, 1, 0)),
]


def motif_of(name: str, zone: tuple[int, int, int]) -> Motif:
    return projected_motif(material(name), zone)


def one(motif: Motif, scene: Scene) -> dict:
    image, truth = draw(motif, scene)
    began = time.perf_counter()
    try:
        seeds = seed_columns(image, np.full(2, scene.sampling), motif)
    except InputError as error:
        return {"columns": len(truth.column), "found": 0, "right": 0, "false": 0, "refused": str(error)}
    result = marks(seeds, truth, motif, scene)
    return {**result, "seconds": time.perf_counter() - began}


def run(name: str, scene: Scene, seeds: int) -> dict[str, object]:
    """One row of the table: the sums over materials, zones and seeds."""
    total = {"columns": 0, "found": 0, "right": 0, "false": 0}
    worst, refused = 1.0, []
    for (material_name, zone), seed in itertools.product(ZONES, range(seeds)):
        turn = float(np.random.default_rng([seed, *zone, len(name)]).uniform(-180, 180))
        result = one(motif_of(material_name, zone), replace(scene, turn=turn, seed=seed))
        for key in total:
            total[key] += int(result[key])
        share = result["right"] / max(result["columns"], 1)
        if share < 0.995:
            print("   ", name, material_name, zone, f"turn {turn:.1f} seed {seed}", result, flush=True)
        worst = min(worst, share)
        if "refused" in result:
            refused.append(f"{material_name} {zone} seed {seed}: {result['refused']}")
    share = total["right"] / total["columns"]
    row = {**total, "found_share": total["found"] / total["columns"], "right_share": share, "worst_image": worst}
    print(
        f"{name:32s} {100 * share:7.3f} %  found {100 * row['found_share']:7.3f} %  worst {100 * worst:6.2f} %  "
        f"false {total['false']}  of {total['columns']}",
        flush=True,
    )
    return {**row, "refused": refused}


def large() -> dict[str, float]:
    """A 4096² image of some 37 000 columns: seconds of the whole call, second time of two, and what it got right."""
    scene = replace(ALL, shape=(4096, 4096), sampling=3.905 / 29, turn=17.0)
    motif = motif_of("PbTiO3", (0, 0, 1))
    image, truth = draw(motif, scene)
    wall = cpu = 0.0
    for _ in range(2):
        began, used = time.perf_counter(), time.process_time()
        seeds = seed_columns(image, np.full(2, scene.sampling), motif)
        wall, cpu = time.perf_counter() - began, time.process_time() - used
    result = marks(seeds, truth, motif, scene)
    print(f"4096²: {wall:.1f} s, {cpu:.1f} s of processor time, {result}", flush=True)
    return {**result, "seconds": wall, "processor_seconds": cpu}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    chosen = {name: scene for name, scene in SCENES.items() if options.only in name}
    table = {name: run(name, scene, options.seeds) for name, scene in chosen.items()}
    if not options.only:
        zones = [f"{name} {zone}" for name, zone in ZONES]
        write_result("indexing", {"seeds": options.seeds, "zones": zones, "table": table, "large": large()})


if __name__ == "__main__":
    main()
