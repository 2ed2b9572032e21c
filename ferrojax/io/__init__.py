"""Vendor formats in, maps and data sets out."""

from ferrojax.io.read import read as read
from ferrojax.io.simulation import simulate_to_zarr as simulate_to_zarr
from ferrojax.io.unit_cells import UnitCellImage as UnitCellImage
from ferrojax.io.unit_cells import UnitCells as UnitCells
from ferrojax.io.unit_cells import read_unit_cell_folder as read_unit_cell_folder
from ferrojax.io.unit_cells import read_unit_cells as read_unit_cells
from ferrojax.io.unit_cells import write_unit_cells as write_unit_cells
from ferrojax.io.wave import read_wave as read_wave
from ferrojax.io.wave import write_wave as write_wave
from ferrojax.io.write import read_map as read_map
from ferrojax.io.write import write_columns_csv as write_columns_csv
from ferrojax.io.write import write_csv as write_csv
from ferrojax.io.write import write_map as write_map
