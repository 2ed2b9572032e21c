"""Saving and restoring networks."""

from pathlib import Path

import orbax.checkpoint as ocp
from flax import nnx

from ferrojax.dataset.patches import PATCH
from ferrojax.errors import InputError
from ferrojax.models import DisplacementNet


def save_model(path: str | Path, model: DisplacementNet) -> None:
    """Write the network's parameters as an Orbax checkpoint folder."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(path).absolute(), nnx.to_pure_dict(nnx.state(model)))


def load_model(path: str | Path) -> DisplacementNet:
    """The network that `save_model` wrote."""
    path = Path(path).absolute()
    if not path.is_dir():
        raise InputError("model", str(path), "is no checkpoint folder", "pass a folder that save_model wrote")
    model = DisplacementNet(PATCH, rngs=nnx.Rngs(0))
    state = nnx.state(model)
    with ocp.StandardCheckpointer() as checkpointer:
        pure = checkpointer.restore(path, nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, pure)
    nnx.update(model, state)
    return model
