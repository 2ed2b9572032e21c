"""From waves to recorded signals."""

from ferrojax.detection.detectors import AnnularDetector as AnnularDetector
from ferrojax.detection.operator import DetectorOperator as DetectorOperator
from ferrojax.detection.operator import detector_operator as detector_operator
from ferrojax.detection.operator import operator_spectrum as operator_spectrum
from ferrojax.detection.scan import Scan as Scan
from ferrojax.detection.simulate import simulate as simulate
