"""Read through the microscope: the recording fitted, displacement and structure refined."""

from ferrojax.refinement.displacement import Microscope as Microscope
from ferrojax.refinement.displacement import Reading as Reading
from ferrojax.refinement.mean_cell import MeanCell as MeanCell
from ferrojax.refinement.mean_cell import mean_cell as mean_cell
from ferrojax.refinement.recording import PRIORS as PRIORS
from ferrojax.refinement.recording import UNITS as UNITS
from ferrojax.refinement.recording import Recording as Recording
from ferrojax.refinement.recording import fit_mean_cells as fit_mean_cells
from ferrojax.refinement.response import CellResponse as CellResponse
from ferrojax.refinement.response import cell_response as cell_response
from ferrojax.refinement.scan_recording import ScanRecording as ScanRecording
from ferrojax.refinement.scan_recording import fit_recording as fit_recording
