"""Training data: plans, simulation of labelled cells, and patches of images."""

from ferrojax.dataset.generate import PARAMETERS as PARAMETERS
from ferrojax.dataset.generate import SimulatedSet as SimulatedSet
from ferrojax.dataset.generate import generate as generate
from ferrojax.dataset.plan import TrainingPlan as TrainingPlan
from ferrojax.dataset.plan import read_plan as read_plan
