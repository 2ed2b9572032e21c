"""Find, fit and index atomic columns."""

from ferrojax.columns.columns import REJECTIONS as REJECTIONS
from ferrojax.columns.columns import SITES as SITES
from ferrojax.columns.columns import Calibration as Calibration
from ferrojax.columns.columns import Columns as Columns
from ferrojax.columns.find import find_columns as find_columns
from ferrojax.columns.noise import GaussianNoise as GaussianNoise
from ferrojax.columns.noise import PoissonNoise as PoissonNoise
