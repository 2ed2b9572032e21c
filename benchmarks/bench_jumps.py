"""Jumps of the scan: how small ones are found, and whether honest phantoms of every kind show any.

usage: python benchmarks/bench_jumps.py      (five minutes)
"""

from dataclasses import replace

import numpy as np
from bench_indexing import SCENES, motif_of
from common import write_result
from lattice_phantom import Scene, draw

from ferrojax.columns.find import find_with_model
from ferrojax.crystal import material
from ferrojax.errors import InputError
from ferrojax.image import Image

CRYSTALS = (("PbTiO3", (0, 0, 1)), ("SrTiO3", (1, 1, 0)))
PLAIN = Scene(counts=2000.0)
LINE = 200


def jumps(image: np.ndarray, scene: Scene, name: str, zone: tuple[int, int, int]) -> list | None:
    """Lines and displacements that are found; None where the image is refused."""
    try:
        return list(find_with_model(Image(image, (scene.sampling,) * 2), material(name), zone).jumps)
    except InputError:
        return None


def main() -> None:
    found, honest = [], []
    for name, zone in CRYSTALS:
        for turn in (5.0, 20.0, 45.0):
            image, _ = draw(motif_of(name, zone), replace(PLAIN, turn=turn))
            for size in (1, 2, 3, 5):
                moved = image.copy()
                moved[LINE:] = np.roll(moved[LINE:], size, 1)
                found.append({"crystal": name, "turn": turn, "px": size, "found": jumps(moved, PLAIN, name, zone)})
                print(found[-1], flush=True)
    for scene_name, scene in SCENES.items():
        for name, zone in CRYSTALS:
            image, _ = draw(motif_of(name, zone), replace(scene, turn=33.0 if name == "SrTiO3" else 0.0, seed=1))
            honest.append({"scene": scene_name, "crystal": name, "found": jumps(image, scene, name, zone)})
            print(honest[-1], flush=True)
    write_result("jumps", {"period_px": 20, "jumps": found, "honest": honest})


if __name__ == "__main__":
    main()
