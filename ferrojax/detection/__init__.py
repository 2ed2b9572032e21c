"""From waves to recorded signals."""

from ferrojax.detection.detectors import AnnularDetector as AnnularDetector
from ferrojax.detection.scan import Scan as Scan
from ferrojax.detection.simulate import simulate as simulate
