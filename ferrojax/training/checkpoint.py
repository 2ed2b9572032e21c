"""Saving and restoring networks."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from ferrojax.dataset.patches import PATCH
from ferrojax.errors import InputError
from ferrojax.files import replacing
from ferrojax.models import DisplacementNet

_MARK = "_CHECKPOINT_METADATA"
"""A file that every checkpoint folder of Orbax holds."""


def save_model(path: str | Path, model: DisplacementNet) -> None:
    """Write the network's parameters as an Orbax checkpoint folder; one that is there is replaced, once all is written.

    Errors: InputError for what is no network, and a path that holds anything but a checkpoint or cannot be written.
    """
    if not isinstance(model, DisplacementNet):
        raise InputError("model", model, "is no DisplacementNet", "pass the network that was trained")
    path = Path(path).absolute()
    if path.exists() and not is_checkpoint(path):
        raise InputError("path", str(path), "holds something that is no checkpoint", "choose a new folder")
    with replacing(path) as fresh, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(fresh, nnx.to_pure_dict(nnx.state(model)))


def load_model(path: str | Path) -> DisplacementNet:
    """The network that `save_model` wrote.

    Errors: InputError for a folder that is missing or no checkpoint, and a checkpoint of another network.
    """
    path = Path(path).absolute()
    remedy = "pass a folder that save_model wrote"
    if not path.is_dir() or not is_checkpoint(path):
        raise InputError("model", str(path), "is no checkpoint folder", remedy)
    model = DisplacementNet(PATCH, rngs=nnx.Rngs(0))
    state = nnx.state(model)
    wanted = nnx.to_pure_dict(state)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.metadata(path).item_metadata
            # Compared before anything is read: a restore that fails leaves threads of its own behind.
            fits = _shapes(getattr(stored, "tree", stored)) == _shapes(wanted)
            found = checkpointer.restore(path, wanted) if fits else None
    except Exception as error:  # Orbax raises what its parts do: of keys, shapes, JSON, TensorStore
        raise InputError("model", str(path), f"does not fit this network: {_first_line(error)}", remedy) from error
    if found is None:
        raise InputError("model", str(path), "holds arrays of other shapes than this network's", remedy)
    nnx.replace_by_pure_dict(state, found)
    nnx.update(model, state)
    return model


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is one that Orbax wrote."""
    return (path / _MARK).is_file()


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:100]
