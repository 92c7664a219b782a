"""Any potential as an ASE calculator, and any ASE calculator as a potential."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from phonosmith.core.errors import PotentialError
from phonosmith.core.progress import progress_bar
from phonosmith.potentials.base import Array, Evaluation, Potential, require_elements
from phonosmith.potentials.hessian import difference_columns

if TYPE_CHECKING:
    from ase import Atoms


class LoadedCalculator(Calculator):  # type: ignore[misc]  # ASE has no type information
    """ASE calculator of a potential already in memory."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, potential: Potential, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.potential = potential

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Compute energy, forces and, for a periodic structure, stress."""
        super().calculate(atoms, properties, system_changes)
        periodic = bool(self.atoms.pbc.all())
        evaluation = self.potential.evaluate([self.atoms], stress=periodic)[0]
        self.results = {"energy": evaluation.energy, "free_energy": evaluation.energy, "forces": evaluation.forces}
        if periodic:
            self.results["stress"] = evaluation.stress


class AsePotential:
    """A potential that evaluates one configuration after the other with an ASE calculator.

    ``factory`` returns a fresh one; ``hessian_step`` is the displacement of the central difference behind
    ``hessian_columns``, Å.
    """

    architecture = "ase"

    def __init__(self, factory: Callable[[], Calculator], elements: Sequence[str], hessian_step: float = 1e-3) -> None:
        self._factory = factory
        self._calculator: Calculator | None = None
        self.elements, self.hessian_step = tuple(elements), hessian_step

    def calculator(self) -> Calculator:
        """Return a fresh calculator."""
        return self._factory()

    def evaluate(self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False) -> list[Evaluation]:
        """Return energy (force-consistent where the calculator tells), forces and stress of each configuration."""
        require_elements(self, frames)
        if self._calculator is None:
            self._calculator = self._factory()
        results = []
        with progress_bar("evaluating", len(frames), show=progress) as move:
            for done, atoms in enumerate(frames, start=1):
                copy = atoms.copy()
                copy.calc = self._calculator
                forces = np.array(copy.get_forces(apply_constraint=False), dtype=float)
                periodic = bool(np.all(copy.pbc))
                tension = copy.get_stress(voigt=True, apply_constraint=False) if stress and periodic else np.zeros(6)
                results.append(Evaluation(float(copy.get_potential_energy()), forces, np.array(tension, dtype=float)))
                move(done, len(frames), "evaluating")
        return results

    def hessian_columns(self, atoms: Atoms, columns: Sequence[int]) -> Array:
        """Return Hessian columns by central differences of forces, eV/Å²."""
        return difference_columns(self, atoms, columns, self.hessian_step)

    def prune(self, elements: Sequence[str]) -> AsePotential:  # noqa: ARG002
        """Return itself: there is nothing to save."""
        return self

    def save_plain(self, path: Path) -> None:
        """Refuse: a calculator in memory has no file format."""
        raise PotentialError(f"An ASE calculator cannot be written to {path}.", "Keep its parameters instead.")
