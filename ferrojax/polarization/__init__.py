"""From columns to displacement and polarization maps."""

from ferrojax.polarization.born import born_polarization as born_polarization
from ferrojax.polarization.born import polarization_from_displacement as polarization_from_displacement
from ferrojax.polarization.displacement import displacement_operator as displacement_operator
from ferrojax.polarization.map import CellFrames as CellFrames
from ferrojax.polarization.map import PolarizationMap as PolarizationMap
from ferrojax.polarization.map import Predictor as Predictor
from ferrojax.polarization.map import cell_frames as cell_frames
from ferrojax.polarization.map import displacement_statistics as displacement_statistics
from ferrojax.polarization.map import map_from_columns as map_from_columns
from ferrojax.polarization.map import map_polarization as map_polarization
from ferrojax.polarization.map import valid_indices as valid_indices
from ferrojax.polarization.map import with_prediction as with_prediction
