"""Configurations as neighbour graphs, joined into batches of bounded size: the same for every architecture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from ase import Atoms

    Batch = dict[str, torch.Tensor]

REACH = 5.0
"""A cell without repetition in some direction is made this many cutoffs long there, times its largest coordinate."""


@dataclass(frozen=True)
class Graph:
    """One configuration with its neighbour list."""

    index: int
    """Place in the input."""
    species: NDArray[np.int64]
    """Index of every atom's element in the model's table."""
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    """Å, the one the neighbour list was made in."""
    edges: NDArray[np.int64]
    """Sender and receiver of every directed edge, shape (2, n_edges)."""
    shifts: NDArray[np.float64]
    """Lattice translation of every edge in units of the cell vectors, shape (n_edges, 3)."""

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return self.edges.shape[1]


def neighbours(atoms: Atoms, cutoff: float) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return edges (2, n), their lattice translations (n, 3) and the cell (Å) these are in.

    The cell is completed where the configuration does not repeat, in mace's manner, so that edges come in its order.
    """
    from matscipy.neighbours import neighbour_list

    positions = np.array(atoms.positions, dtype=np.float64)
    cell = np.array(atoms.cell.array, dtype=np.float64)
    if not cell.any():
        cell = np.eye(3)
    length = (np.abs(positions).max(initial=0.0) + 1.0) * REACH * cutoff
    for axis, repeats in enumerate(atoms.pbc):
        if not repeats:
            cell[axis] = length * np.eye(3)[axis]
    sender, receiver, shifts = neighbour_list(
        "ijS", pbc=tuple(map(bool, atoms.pbc)), cell=cell, positions=positions, cutoff=cutoff
    )
    real = (sender != receiver) | np.any(shifts != 0, axis=1)
    edges = np.stack([sender[real], receiver[real]]).astype(np.int64)
    return edges, np.asarray(shifts[real], dtype=np.float64), cell


def make_graph(atoms: Atoms, numbers: Sequence[int], cutoff: float, index: int = 0) -> Graph:
    """Return a configuration's graph; ``numbers`` are the atomic numbers in the model's order."""
    edges, shifts, cell = neighbours(atoms, cutoff)
    place = {number: row for row, number in enumerate(numbers)}
    species = np.array([place[int(number)] for number in atoms.numbers], dtype=np.int64)
    return Graph(index, species, np.array(atoms.positions, dtype=np.float64), cell, edges, shifts)


SKIN = 0.4
"""Å; a larger one is rebuilt less often and leaves more edges to look through."""


@dataclass(frozen=True, eq=False)
class _Nearby:
    """Edges up to cutoff and skin of one configuration, whose positions and cell these are."""

    graph: Graph
    inverse: NDArray[np.float64]

    def covers(self, atoms: Atoms, cutoff: float) -> bool:
        """Tell whether every pair within the cutoff (Å) of another configuration of the atoms is among the edges.

        A pair at d now was at most (d + 2 u) / s apart, s the smallest stretch of the cell and u the largest
        displacement besides it.
        """
        stretch = self.inverse @ atoms.cell.array
        moved = float(np.linalg.norm(atoms.positions - self.graph.positions @ stretch, axis=1).max())
        smallest = float(np.linalg.svd(stretch, compute_uv=False)[-1])
        return cutoff + 2.0 * moved <= smallest * (cutoff + SKIN)


