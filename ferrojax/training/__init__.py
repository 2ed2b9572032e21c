"""Joint training on simulated and real patches."""

from ferrojax.training.checkpoint import load_model as load_model
from ferrojax.training.checkpoint import save_model as save_model
from ferrojax.training.domain import Domain as Domain
from ferrojax.training.domain import matched_domain as matched_domain
from ferrojax.training.domain import prior_domain as prior_domain
from ferrojax.training.joint import Schedule as Schedule
from ferrojax.training.joint import Trained as Trained
from ferrojax.training.joint import train_jointly as train_jointly
from ferrojax.training.loop import UNIT as UNIT
from ferrojax.training.loop import Settings as Settings
from ferrojax.training.loop import draw as draw
from ferrojax.training.loop import half_turn_average as half_turn_average
from ferrojax.training.loop import spread_scale as spread_scale
from ferrojax.training.loop import train as train
