"""Trained networks at work on images, and how well they do."""

from ferrojax.inference.predictor import MadeFor as MadeFor
from ferrojax.inference.predictor import NetworkPredictor as NetworkPredictor
from ferrojax.inference.score import Truth as Truth
from ferrojax.inference.score import no_signal as no_signal
from ferrojax.inference.score import score as score
