"""Data that ships with the package: images, a training set, a pseudo-experiment. Sources are in README.md here."""

from importlib.resources import files
from pathlib import Path


def data_file(name: str) -> Path:
    """Path of a shipped data file."""
    path = Path(str(files("ferrojax.data").joinpath(name)))
    if not path.is_file():
        raise FileNotFoundError(f"{name} is not among the shipped data: {path.parent}")
    return path
