"""Parameters of three-body potentials by ordered triplet of elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import PotentialError


def triplet_table(
    elements: Sequence[str], triplets: Mapping[str, Mapping[str, float]], names: Sequence[str], potential: str
) -> dict[str, NDArray[np.float64]]:
    """Return every parameter as an array of shape (n_elements, n_elements, n_elements).

    Parameters
    ----------
    elements
        Chemical symbols, in the order of the axes.
    triplets
        Parameters by triplet, centre first, e.g. ``"Si-C-C"``.
    names
        Parameters each triplet must have.
    potential
        Name of the potential in messages.

    Raises
    ------
    PotentialError
        When a triplet or one of its parameters is missing.
    """
    n = len(elements)
    table = {name: np.zeros((n, n, n)) for name in names}
    for where in product(range(n), repeat=3):
        key = "-".join(elements[index] for index in where)
        if key not in triplets:
            raise PotentialError(f"No {potential} parameters for the triplet {key}.", "Add it to the parameter file.")
        missing = [name for name in names if name not in triplets[key]]
        if missing:
            raise PotentialError(f"The {potential} triplet {key} lacks {', '.join(missing)}.", "Add the value.")
        for name in names:
            table[name][where] = triplets[key][name]
    return table
