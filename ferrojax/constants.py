"""Electron wavelength, interaction constant and unit factors.

Length Å, energy eV, angle mrad, potential V. Values of the fundamental constants: CODATA 2018 (exact
where the SI fixes them).
"""

import math

PLANCK = 6.62607015e-34
LIGHT_SPEED = 299792458.0
ELEMENTARY_CHARGE = 1.602176634e-19
ELECTRON_MASS = 9.1093837015e-31
ELECTRON_REST_ENERGY = ELECTRON_MASS * LIGHT_SPEED**2 / ELEMENTARY_CHARGE  # eV
METRE = 1e10  # Å

POTENTIAL_PER_SCATTERING_FACTOR = PLANCK**2 / (2 * math.pi * ELECTRON_MASS * ELEMENTARY_CHARGE) * METRE**2
"""V·Å² per Å: projected potential's transform (V·Å³) is this times the electron scattering factor (Å)."""

POLARIZATION_UNIT = ELEMENTARY_CHARGE * METRE**2
"""C/m² per e/Å²."""


def wavelength(energy: float) -> float:
    """Relativistic electron wavelength in Å for an energy in eV."""
    momentum = math.sqrt(energy * (2 * ELECTRON_REST_ENERGY + energy))  # eV/c
    return PLANCK * LIGHT_SPEED / ELEMENTARY_CHARGE / momentum * METRE


def interaction_constant(energy: float) -> float:
    """Interaction constant σ in rad/(V·Å) for an energy in eV (Kirkland, Advanced Computing in EM, eq. 5.6)."""
    rest = ELECTRON_REST_ENERGY
    return 2 * math.pi / (wavelength(energy) * energy) * (rest + energy) / (2 * rest + energy)
