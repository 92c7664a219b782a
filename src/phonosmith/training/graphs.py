"""Labelled configurations as MACE graphs, built once; batches are concatenations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from phonosmith.core.errors import InputError
from phonosmith.structures.labels import Labels, labels_of, problems

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Graph:
    """One configuration ready for the model.

    Attributes
    ----------
    name
        What to call it in messages: split, index and formula.
    tensors
        Inputs of the model and labels, in the training precision.
    n_atoms
        Number of atoms.
    replay
        Whether it is a replay structure.
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    n_atoms: int
    replay: bool = False


def check_frames(frames: Sequence[Atoms], split: str, *, minimum: int = 1) -> list[Labels]:
    """Return the labels of every frame of a split after checking that all can be trained on.

    Raises
    ------
    InputError
        For an empty or too small split, or naming the frames whose labels are missing, misshapen or not finite.
    """
    if len(frames) < max(1, minimum):
        count = f"has only {len(frames)} structure" if len(frames) else "is empty"
        raise InputError(
            f"The {split} set {count}; at least {max(1, minimum)} are needed.",
            "Label more structures: one alone cannot tell a fit from a memory.",
        )
    wrong = []
    for index, atoms in enumerate(frames):
        found = problems(atoms, require=("energy", "forces"))
        if found:
            wrong.append(f"{frame_name(split, index, atoms)}: {', '.join(found)}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(
            f"Labels cannot be used: {'; '.join(wrong[:5])}{more}.",
            "Every frame needs finite labels 'energy' and 'forces' under ASE's names ('stress' where periodic). "
            "Displaced cells of phonopy have no energies: give their phonopy file as curvature supervision instead.",
        )
    return [labels_of(atoms) for atoms in frames]


def is_labelled(atoms: Atoms) -> bool:
    """Tell whether a frame carries energy and forces."""
    labels = labels_of(atoms)
    return labels.energy is not None and labels.forces is not None


def frame_name(split: str, index: int, atoms: Atoms) -> str:
    """Name a frame in messages."""
    return f"{split}[{index}] ({atoms.get_chemical_formula()})"


def build_graph(
    atoms: Atoms,
    labels: Labels | None,
    *,
    numbers: Sequence[int],
    cutoff: float,
    e0: np.ndarray,
    dtype: torch.dtype,
    head: int = 0,
    replay: bool = False,
    name: str = "structure",
    device: torch.device | None = None,
) -> Graph:
    """Build the neighbour graph of one configuration with its labels.

    The energy label is stored as interaction energy (total minus atomic references), subtracted in float64: in
    float32 a total energy of thousands of eV would lose the digits that matter.

    Parameters
    ----------
    atoms, labels
        Configuration and reference values (None: inputs only).
    numbers
        Atomic numbers of the model, in its order.
    cutoff
        Å.
    e0
        Atomic reference energies in the same order, eV.
    dtype
        Precision of the tensors.
    head
        Index of the model's head.
    replay
        Mark as replay structure.
    name
        For messages.
    device
        Where the tensors live.
    """
    from mace.data.neighborhood import get_neighborhood

    edges, shifts, unit_shifts, cell = get_neighborhood(
        positions=atoms.positions.copy(),
        cutoff=float(cutoff),
        pbc=tuple(bool(flag) for flag in atoms.pbc),
        cell=np.array(atoms.cell.array),
    )
    order = {z: i for i, z in enumerate(numbers)}
    species = np.array([order[z] for z in atoms.numbers])
    one_hot = np.zeros((len(atoms), len(numbers)))
    one_hot[np.arange(len(atoms)), species] = 1.0

    def real(values: object) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=float), dtype=dtype, device=device)

    def whole(values: object) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)

    energy = labels.energy if labels is not None and labels.energy is not None else float(e0[species].sum())
    forces = labels.forces if labels is not None and labels.forces is not None else np.zeros((len(atoms), 3))
    stress = labels.stress if labels is not None and bool(np.all(atoms.pbc)) else None
    tensors = {
        "positions": real(atoms.positions),
        "cell": real(cell),
        "shifts": real(shifts),
        "unit_shifts": real(unit_shifts),
        "edge_index": whole(edges),
        "node_attrs": real(one_hot),
        "head": whole([head]),
        "energy": real([energy - float(e0[species].sum())]),
        "forces": real(forces),
        "stress": real(np.zeros((3, 3)) if stress is None else voigt_6_to_full_3x3_stress(stress))[None],
        "has_stress": real([0.0 if stress is None else 1.0]),
        "replay": real([1.0 if replay else 0.0]),
    }
    return Graph(name, tensors, len(atoms), replay)


_CONCATENATED = (
    "positions", "cell", "shifts", "unit_shifts", "node_attrs", "head", "energy", "forces", "stress", "has_stress",
    "replay",
)  # fmt: skip


def collate(graphs: Sequence[Graph]) -> Batch:
    """Concatenate graphs into one batch; every tensor is new, so that the model may alter it."""
    counts = [graph.n_atoms for graph in graphs]
    starts = np.concatenate([[0], np.cumsum(counts)])
    device = graphs[0].tensors["positions"].device
    batch = {key: torch.cat([graph.tensors[key] for graph in graphs]) for key in _CONCATENATED}
    batch["edge_index"] = torch.cat(
        [graph.tensors["edge_index"] + int(start) for graph, start in zip(graphs, starts, strict=False)], dim=1
    )
    batch["ptr"] = torch.as_tensor(starts, dtype=torch.int64, device=device)
    sizes = torch.as_tensor(counts, dtype=torch.int64, device=device)
    batch["batch"] = torch.repeat_interleave(torch.arange(len(graphs), device=device), sizes)
    batch["n_atoms"] = sizes.to(batch["positions"].dtype)
    return batch


def adapted(
    graph: Graph, *, dtype: torch.dtype, device: torch.device, energy: float | None = None, head: int | None = None
) -> Graph:
    """Return a graph in another precision and place, with another interaction energy label or head where given."""
    tensors = {
        key: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        for key, value in graph.tensors.items()
    }
    if energy is not None:
        tensors["energy"] = torch.tensor([energy], dtype=dtype, device=device)
    if head is not None:
        tensors["head"] = torch.tensor([head], dtype=torch.int64, device=device)
    return Graph(graph.name, tensors, graph.n_atoms, graph.replay)


def fresh(batch: Batch) -> Batch:
    """Return a batch to hand to the model again: a forward pass replaces positions and shifts in its dictionary."""
    copy = dict(batch)
    copy["positions"] = batch["positions"].detach().clone()
    return copy


def in_batches(graphs: Sequence[Graph], size: int) -> list[Batch]:
    """Collate graphs in order, ``size`` at a time."""
    return [collate(graphs[start : start + size]) for start in range(0, len(graphs), size)]
