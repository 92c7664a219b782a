"""Published empirical potentials (architecture "empirical"): a JSON file of parameters, evaluated in numpy.

They play DFT in demonstrations and tests and label the embedded foundation: 216 atoms take milliseconds. The file is
the identity of the potential. It holds one or more parameter sets; a configuration is evaluated by the first set that
covers all its elements, so elements that no publication combined are refused rather than mixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.data import atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import PotentialError
from phonosmith.potentials.base import Array, Evaluation, require_elements
from phonosmith.potentials.empirical.bonds import find_bonds
from phonosmith.potentials.empirical.identify import FORMAT
from phonosmith.potentials.empirical.stillinger_weber import StillingerWeber
from phonosmith.potentials.empirical.tersoff import Tersoff, from_albe, from_mixing

if TYPE_CHECKING:
    from ase import Atoms

FORMS = ("albe", "tersoff", "tersoff-1989", "stillinger-weber")
_BATCH_ATOMS = 4096
_TOO_CLOSE = 1e-3
_STENCIL = ((1.0, 8.0 / 12.0), (2.0, -1.0 / 12.0))
"""Weights of ±h and ±2h in the fourth-order central difference."""


@dataclass(frozen=True)
class ParameterSet:
    """One published parameterisation.

    Attributes
    ----------
    form
        Functional form and notation, one of `FORMS`.
    citation
        Where it was published.
    function
        The potential with these parameters.
    lattice_constants
        Å, by material, where the file gives them.
    """

    form: str
    citation: str
    function: Tersoff | StillingerWeber
    lattice_constants: Mapping[str, float]


class EmpiricalCalculator(Calculator):
    """ASE calculator of an empirical potential.

    Parameters
    ----------
    potential
        The potential to evaluate.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, potential: EmpiricalPotential, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results`` with energy (eV), forces (eV/Å) and, for a periodic cell, stress (eV/Å³)."""
        super().calculate(atoms, properties, system_changes)
        (evaluation,) = self.potential.evaluate([self.atoms])
        self.results = {"energy": evaluation.energy, "free_energy": evaluation.energy, "forces": evaluation.forces}
        if self.atoms.cell.rank == 3:
            self.results["stress"] = evaluation.stress


class EmpiricalPotential:
    """A file of published parameters as a potential.

    Parameters
    ----------
    name
        Human name.
    sets
        Parameter sets, tried in order.
    data
        The file itself.
    """

    architecture = "empirical"
    hessian_step = 2e-3

    def __init__(self, name: str, sets: Sequence[ParameterSet], data: bytes) -> None:
        self.name = name
        self.sets = tuple(sets)
        self.data = data
        known = {symbol for one in self.sets for symbol in one.function.elements}
        self.elements = tuple(sorted(known, key=atomic_numbers.__getitem__))

    def __repr__(self) -> str:
        return f"EmpiricalPotential({self.name!r}, elements={'-'.join(self.elements)})"

    @property
    def cutoff(self) -> float:
        """Longest bond of any set, Å."""
        return max(one.function.cutoff for one in self.sets)

    @property
    def citations(self) -> tuple[str, ...]:
        """Publications behind the numbers."""
        return tuple(one.citation for one in self.sets)

    def parameter_set(self, elements: Sequence[str] | set[str]) -> ParameterSet:
        """Return the set that evaluates a combination of elements.

        Raises
        ------
        PotentialError
            When every element is known but no published set combines them.
        """
        for one in self.sets:
            if set(elements) <= set(one.function.elements):
                return one
        covered = "; ".join(" ".join(one.function.elements) for one in self.sets)
        raise PotentialError(
            f"{self.name} has no published parameters for {' and '.join(sorted(set(elements)))} together"
            f" (it covers {covered}).",
            "Choose another material or another reference.",
        )

    def evaluate(self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False) -> list[Evaluation]:
        """Return energy, forces and stress of each configuration, many at a time."""
        require_elements(self, frames, self.name)
        chosen = [self.parameter_set(set(atoms.get_chemical_symbols())) for atoms in frames]
        results: list[Evaluation | None] = [None] * len(frames)
        from rich.progress import track

        batches = list(_batches(frames, chosen))
        for one, members in track(batches, description="evaluating", disable=not progress):
            for index, evaluation in zip(members, _evaluate(one, [frames[i] for i in members], stress), strict=True):
                results[index] = evaluation
        return [evaluation for evaluation in results if evaluation is not None]

    def hessian_columns(self, atoms: Atoms, columns: Sequence[int]) -> Array:
        """Return Hessian columns by fourth-order central differences of the analytic forces, eV/Å²."""
        frames, weights = [], []
        for column in columns:
            for multiple, weight in _STENCIL:
                for sign in (1.0, -1.0):
                    moved = atoms.copy()
                    moved.positions[column // 3, column % 3] += sign * multiple * self.hessian_step
                    frames.append(moved)
                    weights.append(-sign * weight / self.hessian_step)
        evaluations = self.evaluate(frames, stress=False)
        weighted = np.array([weight * one.forces.ravel() for weight, one in zip(weights, evaluations, strict=True)])
        return weighted.reshape(len(columns), 2 * len(_STENCIL), 3 * len(atoms)).sum(axis=1)

    def calculator(self) -> EmpiricalCalculator:
        """Return an ASE calculator of the same numbers."""
        return EmpiricalCalculator(self)

    def prune(self, elements: Sequence[str]) -> EmpiricalPotential:  # noqa: ARG002
        """Return itself: there is nothing to save."""
        return self

    def save_plain(self, path: Path) -> None:
        """Write the parameter file."""
        write_atomic(Path(path), self.data)


def load_empirical(data: bytes) -> EmpiricalPotential:
    """Read a parameter file.

    Parameters
    ----------
    data
        Content of the JSON file.

    Raises
    ------
    PotentialError
        When the file is not such a file, or a parameter is missing or not a number.
    """
    try:
        content = json.loads(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise PotentialError(f"The parameter file is not JSON: {error}.", "Take it again from its source.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PotentialError(f'The parameter file lacks "format": "{FORMAT}".', "Is it the file of another potential?")
    if content.get("version") != 1:
        raise PotentialError(
            f"The parameter file has version {content.get('version')!r}, this release reads 1.", "Update phonosmith."
        )
    name = str(content.get("name", "empirical"))
    sets = content.get("sets")
    if not isinstance(sets, list) or not sets:
        raise PotentialError(f"{name}: the list 'sets' is missing or empty.", "Give at least one parameter set.")
    return EmpiricalPotential(name, [_read_set(name, number, one) for number, one in enumerate(sets)], bytes(data))


def _read_set(name: str, number: int, one: Any) -> ParameterSet:
    where = f"{name}: sets[{number}]"
    if not isinstance(one, dict) or not {"form", "elements", "parameters"} <= set(one):
        raise PotentialError(f"{where} needs form, elements and parameters.", "Complete the entry.")
    form, elements = one["form"], one["elements"]
    if form not in FORMS:
        raise PotentialError(f"{where}: unknown form {form!r}.", f"Known forms: {', '.join(FORMS)}.")
    if not isinstance(elements, list) or not elements or any(symbol not in atomic_numbers for symbol in elements):
        raise PotentialError(f"{where}: elements must be a list of chemical symbols.", f"It holds {elements!r}.")
    if not isinstance(one["parameters"], dict):
        raise PotentialError(f"{where}.parameters must hold names and numbers.", "Correct the parameter file.")
    parameters = {key: _numbers(f"{where}.parameters[{key}]", values) for key, values in one["parameters"].items()}
    function: Tersoff | StillingerWeber
    try:
        if form == "stillinger-weber":
            function = StillingerWeber.from_triplets(elements, parameters)
        elif form == "tersoff":
            function = Tersoff.from_triplets(elements, parameters)
        else:
            translate = from_albe if form == "albe" else from_mixing
            function = Tersoff.from_triplets(elements, translate(elements, parameters))
    except KeyError as error:
        raise PotentialError(f"{where}: the parameter {error} is missing.", "Complete the entry.") from error
    except PotentialError as error:
        raise PotentialError(f"{where}: {error.message}", error.advice) from error
    constants = _numbers(f"{where}.lattice_constants", one.get("lattice_constants", {}))
    return ParameterSet(form, str(one.get("citation", "")), function, constants)


def _numbers(where: str, values: Any) -> dict[str, float]:
    """Return a mapping of finite numbers."""
    if not isinstance(values, dict):
        raise PotentialError(f"{where} must hold names and numbers.", "Correct the parameter file.")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise PotentialError(f"{where}: {key} is {value!r}, not a number.", "Correct the parameter file.")
    return {key: float(value) for key, value in values.items()}


def _batches(frames: Sequence[Atoms], chosen: Sequence[ParameterSet]) -> Iterator[tuple[ParameterSet, list[int]]]:
    """Yield a parameter set and the configurations to evaluate with it at once."""
    for one in dict.fromkeys(id(item) for item in chosen):
        members = [index for index, item in enumerate(chosen) if id(item) == one]
        batch: list[int] = []
        atoms = 0
        for index in members:
            if batch and atoms + len(frames[index]) > _BATCH_ATOMS:
                yield chosen[batch[0]], batch
                batch, atoms = [], 0
            batch.append(index)
            atoms += len(frames[index])
        if batch:
            yield chosen[batch[0]], batch


def _evaluate(one: ParameterSet, frames: Sequence[Atoms], stress: bool) -> list[Evaluation]:
    bonds = find_bonds(frames, one.function.elements, one.function.cutoff)
    if len(bonds.length) and bonds.length.min() < _TOO_CLOSE:
        raise PotentialError("Two atoms lie on top of each other.", "Check the structure for duplicate sites.")
    sums = one.function.evaluate(bonds)
    edges = np.cumsum([0, *(len(atoms) for atoms in frames)])
    results = []
    for index, atoms in enumerate(frames):
        tension = np.zeros(6)
        if stress and atoms.cell.rank == 3:
            tension = np.asarray(full_3x3_to_voigt_6_stress(sums.virials[index] / atoms.get_volume()), dtype=float)
        results.append(
            Evaluation(float(sums.energies[index]), sums.forces[edges[index] : edges[index + 1]].copy(), tension)
        )
    return results
