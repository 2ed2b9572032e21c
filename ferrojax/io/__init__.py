"""Vendor formats in, maps and data sets out."""

from ferrojax.io.read import read as read
from ferrojax.io.write import read_map as read_map
from ferrojax.io.write import write_columns_csv as write_columns_csv
from ferrojax.io.write import write_csv as write_csv
from ferrojax.io.write import write_map as write_map
