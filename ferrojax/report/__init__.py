"""Figures, a self-contained page and the summary of a polarization map."""

from ferrojax.report.content import Curve as Curve
from ferrojax.report.content import MapReport as MapReport
from ferrojax.report.content import Panel as Panel
from ferrojax.report.content import Section as Section
from ferrojax.report.content import Table as Table
from ferrojax.report.digest import calibration_facts as calibration_facts
from ferrojax.report.digest import map_facts as map_facts
from ferrojax.report.digest import map_statistics as map_statistics
from ferrojax.report.digest import response_sentence as response_sentence
from ferrojax.report.figure import polarization_figure as polarization_figure
from ferrojax.report.microscope import microscope_section as microscope_section
from ferrojax.report.page import write_html as write_html
from ferrojax.report.sections import analysis_checks as analysis_checks
from ferrojax.report.sections import analysis_sections as analysis_sections
from ferrojax.report.sections import analysis_summary as analysis_summary
from ferrojax.report.summary import write_summary as write_summary
