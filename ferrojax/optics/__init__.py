"""The electron beam before the specimen."""

from ferrojax.optics.probe import PlaneWave as PlaneWave
from ferrojax.optics.probe import Probe as Probe
from ferrojax.optics.probe import beam_spectrum as beam_spectrum
from ferrojax.optics.probe import probe_spectrum as probe_spectrum
