"""From frames, force constants and a Nequix potential to everything one training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from phonosmith.core.hashing import digest_array, digest_atoms, digest_json
from phonosmith.potentials.base import require_elements
from phonosmith.potentials.nequix.backend import NequixWeights
from phonosmith.potentials.nequix.potential import NequixPotential
from phonosmith.reference.datasets.dataset import dataset_digest
from phonosmith.structures.labels import label_frame
from phonosmith.training.curvature import CurvatureTarget, check_target, curvature_target
from phonosmith.training.energies import composition_matrix, given_energies, least_squares_shift
from phonosmith.training.graphs import check_frames, frame_name, is_labelled
from phonosmith.training.jax_data import ColumnGraph, LabelledGraph, column_graphs, labelled_graph
from phonosmith.training.jax_trainable import ATOM_ENERGIES
from phonosmith.training.replay import draw
from phonosmith.training.spec import TrainSpec


@dataclass
class JaxAssembly:
    """Everything one training of a Nequix model starts from.

    Attributes
    ----------
    foundation
        Weights as they were handed in.
    start
        The same with the atomic energies of this training.
    train, valid, replay
        Labelled graphs.
    columns, valid_columns
        Hessian columns to learn and, where given, others to judge by.
    targets
        The force constants the columns are of.
    """

    foundation: NequixWeights
    start: NequixWeights
    train: list[LabelledGraph]
    valid: list[LabelledGraph]
    replay: list[LabelledGraph] = field(default_factory=list)
    replay_labels: str = ""
    columns: list[ColumnGraph] = field(default_factory=list)
    valid_columns: list[ColumnGraph] = field(default_factory=list)
    targets: list[CurvatureTarget] = field(default_factory=list)
    e0_shift: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def as_targets(curvature: Any) -> list[CurvatureTarget]:
    """Return force constants of one or many materials as training targets."""
    if curvature is None:
        return []
    many = curvature if isinstance(curvature, list | tuple) else [curvature]
    return [one if isinstance(one, CurvatureTarget) else curvature_target(one) for one in many]


def assemble_jax(
    potential: NequixPotential,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    spec: TrainSpec,
    *,
    replay: Sequence[Atoms] | None,
    targets: Sequence[CurvatureTarget],
    valid_targets: Sequence[CurvatureTarget],
    seed: int,
) -> JaxAssembly:
    """Check the input and build the graphs; the potential is evaluated in its own precision."""
    splits = {"train": list(train), "valid": list(valid)}
    labels = {"train": check_frames(train, "train", minimum=2), "valid": check_frames(valid, "valid", minimum=1)}
    pool = list(replay or [])
    cells = [target.atoms for target in [*targets, *valid_targets]]
    require_elements(potential, [*train, *valid, *pool, *cells], "The foundation")
    if len(targets) == 1:
        check_target(targets[0], train)
    shift = _energy_shift(potential, spec, train)
    assembly = JaxAssembly(potential.weights, shifted(potential.weights, shift), [], [])
    graph_of = {
        split: [
            labelled_graph(atoms, label, potential.row_of, potential.r_max, frame_name(split, index, atoms))
            for index, (atoms, label) in enumerate(zip(frames, labels[split], strict=True))
        ]
        for split, frames in splits.items()
    }
    assembly.train, assembly.valid = graph_of["train"], graph_of["valid"]
    assembly.digests = {split: dataset_digest(frames) for split, frames in splits.items()}
    if spec.uses_replay:
        _add_replay(assembly, potential, pool, spec, shift, seed)
    for name, some in (("columns", targets), ("valid_columns", valid_targets)):
        setattr(assembly, name, interleaved([column_graphs(one, potential.row_of, potential.r_max) for one in some]))
    assembly.targets = list(targets)
    for role, some in (("curvature", targets), ("curvature_valid", valid_targets)):
        if some:
            parts = [[digest_atoms(one.atoms), digest_array(one.hessian)] for one in some]
            assembly.digests[role] = digest_json(parts)
    assembly.e0_shift = {
        chemical_symbols[number]: float(shift[row]) for number, row in potential.row_of.items() if shift[row]
    }
    return assembly


def interleaved(groups: Sequence[Sequence[ColumnGraph]]) -> list[ColumnGraph]:
    """Order columns so that materials take turns: first columns of all, then second ones, ..."""
    longest = max((len(group) for group in groups), default=0)
    return [group[place] for place in range(longest) for group in groups if place < len(group)]


def shifted(weights: NequixWeights, shift: np.ndarray) -> NequixWeights:
    """Return weights whose atomic energies are shifted by so much per element, eV."""
    place = _place_of_energies(weights)
    leaves = list(weights.leaves)
    leaves[place] = (np.asarray(leaves[place], dtype=float) + shift).astype(np.float32)
    return replace(weights, leaves=leaves)


def _place_of_energies(weights: NequixWeights) -> int:
    from phonosmith.potentials.nequix.backend import architecture_key, skeleton

    return skeleton(architecture_key(weights.config)).names.index(ATOM_ENERGIES)


def _energy_shift(potential: NequixPotential, spec: TrainSpec, train: Sequence[Atoms]) -> np.ndarray:
    """Return the change of atomic energies this training starts with, eV, in the model's order."""
    numbers = list(potential.row_of)
    if spec.e0 == "foundation":
        return np.zeros(len(numbers))
    if spec.e0 == "given":
        own = np.asarray(potential.weights.leaves[_place_of_energies(potential.weights)], dtype=float)
        present = sorted({int(number) for atoms in train for number in atoms.numbers})
        wanted = given_energies(spec.e0_values or {}, present)
        found = np.zeros(len(numbers))
        for number, value in zip(present, wanted, strict=True):
            found[potential.row_of[number]] = value - own[potential.row_of[number]]
        return found
    predicted = [found.energy for found in potential.evaluate(train, stress=False)]
    labels = [atoms.get_potential_energy() for atoms in train]
    return least_squares_shift(train, numbers, np.array(labels) - np.array(predicted))


def _add_replay(
    assembly: JaxAssembly,
    potential: NequixPotential,
    pool: Sequence[Atoms],
    spec: TrainSpec,
    shift: np.ndarray,
    seed: int,
) -> None:
    """Draw replay structures, label them, and move their energies along with the atomic energies."""
    chosen = draw(pool, spec.replay_size, seed)
    assembly.replay_labels = "given"
    if spec.replay_labels == "foundation" or (
        spec.replay_labels == "auto" and not all(is_labelled(atoms) for atoms in chosen)
    ):
        chosen, assembly.replay_labels = label_with_potential(potential, chosen), "foundation"
    found = check_frames(chosen, "replay")
    moved = composition_matrix(chosen, list(potential.row_of)) @ shift
    assembly.digests["replay"] = dataset_digest(chosen)
    for index, (atoms, label, energy) in enumerate(zip(chosen, found, moved, strict=True)):
        graph = labelled_graph(
            atoms, label, potential.row_of, potential.r_max, frame_name("replay", index, atoms), replay=True
        )
        # only interaction energies are compared: replay keeps the foundation's own atomic energies
        assembly.replay.append(replace(graph, energy=graph.energy + float(energy)))


def label_with_potential(potential: NequixPotential, frames: Sequence[Atoms]) -> list[Atoms]:
    """Label structures with a potential's own energy, forces and stress."""
    return [
        label_frame(
            atoms, energy=found.energy, forces=found.forces, stress=found.stress if bool(np.all(atoms.pbc)) else None
        )
        for atoms, found in zip(frames, potential.evaluate(frames), strict=True)
    ]
