"""Configurations as padded arrays of few different shapes: JAX compiles once per shape, which takes seconds.

Padding edges join padding atoms over a distance beyond every cutoff, so that they add exact zeros and every derivative
of them is finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

FAR = 1000.0
"""Edge of the padding graph's cell, Å: the length of a padding edge."""
NODE_STEP = 8
"""Numbers of atoms are rounded up to a multiple of this."""
EDGE_GROWTH = 1.15
"""Two neighbouring edge capacities differ by this factor: at most 15 % of the work is padding."""
EDGE_STEP = 64
"""Edge capacities are multiples of this."""


@dataclass(frozen=True)
class NequixGraph:
    """One configuration with its neighbour list.

    Attributes
    ----------
    species
        Row of every atom's element.
    positions, cell
        Å; a configuration without three cell vectors has its cell completed.
    senders, receivers
        Of every directed edge.
    shifts
        Lattice translation of every edge in units of the cell vectors.
    """

    species: NDArray[np.int32]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    senders: NDArray[np.int32]
    receivers: NDArray[np.int32]
    shifts: NDArray[np.float64]

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.species)

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return len(self.senders)


@dataclass(frozen=True)
class Shape:
    """Capacity of a padded batch: atoms, edges and graphs, the padding graph included."""

    atoms: int
    edges: int
    graphs: int


def make_graph(atoms: Atoms, row_of: Mapping[int, int], cutoff: float) -> NequixGraph:
    """Return the graph of a configuration."""
    from ase.geometry import complete_cell
    from matscipy.neighbours import neighbour_list

    cell = np.array(complete_cell(atoms.cell), dtype=float)
    receivers, senders, shifts = neighbour_list(
        "ijS", positions=atoms.positions, cell=cell, pbc=atoms.pbc, cutoff=cutoff
    )
    return NequixGraph(
        np.array([row_of[int(number)] for number in atoms.numbers], dtype=np.int32),
        np.array(atoms.positions, dtype=float),
        cell,
        senders.astype(np.int32),
        receivers.astype(np.int32),
        shifts.astype(float),
    )


def edge_capacity(count: int) -> int:
    """Round a number of edges up to the next capacity of a geometric series."""
    size = EDGE_STEP
    while size < count:
        size = max(size + EDGE_STEP, int(np.ceil(size * EDGE_GROWTH / EDGE_STEP)) * EDGE_STEP)
    return size


def shape_for(atoms: int, edges: int, graphs: int) -> Shape:
    """Return the capacity that holds so many atoms, edges and graphs and at least one padding atom."""
    rows = 1
    while rows < graphs:
        rows *= 2
    return Shape((atoms // NODE_STEP + 1) * NODE_STEP, edge_capacity(edges), rows + 1)


def in_shape(graphs: Sequence[NequixGraph], max_edges: int) -> tuple[Shape, list[list[int]]]:
    """Group graphs in order so that one shape holds every group.

    Parameters
    ----------
    graphs
        Configurations.
    max_edges
        Edges per group (one graph always fits).
    """
    groups: list[list[int]] = []
    total = 0
    for index, graph in enumerate(graphs):
        if not groups or total + graph.n_edges > max_edges:
            groups.append([])
            total = 0
        groups[-1].append(index)
        total += graph.n_edges
    shape = shape_for(
        max(sum(graphs[index].n_atoms for index in group) for group in groups),
        max(sum(graphs[index].n_edges for index in group) for group in groups),
        max(len(group) for group in groups),
    )
    return shape, groups


def pad(graphs: Sequence[NequixGraph], shape: Shape, dtype: str) -> dict[str, NDArray[Any]]:
    """Join graphs and fill up to the shape: the first graph after them holds all padding atoms and edges."""
    sizes = [graph.n_atoms for graph in graphs]
    edges = [graph.n_edges for graph in graphs]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    spare_atoms, spare_edges = shape.atoms - sum(sizes), shape.edges - sum(edges)
    empty = shape.graphs - len(graphs) - 1
    if spare_atoms < 1 or spare_edges < 0 or empty < 0:
        raise ValueError(f"{len(graphs)} graphs with {sum(sizes)} atoms and {sum(edges)} edges do not fit {shape}")
    far = np.eye(3) * FAR
    padding = np.full(spare_edges, starts[-1], dtype=np.int32)
    return {
        "n_node": np.array([*sizes, spare_atoms, *[0] * empty], dtype=np.int32),
        "n_edge": np.array([*edges, spare_edges, *[0] * empty], dtype=np.int32),
        "species": np.concatenate([*(graph.species for graph in graphs), np.zeros(spare_atoms, dtype=np.int32)]),
        "positions": np.concatenate([*(graph.positions for graph in graphs), np.zeros((spare_atoms, 3))]).astype(dtype),
        "senders": np.concatenate([*(g.senders + s for g, s in zip(graphs, starts, strict=False)), padding]),
        "receivers": np.concatenate([*(g.receivers + s for g, s in zip(graphs, starts, strict=False)), padding]),
        "shifts": np.concatenate(
            [*(graph.shifts for graph in graphs), np.tile([1.0, 0.0, 0.0], (spare_edges, 1))]
        ).astype(dtype),
        "cell": np.concatenate([np.array([graph.cell for graph in graphs]), np.tile(far, (empty + 1, 1, 1))]).astype(
            dtype
        ),
    }


def split_rows(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield where each graph's atoms are in a padded batch."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size
