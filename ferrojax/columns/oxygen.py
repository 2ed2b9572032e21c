"""Draw what a crystal hides under a column, so that it does not pull the column's position.

Along many zone axes oxygen projects almost onto B. It is too faint to fit, but when B is displaced it moves along the
soft mode by its own amount, and a single Gaussian follows the mean of both.
"""

import numpy as np

from ferrojax.columns.fitting.satellites import Satellites
from ferrojax.columns.indexing.seeds import Seeds
from ferrojax.crystal.components import ColumnComponents, column_components
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError


def hidden_oxygen(seeds: Seeds, crystal: Crystal, motif: Motif) -> Satellites:
    """The oxygen under every B column, moving along the crystal's soft mode.

    Columns of oxygen alone are left out: away from heavier columns, a dark field shows less of it than Z^1.7 says.

    Errors: InputError where the crystal has no soft mode, or no B column of this zone axis holds oxygen.
    """
    if crystal.soft_mode is None:
        raise InputError("oxygen", crystal.name, "has no soft mode to place it by", "map without oxygen")
    components = column_components(crystal, motif)
    row = {(int(c), int(i), int(j)): k for k, (c, (i, j)) in enumerate(zip(seeds.column, seeds.index, strict=True))}
    found = []
    for column, parts in enumerate(components):
        if motif.label[column] == "B" and len(motif.shells[column].weight):
            found += _of_column(column, parts, (motif, seeds, row))
    if not found:
        raise InputError("zone axis", motif.zone, "hides no oxygen under B", "map without oxygen")
    parent, around, weight, ideal, offset, lever, ratio = (np.array(part) for part in zip(*found, strict=True))
    return Satellites(parent, around, weight, ideal, offset, lever, ratio)


def _under(parts: ColumnComponents) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Offset (2,) Å from B's place, response (2, 2) and brightness over that of B alone, of what B's column holds."""
    assert parts.response is not None
    rest = range(1, len(parts.share))
    return [(parts.offset[s] - parts.offset[0], parts.response[s], parts.share[s] / parts.share[0]) for s in rest]


def _of_column(column: int, parts: ColumnComponents, known) -> list[tuple]:
    """Rows of `Satellites` for all seeds of one column of the motif."""
    motif, seeds, row = known
    assert parts.response is not None
    shell, frame = motif.shells[column], seeds.frame
    back = np.linalg.inv(frame)
    at = np.array([motif.position[c] for c in shell.column]) + shell.index - motif.position[column]
    ideal = -frame @ (shell.weight @ at @ motif.lattice)
    result = []
    for k in np.nonzero(seeds.column == column)[0]:
        i, j = seeds.index[k]
        cells = zip(shell.column, shell.index, strict=True)
        around = [row.get((int(c), int(i + a), int(j + b))) for c, (a, b) in cells]
        weight = np.zeros(len(around)) if None in around else shell.weight
        near = [int(k) if r is None else int(r) for r in around]
        for offset, response, ratio in _under(parts):
            lever = frame @ (response - parts.response[0]) @ back
            result.append((k, near, weight, ideal, frame @ offset, lever, ratio))
    return result
