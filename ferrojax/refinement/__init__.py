"""Read through the microscope: the recording fitted, displacement and structure refined."""

from ferrojax.refinement.response import CellResponse as CellResponse
from ferrojax.refinement.response import cell_response as cell_response
