"""Short-ranged potentials with one set of parameters for each ordered triplet of elements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.empirical.bonds import Bonds, Derivatives, Floats, Integers

Parameters = Mapping[str, Mapping[str, float]]
"""Numbers by name for each element, pair (``"Si-C"``) or triplet (``"Si-C-C"``, centre first)."""


@dataclass(frozen=True, eq=False)
class TripletPotential(ABC):
    """One parameter set, ready to evaluate batches.

    Attributes
    ----------
    elements
        Chemical symbols covered.
    table
        Every parameter of ``names`` as an array of shape (n_elements, n_elements, n_elements).
    """

    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]]
    elements: tuple[str, ...]
    table: dict[str, Floats]

    @classmethod
    def from_triplets(cls, elements: Sequence[str], triplets: Parameters) -> Self:
        """Build from parameters by triplet; a missing triplet or number is a PotentialError."""
        shape = (len(elements),) * 3
        table = {name: np.zeros(shape) for name in cls.names}
        for where in np.ndindex(shape):
            key = "-".join(elements[index] for index in where)
            if key not in triplets:
                raise PotentialError(
                    f"No {cls.kind} parameters for the triplet {key}.", "Add it to the parameter file."
                )
            if missing := [name for name in cls.names if name not in triplets[key]]:
                raise PotentialError(f"The {cls.kind} triplet {key} lacks {', '.join(missing)}.", "Add the value.")
            for name in cls.names:
                table[name][where] = triplets[key][name]
        return cls(tuple(elements), table)

    @property
    @abstractmethod
    def reach(self) -> Floats:
        """Lengths at which bonds end, Å, by triplet."""

    @property
    def cutoff(self) -> float:
        """Longest bond, Å."""
        return float(self.reach.max())

    @abstractmethod
    def evaluate(self, bonds: Bonds) -> Derivatives:
        """Return energies, forces and virials of a batch of configurations."""

    def pairs(self, bonds: Bonds, reach: Floats) -> tuple[Bonds, dict[str, Floats]]:
        """Return the pairs shorter than a reach (Å, by triplet) and their parameters, those of (i, j, j)."""
        first, second = bonds.species[bonds.first], bonds.species[bonds.second]
        near = bonds.length < reach[first, second, second]
        where = first[near], second[near], second[near]
        return bonds.keep(near), {name: values[where] for name, values in self.table.items()}

    def angles(self, bonds: Bonds) -> tuple[Integers, Integers, dict[str, Floats]]:
        """Return all couples (p, q) of different pairs that share their first atom, and the triplets' parameters."""
        p, q = bonds.couples()
        where = bonds.species[bonds.first[p]], bonds.species[bonds.second[p]], bonds.species[bonds.second[q]]
        return p, q, {name: values[where] for name, values in self.table.items()}
