"""Figures, a self-contained page and the summary of a polarization map."""

from ferrojax.report.content import Curve as Curve
from ferrojax.report.content import MapReport as MapReport
from ferrojax.report.content import Table as Table
from ferrojax.report.digest import calibration_facts as calibration_facts
from ferrojax.report.digest import map_facts as map_facts
from ferrojax.report.digest import map_statistics as map_statistics
from ferrojax.report.figure import polarization_figure as polarization_figure
from ferrojax.report.page import write_html as write_html
from ferrojax.report.summary import write_summary as write_summary
