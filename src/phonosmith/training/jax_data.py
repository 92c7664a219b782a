"""Labelled configurations and force constants as padded batches for JAX models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from phonosmith.potentials.nequix.graphs import NequixGraph, Shape, make_graph, pad, shape_for
from phonosmith.structures.labels import Labels
from phonosmith.training.curvature import CurvatureTarget


@dataclass(frozen=True)
class LabelledGraph:
    """One configuration with its labels.

    Attributes
    ----------
    name
        What to call it in messages.
    graph
        Neighbour list.
    energy, forces, stress
        eV, eV/Å and eV/Å³ (3x3, ASE sign; None where unlabelled).
    replay
        Whether it is a replay structure.
    """

    name: str
    graph: NequixGraph
    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    replay: bool = False


@dataclass(frozen=True)
class ColumnGraph:
    """One Hessian column of one perfect supercell.

    Attributes
    ----------
    name
        Of the force constants.
    graph
        Neighbour list of the supercell.
    column
        Which column: 3i+a moves atom i along a.
    reference
        Its values, eV/Å², shape (n, 3).
    weight
        How much of the crystal it stands for, mean one per crystal.
    """

    name: str
    graph: NequixGraph
    column: int
    reference: np.ndarray
    weight: float


def labelled_graph(
    atoms: Atoms, labels: Labels, row_of: Mapping[int, int], cutoff: float, name: str, *, replay: bool = False
) -> LabelledGraph:
    """Return a configuration with its labels."""
    stress = None if labels.stress is None else np.asarray(voigt_6_to_full_3x3_stress(labels.stress))
    return LabelledGraph(
        name, make_graph(atoms, row_of, cutoff), float(labels.energy or 0.0), np.asarray(labels.forces), stress, replay
    )


def column_graphs(target: CurvatureTarget, row_of: Mapping[int, int], cutoff: float) -> list[ColumnGraph]:
    """Return the irreducible columns of force constants, sharing one neighbour list."""
    graph = make_graph(target.atoms, row_of, cutoff)
    return [
        ColumnGraph(target.source, graph, column, target.hessian[:, column].reshape(-1, 3), weight)
        for column, weight in zip(target.columns, target.weights, strict=True)
    ]


def common_shape(graphs: Sequence[NequixGraph], count: int) -> Shape:
    """Return a shape that holds any ``count`` of these graphs: one compilation for a whole training."""
    largest = min(count, len(graphs))
    atoms = sorted((graph.n_atoms for graph in graphs), reverse=True)[:largest]
    edges = sorted((graph.n_edges for graph in graphs), reverse=True)[:largest]
    return shape_for(sum(atoms), sum(edges), largest)


def _masks(graphs: Sequence[NequixGraph], shape: Shape, dtype: str) -> dict[str, np.ndarray]:
    n_atoms = sum(graph.n_atoms for graph in graphs)
    return {
        "is_graph": (np.arange(shape.graphs) < len(graphs)).astype(dtype),
        "is_atom": (np.arange(shape.atoms) < n_atoms).astype(dtype),
    }


def _filled(values: Sequence[float], size: int, dtype: str) -> np.ndarray:
    return np.array([*values, *[0.0] * (size - len(values))], dtype=dtype)


def _rows(parts: Sequence[np.ndarray], size: int, dtype: str) -> np.ndarray:
    found = np.zeros((size, 3), dtype=dtype)
    joined = np.concatenate(parts)
    found[: len(joined)] = joined
    return found


def labelled_batch(chosen: Sequence[LabelledGraph], shape: Shape, dtype: str) -> dict[str, Any]:
    """Return a padded batch with labels, masks and replay flags."""
    stress = np.zeros((shape.graphs, 3, 3), dtype=dtype)
    for place, one in enumerate(chosen):
        if one.stress is not None:
            stress[place] = one.stress
    graphs = [one.graph for one in chosen]
    return {
        **pad(graphs, shape, dtype),
        **_masks(graphs, shape, dtype),
        "energy": _filled([one.energy for one in chosen], shape.graphs, dtype),
        "forces": _rows([one.forces for one in chosen], shape.atoms, dtype),
        "stress": stress,
        "has_stress": _filled([float(one.stress is not None) for one in chosen], shape.graphs, dtype),
        "is_replay": _filled([float(one.replay) for one in chosen], shape.graphs, dtype),
    }


def column_batch(chosen: Sequence[ColumnGraph], shape: Shape, dtype: str) -> dict[str, Any]:
    """Return a padded batch of perfect supercells with one column each."""
    probes = []
    for one in chosen:
        probe = np.zeros((one.graph.n_atoms, 3))
        probe[one.column // 3, one.column % 3] = 1.0
        probes.append(probe)
    graphs = [one.graph for one in chosen]
    return {
        **pad(graphs, shape, dtype),
        **_masks(graphs, shape, dtype),
        "probe": _rows(probes, shape.atoms, dtype),
        "column": _rows([one.reference for one in chosen], shape.atoms, dtype),
        "column_weight": _filled([one.weight for one in chosen], shape.graphs, dtype),
    }
