"""Published empirical potentials (architecture "empirical"): a JSON file of parameters, evaluated in numpy.

They play DFT in demonstrations and tests and label the embedded foundation: 216 atoms take milliseconds. The file is
the identity of the potential. It holds one or more parameter sets; a configuration is evaluated by the first set that
covers all its elements, so elements that no publication combined are refused rather than mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import InputError, PotentialError
from phonosmith.core.progress import progress_bar
from phonosmith.core.reading import load_json
from phonosmith.potentials.ase_potential import LoadedCalculator
from phonosmith.potentials.base import Array, Evaluation, require_elements
from phonosmith.potentials.empirical import FORMAT
from phonosmith.potentials.empirical.bonds import find_bonds
from phonosmith.potentials.empirical.stillinger_weber import StillingerWeber
from phonosmith.potentials.empirical.tersoff import Tersoff, from_albe, from_mixing
from phonosmith.potentials.empirical.triplets import Parameters, TripletPotential
from phonosmith.potentials.hessian import FOURTH_ORDER, difference_columns

if TYPE_CHECKING:
    from ase import Atoms

FORMS: dict[str, Callable[[Sequence[str], Parameters], TripletPotential]] = {
    "albe": from_albe,
    "tersoff": Tersoff.from_triplets,
    "tersoff-1989": from_mixing,
    "stillinger-weber": StillingerWeber.from_triplets,
}
"""Functional forms and notations."""
_BATCH_ATOMS = 4096
_TOO_CLOSE = 1e-3


class EmpiricalPotential:
    """A file (``data``) of published parameter sets, tried in order, as a potential."""

    architecture = "empirical"
    hessian_step = 2e-3

    def __init__(self, name: str, sets: Sequence[TripletPotential], data: bytes) -> None:
        self.name, self.sets, self.data = name, tuple(sets), data
        known = {symbol for one in self.sets for symbol in one.elements}
        self.elements = tuple(sorted(known, key=atomic_numbers.__getitem__))

    @property
    def cutoff(self) -> float:
        """Longest bond of any set, Å."""
        return max(one.cutoff for one in self.sets)

    def parameter_set(self, elements: Collection[str]) -> TripletPotential:
        """Return the set that evaluates a combination of elements; one that nobody published is a PotentialError."""
        for one in self.sets:
            if set(elements) <= set(one.elements):
                return one
        covered = "; ".join(" ".join(one.elements) for one in self.sets)
        raise PotentialError(
            f"{self.name} has no published parameters for {' and '.join(sorted(set(elements)))} together"
            f" (it covers {covered}).",
            "Choose another material or another reference.",
        )

    def evaluate(self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False) -> list[Evaluation]:
        """Return energy, forces and stress of each configuration, many at a time."""
        require_elements(self, frames, self.name)
        functions = [self.parameter_set(set(atoms.symbols)) for atoms in frames]
        results: dict[int, Evaluation] = {}
        with progress_bar("evaluating", len(frames), show=progress) as move:
            for members in _batches(frames, functions):
                batch = _evaluate(functions[members[0]], [frames[index] for index in members], stress)
                results.update(zip(members, batch, strict=True))
                move(len(results), len(frames), "evaluating")
        return [results[index] for index in range(len(frames))]

    def hessian_columns(self, atoms: Atoms, columns: Sequence[int]) -> Array:
        """Return Hessian columns by fourth-order central differences of the analytic forces, eV/Å²."""
        return difference_columns(self, atoms, columns, self.hessian_step, FOURTH_ORDER)

    def calculator(self) -> LoadedCalculator:
        """Return an ASE calculator of the same numbers."""
        return LoadedCalculator(self)

    def prune(self, elements: Sequence[str]) -> EmpiricalPotential:  # noqa: ARG002
        """Return itself: there is nothing to save."""
        return self

    def save_plain(self, path: Path) -> None:
        """Write the parameter file."""
        write_atomic(Path(path), self.data)


def load_empirical(data: bytes) -> EmpiricalPotential:
    """Read the content of a parameter file; anything missing or no number is a PotentialError."""
    try:
        content = load_json(data, "The parameter file")
    except InputError as error:
        raise PotentialError(error.message, "Take it again from its source.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PotentialError(f'The parameter file lacks "format": "{FORMAT}".', "Is it the file of another potential?")
    if content.get("version") != 1:
        raise PotentialError(
            f"The parameter file has version {content.get('version')!r}, this release reads 1.", "Update phonosmith."
        )
    name, sets = str(content.get("name", "empirical")), content.get("sets")
    if not isinstance(sets, list) or not sets:
        raise PotentialError(f"{name}: the list 'sets' is missing or empty.", "Give at least one parameter set.")
    functions = [_read_set(f"{name}: sets[{number}]", one) for number, one in enumerate(sets)]
    return EmpiricalPotential(name, functions, bytes(data))


def _read_set(where: str, one: Any) -> TripletPotential:
    if not isinstance(one, dict) or not {"form", "elements", "parameters"} <= set(one):
        raise PotentialError(f"{where} needs form, elements and parameters.", "Complete the entry.")
    form, elements, parameters = one["form"], one["elements"], one["parameters"]
    if form not in FORMS:
        raise PotentialError(f"{where}: unknown form {form!r}.", f"Known forms: {', '.join(FORMS)}.")
    if not isinstance(elements, list) or not elements or any(symbol not in atomic_numbers for symbol in elements):
        raise PotentialError(f"{where}: elements must be a list of chemical symbols.", f"It holds {elements!r}.")
    if not isinstance(parameters, dict) or not all(isinstance(values, dict) for values in parameters.values()):
        raise PotentialError(f"{where}.parameters must hold names and numbers.", "Correct the parameter file.")
    for key, values in parameters.items():
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise PotentialError(
                    f"{where}.parameters[{key}]: {name} is {value!r}, not a number.", "Correct the parameter file."
                )
    try:
        return FORMS[form](elements, parameters)
    except KeyError as error:
        raise PotentialError(f"{where}: the parameter {error} is missing.", "Complete the entry.") from error
    except (ValueError, ArithmeticError) as error:
        # a root of a negative number, or a number beyond all others
        message = f"{where} has parameters no potential has: {error}."
        raise PotentialError(message, "Correct the parameter file.") from error
    except PotentialError as error:
        raise PotentialError(f"{where}: {error.message}", error.advice) from error


def _batches(frames: Sequence[Atoms], functions: Sequence[TripletPotential]) -> Iterator[list[int]]:
    """Yield numbers of configurations to evaluate at once, with the same parameters."""
    for one in dict.fromkeys(functions):
        members = [index for index, function in enumerate(functions) if function is one]
        batch = np.cumsum([len(frames[index]) for index in members]) // _BATCH_ATOMS
        yield from (part.tolist() for part in np.split(members, np.flatnonzero(np.diff(batch)) + 1))


def _evaluate(function: TripletPotential, frames: Sequence[Atoms], stress: bool) -> Iterator[Evaluation]:
    bonds = find_bonds(frames, function.elements, function.cutoff)
    if bonds.length.min(initial=np.inf) < _TOO_CLOSE:
        raise PotentialError("Two atoms lie on top of each other.", "Check the structure for duplicate sites.")
    sums = function.evaluate(bonds)
    parts = np.split(sums.forces, np.cumsum([len(atoms) for atoms in frames])[:-1])
    for atoms, energy, forces, virial in zip(frames, sums.energies, parts, sums.virials, strict=True):
        tension = np.zeros(6)
        if stress and atoms.cell.rank == 3:
            tension = np.asarray(full_3x3_to_voigt_6_stress(virial / atoms.get_volume()), dtype=float)
        yield Evaluation(float(energy), forces.copy(), tension)