class GraphMaker:
    """Makes graphs of periodic configurations that move a little from call to call, or differ by little.

    Neighbours are sought within cutoff and skin, and only where no list found before covers the configuration; the rest
    is left out by distance. The edges are those of :func:`make_graph` in another order: where sums are not ordered
    anyway it saves most of the time.
    """

    def __init__(self, numbers: Sequence[int], cutoff: float, most: int = 64) -> None:
        self.numbers, self.cutoff, self.most = numbers, cutoff, most
        self._lists: dict[bytes, list[_Nearby]] = {}
        self.built = 0
        """Neighbour lists made."""

    def __call__(self, atoms: Atoms, index: int = 0) -> Graph:
        """Return the graph of a configuration."""
        if not atoms.pbc.all():
            return make_graph(atoms, self.numbers, self.cutoff, index)
        known = self._lists.setdefault(atoms.numbers.tobytes(), [])
        nearby = next((one for one in known if one.covers(atoms, self.cutoff)), None)
        if nearby is None:
            self.built += 1
            cell = np.array(atoms.cell.array, dtype=np.float64)
            inverse = np.asarray(np.linalg.inv(cell), dtype=np.float64)
            nearby = _Nearby(make_graph(atoms, self.numbers, self.cutoff + SKIN), inverse)
        else:
            known.remove(nearby)
        # configurations that take turns find their own one first
        known.append(nearby)
        del known[: -self.most]
        graph, cell = nearby.graph, np.array(atoms.cell.array, dtype=np.float64)
        positions = np.array(atoms.positions, dtype=np.float64)
        vectors = positions[graph.edges[1]] - positions[graph.edges[0]] + graph.shifts @ cell
        near = np.einsum("ij,ij->i", vectors, vectors) < self.cutoff**2
        return Graph(index, graph.species, positions, cell, graph.edges[:, near], graph.shifts[near])


def batches(graphs: Iterable[Graph], max_atoms: int, max_edges: int) -> Iterator[list[Graph]]:
    """Group graphs in order so that no batch holds more atoms or edges than given (one graph always fits)."""
    group: list[Graph] = []
    atoms = edges = 0
    for graph in graphs:
        atoms, edges = atoms + len(graph.species), edges + graph.n_edges
        if group and (atoms > max_atoms or edges > max_edges):
            yield group
            group, atoms, edges = [], len(graph.species), graph.n_edges
        group.append(graph)
    if group:
        yield group


class Shape(NamedTuple):
    """How many graphs, atoms and directed edges a padded batch holds, dummies included."""

    graphs: int
    atoms: int
    edges: int


def padded_shape(graphs: Sequence[Graph]) -> Shape:
    """Return the smallest shape these graphs can be padded to: it has one graph and one atom more than they."""
    atoms = sum(len(graph.species) for graph in graphs)
    return Shape(len(graphs) + 1, atoms + 1, sum(graph.n_edges for graph in graphs))


def bucketed(shapes: Iterable[Shape], ratio: float = 1.5, most: int = 4) -> list[Shape]:
    """Return a few shapes, the smallest first, one of which holds each of those given.

    Shapes whose edges (the cost of a batch) differ by less than ``ratio`` share one; the last of ``most`` takes all the
    rest.
    """
    left = sorted(set(shapes), key=lambda shape: (shape.edges, shape.atoms, shape.graphs), reverse=True)
    found: list[Shape] = []
    while left:
        floor = left[0].edges / ratio if len(found) + 1 < most else -1.0
        together = [shape for shape in left if shape.edges > floor or shape.edges == left[0].edges]
        found.append(Shape(*(max(sizes) for sizes in zip(*together, strict=True))))
        left = left[len(together) :]
    return found[::-1]


def fitting(shapes: Iterable[Shape], wanted: Shape) -> Shape | None:
    """Return the first shape (of those :func:`bucketed` gives: the cheapest) that holds the wanted one."""
    return next((one for one in shapes if all(has >= n for has, n in zip(one, wanted, strict=True))), None)


