"""Modules as groups of an HDF5 or Zarr 3 file, one array a field, and back without loss."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ferrojax.errors import InputError

_TYPE, _ABSENT, _UNITS = "type", "absent", "units"


def store(group: Any, module: eqx.Module, units: Mapping[str, str]) -> None:
    """Write the fields of a module: arrays with their units, modules as groups, the rest as JSON attributes.

    group: h5py.Group or zarr.Group. units: "Class.field" -> unit.
    """
    kind, absent = type(module).__name__, []
    for item in dataclasses.fields(module):
        value = getattr(module, item.name)
        if value is None:
            absent.append(item.name)
        elif isinstance(value, eqx.Module):
            store(group.create_group(item.name), value, units)
        elif isinstance(value, (jax.Array, np.ndarray)):
            put_array(group, item.name, np.asarray(value), units.get(f"{kind}.{item.name}", ""))
        else:
            group.attrs[item.name] = json.dumps(value)
    group.attrs[_TYPE] = kind
    group.attrs[_ABSENT] = json.dumps(absent)


def put_array(group: Any, name: str, values: np.ndarray, unit: str) -> None:
    """One array with its unit in the attribute `units`."""
    create = getattr(group, "create_array", None) or group.create_dataset
    create(name, data=values).attrs[_UNITS] = unit


def restore(group: Any, kinds: Mapping[str, type[eqx.Module]], name: str) -> Any:
    """The module that `store` wrote; arrays keep their type, as far as JAX's precision allows.

    kinds: class name -> class. name: the file, for messages. A field that the file does not know keeps its default.
    Errors: InputError for a file without what a class needs.
    """
    attributes = dict(group.attrs)
    kind = kinds.get(str(attributes.get(_TYPE)))
    if kind is None:
        raise InputError("map file", name, "holds no map of ferrojax", "give a file that write_map wrote")
    absent = json.loads(attributes[_ABSENT])
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        if item.name in absent:
            values[item.name] = None
        elif item.name in attributes:
            values[item.name] = _frozen(json.loads(attributes[item.name]))
        elif item.name in group:
            found = group[item.name]
            is_group = _TYPE in found.attrs
            values[item.name] = restore(found, kinds, name) if is_group else jnp.asarray(found[()])
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            problem = f"lacks the {item.name} of {kind.__name__}"
            raise InputError("map file", name, problem, "write it again with this version of ferrojax")
    return kind(**values)


def _frozen(value: Any) -> Any:
    """Lists, as JSON has them, back to the tuples that static fields are."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
