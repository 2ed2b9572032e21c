"""From waves to recorded signals."""

from ferrojax.detection.detectors import AnnularDetector as AnnularDetector
from ferrojax.detection.detectors import CentreOfMass as CentreOfMass
from ferrojax.detection.detectors import Detector as Detector
from ferrojax.detection.detectors import PixelatedDetector as PixelatedDetector
from ferrojax.detection.detectors import SegmentedDetector as SegmentedDetector
from ferrojax.detection.operator import DetectorOperator as DetectorOperator
from ferrojax.detection.operator import detector_operator as detector_operator
from ferrojax.detection.operator import operator_spectrum as operator_spectrum
from ferrojax.detection.pacbed import simulate_pacbed as simulate_pacbed
from ferrojax.detection.phase import differential_phase_contrast as differential_phase_contrast
from ferrojax.detection.phase import integrate_gradient as integrate_gradient
from ferrojax.detection.phase import integrated_centre_of_mass as integrated_centre_of_mass
from ferrojax.detection.plan import RunPlan as RunPlan
from ferrojax.detection.response import Response as Response
from ferrojax.detection.scan import Scan as Scan
from ferrojax.detection.simulate import plan_simulation as plan_simulation
from ferrojax.detection.simulate import simulate as simulate
from ferrojax.detection.thickness import at_thickness as at_thickness