def pad(graphs: Sequence[Graph], shape: Shape, cutoff: float) -> list[Graph]:
    """Return graphs and dummies after them that fill a batch up to a shape (at least :func:`padded_shape`).

    The last dummy holds the spare atoms, and edges between each of these and its own image, two cutoffs (Å) away; those
    before it are empty. No edge joins a dummy and a real atom, so whatever a model does with dummies, the real atoms'
    energies, forces and stresses are those without them.
    """
    least = padded_shape(graphs)
    if fitting([shape], least) is None:
        raise ValueError(f"a batch of {least} does not fit into {shape}")
    atoms, edges = shape.atoms - least.atoms + 1, shape.edges - least.edges
    cell = 2.0 * cutoff * np.eye(3)

    def dummy(atoms: int, edges: int) -> Graph:
        nodes = np.arange(edges, dtype=np.int64) % max(atoms, 1)
        shifts = np.tile([1.0, 0.0, 0.0], (edges, 1))
        return Graph(-1, np.zeros(atoms, dtype=np.int64), np.zeros((atoms, 3)), cell, np.stack([nodes, nodes]), shifts)

    empty = [dummy(0, 0)] * (shape.graphs - least.graphs)
    return [*graphs, *empty, dummy(atoms, edges)]


def volumes(graphs: Sequence[Graph]) -> NDArray[np.float64]:
    """Return the volume of every graph's cell, Å³."""
    return np.abs(np.linalg.det(np.array([graph.cell for graph in graphs])))


def collate_padded(
    graphs: Sequence[Graph],
    shape: Shape,
    cutoff: float,
    dtype: torch.dtype,
    device: torch.device | str,
    head: int | Sequence[int] = 0,
) -> Batch:
    """Join graphs and dummies into a batch of a given shape; real atoms and graphs come first, in order.

    Beside the keys of :func:`collate` it has ``volume`` (Å³, one a graph): backends then need no determinant, which
    waits for the device.
    """
    import torch

    padded = pad(graphs, shape, cutoff)
    heads = [*np.broadcast_to(head, len(graphs)).tolist(), *[0] * (shape.graphs - len(graphs))]
    batch = collate(padded, dtype, device, heads)
    return batch | {"volume": torch.tensor(volumes(padded), dtype=dtype).to(device)}


def collate(
    graphs: Sequence[Graph], dtype: torch.dtype, device: torch.device | str, head: int | Sequence[int] = 0
) -> Batch:
    """Join graphs into one batch, for one head of the model or one head a graph.

    Keys: ``positions``, ``cell`` (3 rows a graph), ``shifts`` (Å), ``unit_shifts``, ``species``, ``edge_index``
    (sender and receiver; an edge points from positions[sender] to positions[receiver] + shift), ``batch`` (graph of
    each atom), ``ptr`` (first atom of each graph), ``head``.
    """
    import torch

    sizes = [len(graph.species) for graph in graphs]
    offsets = np.concatenate([[0], np.cumsum(sizes)])

    def real(parts: Sequence[NDArray[np.float64]]) -> torch.Tensor:
        # torch.tensor copies into memory aligned by torch: the last bit of a sum depends on alignment
        return torch.tensor(np.concatenate(parts), dtype=dtype).to(device)

    def whole(values: NDArray[np.int64]) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int64).to(device)

    edges = np.concatenate([graph.edges + offset for graph, offset in zip(graphs, offsets, strict=False)], axis=1)
    return {
        "positions": real([graph.positions for graph in graphs]),
        "cell": real([graph.cell for graph in graphs]),
        "species": whole(np.concatenate([graph.species for graph in graphs])),
        "edge_index": whole(edges),
        "unit_shifts": real([graph.shifts for graph in graphs]),
        "shifts": real([graph.shifts @ graph.cell for graph in graphs]),
        "batch": whole(np.repeat(np.arange(len(graphs)), sizes)),
        "ptr": whole(offsets),
        "head": whole(np.array(np.broadcast_to(head, len(graphs)), dtype=np.int64)),
    }


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Take a model's parameters out of the autograd graph for a block: evaluation costs half."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def numpy64(tensor: torch.Tensor) -> NDArray[np.float64]:
    """Return a tensor's values as a float64 array on the CPU."""
    return np.asarray(tensor.detach().cpu().double().numpy())
