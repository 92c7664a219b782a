"""Labelled configurations as graphs, and batches of them beside their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from phonosmith.core.errors import InputError
from phonosmith.potentials.base import Array
from phonosmith.potentials.graphs import Graph, Shape, collate, collate_padded, make_graph
from phonosmith.structures.labels import Labels, labels_of, problems

if TYPE_CHECKING:
    from phonosmith.potentials.graphs import Batch


@dataclass(frozen=True)
class LabelledGraph:
    """One configuration with its labels.

    Attributes
    ----------
    name
        What to call it in messages: split, index and formula.
    graph
        Its neighbour list.
    energy
        Label without the atomic reference energies, eV: in float32 a total energy of thousands of eV would lose the
        digits that matter.
    forces, stress
        eV/Å; eV/Å³ as a tensor with ASE's sign, None where unlabelled or not periodic.
    head
        Head of the model it is for.
    replay
        Whether it is a replay structure.
    """

    name: str
    graph: Graph
    energy: float
    forces: Array
    stress: Array | None
    head: int = 0
    replay: bool = False


@dataclass(frozen=True)
class LabelledBatch:
    """Tensors of several labelled graphs: inputs of the model, and one label, size or flag for each graph or atom.

    ``has_stress`` and ``replay`` are 1 or 0, unlabelled stresses zeros; units are those of :class:`LabelledGraph`. In a
    padded batch ``real_graphs`` and ``real_atoms`` are 1 for what is real and 0 for dummies; None: all is real.
    """

    inputs: Batch
    sizes: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor
    has_stress: torch.Tensor
    replay: torch.Tensor
    real_graphs: torch.Tensor | None = None
    real_atoms: torch.Tensor | None = None

    @property
    def n_graphs(self) -> torch.Tensor:
        """How many graphs are real."""
        return self.energy.new_full((), len(self.energy)) if self.real_graphs is None else self.real_graphs.sum()

    @property
    def n_atoms(self) -> torch.Tensor:
        """How many atoms are real."""
        return self.energy.new_full((), len(self.forces)) if self.real_atoms is None else self.real_atoms.sum()


def check_frames(frames: Sequence[Atoms], split: str, *, minimum: int = 1) -> list[Labels]:
    """Return the labels of every frame of a split; InputError for too few, or naming those that cannot be used."""
    if len(frames) < minimum:
        count = f"has only {len(frames)} structure" if len(frames) else "is empty"
        raise InputError(
            f"The {split} set {count}; at least {minimum} are needed.",
            "Label more structures: one alone cannot tell a fit from a memory.",
        )
    wrong = [
        f"{_name(split, index, atoms)}: {', '.join(faults)}"
        for index, atoms in enumerate(frames)
        if (faults := problems(atoms, require=("energy", "forces")))
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(
            f"Labels cannot be used: {'; '.join(wrong[:5])}{more}.",
            "Every frame needs finite labels 'energy' and 'forces' under ASE's names ('stress' where periodic). "
            "Displaced cells of phonopy have no energies: give their phonopy file as curvature supervision instead.",
        )
    return [labels_of(atoms) for atoms in frames]


def _name(split: str, index: int, atoms: Atoms) -> str:
    return f"{split}[{index}] ({atoms.get_chemical_formula()})"


def labelled_graphs(
    frames: Sequence[Atoms],
    labels: Sequence[Labels],
    split: str,
    numbers: Sequence[int],
    cutoff: float,
    e0: Array,
    build: Callable[[Atoms, Sequence[int], float, int], Graph] = make_graph,
) -> list[LabelledGraph]:
    """Build the graphs of a split (``replay`` marks them so) from configurations and their checked labels.

    Parameters
    ----------
    numbers, e0
        Atomic numbers in the model's order, and the atomic reference energies (eV) labels are made relative to.
    cutoff
        Å.
    build
        What makes a graph, where some exist already.
    """
    built = []
    for index, (atoms, label) in enumerate(zip(frames, labels, strict=True)):
        graph = build(atoms, numbers, cutoff, index)
        energy = float(label.energy or 0.0) - float(e0[graph.species].sum())
        labelled = label.stress is not None and np.all(atoms.pbc)
        stress = np.asarray(voigt_6_to_full_3x3_stress(label.stress)) if labelled else None
        name, forces = _name(split, index, atoms), np.asarray(label.forces)
        built.append(LabelledGraph(name, graph, energy, forces, stress, replay=split == "replay"))
    return built


def compositions(graphs: Sequence[LabelledGraph], n_elements: int) -> Array:
    """Return how many atoms of each of the model's elements every graph holds, shape (graphs, elements)."""
    return np.array([np.bincount(one.graph.species, minlength=n_elements) for one in graphs], dtype=float)


def relative_to(graphs: Sequence[LabelledGraph], shift: Array, head: int | None = None) -> list[LabelledGraph]:
    """Return graphs, for a head, whose labels are relative to atomic energies shifted by so much (eV per element)."""
    removed = compositions(graphs, len(shift)) @ shift
    return [
        replace(one, energy=one.energy - float(amount), head=one.head if head is None else head)
        for one, amount in zip(graphs, removed, strict=True)
    ]


def labelled_batch(
    graphs: Sequence[LabelledGraph],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    shape: Shape | None = None,
    cutoff: float = 0.0,
) -> LabelledBatch:
    """Join graphs into one batch in some precision on some device, padded to a shape where one is given.

    ``cutoff`` (Å) is needed for padding alone.
    """
    plain, heads = [one.graph for one in graphs], [one.head for one in graphs]
    more_graphs = more_atoms = 0
    if shape is None:
        inputs = collate(plain, dtype, device, heads)
    else:
        inputs = collate_padded(plain, shape, cutoff, dtype, device, heads)
        more_graphs, more_atoms = shape.graphs - len(graphs), shape.atoms - sum(len(one.species) for one in plain)

    def real(values: object, more: int = 0, fill: float = 0.0) -> torch.Tensor:
        array = np.asarray(values, dtype=float)
        padded = np.pad(array, [(0, more)] + [(0, 0)] * (array.ndim - 1), constant_values=fill)
        return torch.tensor(padded, dtype=dtype).to(device)

    return LabelledBatch(
        inputs=inputs,
        sizes=real([len(one.species) for one in plain], more_graphs, 1.0),
        energy=real([one.energy for one in graphs], more_graphs),
        forces=real(np.concatenate([one.forces for one in graphs]), more_atoms),
        stress=real([np.zeros((3, 3)) if one.stress is None else one.stress for one in graphs], more_graphs),
        has_stress=real([one.stress is not None for one in graphs], more_graphs),
        replay=real([one.replay for one in graphs], more_graphs),
        real_graphs=None if shape is None else real(np.ones(len(graphs)), more_graphs),
        real_atoms=None if shape is None else real(np.ones(shape.atoms - more_atoms), more_atoms),
    )


def in_batches(
    graphs: Sequence[LabelledGraph], size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> list[LabelledBatch]:
    """Batch graphs in order, ``size`` at a time."""
    return [labelled_batch(graphs[start : start + size], dtype, device) for start in range(0, len(graphs), size)]
