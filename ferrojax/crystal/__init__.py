"""Crystals, their atoms and how they are displaced."""

from ferrojax.crystal.atoms import Atoms as Atoms
from ferrojax.crystal.atoms import check_atoms as check_atoms
from ferrojax.crystal.components import ColumnComponents as ColumnComponents
from ferrojax.crystal.components import column_components as column_components
from ferrojax.crystal.crystal import Crystal as Crystal
from ferrojax.crystal.displaced import displaced_supercell as displaced_supercell
from ferrojax.crystal.materials import available_materials as available_materials
from ferrojax.crystal.materials import material as material
from ferrojax.crystal.polar import PolarizationResponse as PolarizationResponse
from ferrojax.crystal.polar import polar_crystal as polar_crystal
from ferrojax.crystal.polar import polarization_response as polarization_response
from ferrojax.crystal.substitution import draw_occupancy as draw_occupancy
from ferrojax.crystal.substitution import mixed_crystal as mixed_crystal
from ferrojax.crystal.substitution import substitute as substitute
from ferrojax.crystal.supercell import OrientedSupercell as OrientedSupercell
from ferrojax.crystal.supercell import oriented_supercell as oriented_supercell
from ferrojax.crystal.zone import Motif as Motif
from ferrojax.crystal.zone import Shell as Shell
from ferrojax.crystal.zone import projected_motif as projected_motif
