"""Configurations as the tensors mace evaluates, joined into batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phonosmith.potentials.mace.imports import import_mace

if TYPE_CHECKING:
    import torch
    from ase import Atoms


@dataclass(frozen=True)
class Graph:
    """One configuration with its neighbour list.

    Attributes
    ----------
    index
        Place in the input.
    species
        Index of every atom's element in the model's table.
    positions, cell
        Å; the cell is the one the neighbour list was made in.
    edges
        Sender and receiver of every edge, shape (2, n_edges).
    shifts
        Lattice translation of every edge in units of the cell vectors, shape (n_edges, 3).
    """

    index: int
    species: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    edges: NDArray[np.int64]
    shifts: NDArray[np.float64]

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return self.edges.shape[1]


def make_graph(atoms: Atoms, z_table: Sequence[int], r_max: float, index: int = 0) -> Graph:
    """Return a configuration's graph, with mace's own neighbour list."""
    import_mace()
    from mace.data.neighborhood import get_neighborhood

    positions = np.array(atoms.positions, dtype=np.float64)
    edges, _, unit_shifts, cell = get_neighborhood(
        positions=positions,
        cutoff=r_max,
        pbc=tuple(bool(flag) for flag in atoms.pbc),
        cell=np.array(atoms.cell.array, dtype=np.float64),
    )
    place = {number: row for row, number in enumerate(z_table)}
    species = np.array([place[int(number)] for number in atoms.numbers], dtype=np.int64)
    return Graph(index, species, positions, np.array(cell), np.asarray(edges, np.int64), np.asarray(unit_shifts, float))


def batches(graphs: Iterable[Graph], max_atoms: int, max_edges: int) -> Iterator[list[Graph]]:
    """Group graphs in order so that no batch holds more atoms or edges than given (one graph always fits)."""
    group: list[Graph] = []
    atoms = edges = 0
    for graph in graphs:
        n_atoms = len(graph.species)
        if group and (atoms + n_atoms > max_atoms or edges + graph.n_edges > max_edges):
            yield group
            group, atoms, edges = [], 0, 0
        group.append(graph)
        atoms += n_atoms
        edges += graph.n_edges
    if group:
        yield group


def collate(
    graphs: Sequence[Graph], n_species: int, head: int, dtype: torch.dtype, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Join graphs into the dictionary mace's ``forward`` takes; made afresh because ``forward`` changes it."""
    import torch

    sizes = [len(graph.species) for graph in graphs]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    one_hot = np.zeros((offsets[-1], n_species))
    one_hot[np.arange(offsets[-1]), np.concatenate([graph.species for graph in graphs])] = 1.0
    unit_shifts = np.concatenate([graph.shifts for graph in graphs])
    shifts = np.concatenate([graph.shifts @ graph.cell for graph in graphs])
    edges = np.concatenate([graph.edges + offset for graph, offset in zip(graphs, offsets, strict=False)], axis=1)
    owner = np.repeat(np.arange(len(graphs)), sizes)

    def real(values: NDArray[np.float64]) -> torch.Tensor:
        # torch.tensor copies into memory aligned by torch: the last bit of a sum depends on alignment
        return torch.tensor(values, dtype=dtype).to(device)

    def whole(values: NDArray[np.int64]) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int64).to(device)

    return {
        "positions": real(np.concatenate([graph.positions for graph in graphs])),
        "cell": real(np.concatenate([graph.cell for graph in graphs])),
        "node_attrs": real(one_hot),
        "edge_index": whole(edges),
        "unit_shifts": real(unit_shifts),
        "shifts": real(shifts),
        "batch": whole(owner),
        "ptr": whole(offsets),
        "head": whole(np.full(len(graphs), head)),
    }
