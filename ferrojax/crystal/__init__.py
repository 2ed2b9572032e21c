"""Crystals, their atoms and how they are displaced."""

from ferrojax.crystal.atoms import Atoms as Atoms
from ferrojax.crystal.atoms import displaced_supercell as displaced_supercell
from ferrojax.crystal.crystal import Crystal as Crystal
from ferrojax.crystal.crystal import available_materials as available_materials
from ferrojax.crystal.crystal import material as material
