"""What every potential can do, whatever its architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import PotentialError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Energy (eV) and its first derivatives for one configuration.

    Attributes
    ----------
    forces
        eV/Å, shape (n_atoms, 3).
    stress
        Voigt (xx yy zz yz xz xy), eV/Å³, ASE sign; zeros for a non-periodic configuration.
    """

    energy: float
    forces: Array
    stress: Array


@runtime_checkable
class Potential(Protocol):
    """A loaded potential: evaluates batches, gives curvature, hands out an ASE calculator.

    ``architecture`` is its adapter's name, ``elements`` the chemical symbols it covers, by atomic number.
    """

    architecture: str
    elements: tuple[str, ...]

    def evaluate(self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False) -> list[Evaluation]:
        """Return energy, forces and stress of many configurations, in order, batched where that is faster."""
        ...

    def hessian_columns(self, atoms: Atoms, columns: Sequence[int]) -> Array:
        """Return columns of d²E/dx² in eV/Å², shape (len(columns), 3 n_atoms); column 3i+a moves atom i along a."""
        ...

    def calculator(self) -> Calculator:
        """Return an ASE calculator of the same numbers."""
        ...

    def prune(self, elements: Sequence[str]) -> Potential:
        """Return a potential restricted to some elements with identical predictions (or itself)."""
        ...

    def save_plain(self, path: Path) -> None:
        """Write a file that the rest of the world reads."""
        ...


def require_elements(potential: Potential, frames: Sequence[Atoms], name: str = "The potential") -> None:
    """Raise PotentialError when a configuration holds an element the potential was not made for."""
    wanted = {symbol for atoms in frames for symbol in set(atoms.get_chemical_symbols())}
    missing = sorted(wanted - set(potential.elements))
    if missing:
        raise PotentialError(
            f"{name} does not know {', '.join(missing)} (it covers {' '.join(potential.elements)}).",
            "Choose a foundation that covers every element of the material.",
        )
