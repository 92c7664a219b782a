"""The Nequix adapter: JAX on padded shapes, beside mace-torch in one environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.core.artefacts import default_artefacts, write_atomic
from phonosmith.potentials.base import Array, Evaluation, require_elements
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.hessian import checked_columns, difference_columns
from phonosmith.potentials.nequix.backend import (
    NequixWeights,
    architecture_key,
    precision,
    read_weights,
    write_weights,
)
from phonosmith.potentials.nequix.functions import COLUMNS, compiled
from phonosmith.potentials.nequix.graphs import NequixGraph, Shape, in_shape, make_graph, pad, shape_for, split_rows

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

_BATCH_EDGES = {"cpu": 6000, "cuda": 400_000}
"""Edges evaluated at once: on a CPU larger batches gain nothing and cost memory."""
_LARGEST_AUTOGRAD_EDGES = 16_000
"""Edges above which Hessian columns are central differences: the linearised forces no longer fit into memory."""


class NequixPotential:
    """A Nequix model that evaluates batches and gives Hessian columns.

    Parameters
    ----------
    weights
        Content of a ``.nqx`` file.
    dtype
        float32 (as nequix itself computes) or float64.
    device
        cpu or cuda.
    name
        Human name used in messages.

    Attributes
    ----------
    weights
        What it was made from; ``leaves`` are float32.
    r_max
        Cutoff of one message-passing layer, Å.
    """

    architecture = "nequix"

    def __init__(
        self,
        weights: NequixWeights,
        *,
        dtype: str = "float64",
        device: str = "cpu",
        name: str = "The potential",
    ) -> None:
        import jax.numpy as jnp
        from ase.data import chemical_symbols

        self.weights = weights
        self.name = name
        self.dtype = dtype
        self.device = device
        self.r_max = float(weights.config["cutoff"])
        numbers = sorted(int(number) for number in weights.config["atomic_numbers"])
        self.row_of = {number: row for row, number in enumerate(numbers)}
        self.elements = tuple(chemical_symbols[number] for number in numbers)
        self.functions = compiled(architecture_key(weights.config))
        with precision(dtype, device):
            self._leaves = [jnp.asarray(np.asarray(leaf), dtype=dtype) for leaf in weights.leaves]

    def evaluate(self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False) -> list[Evaluation]:
        """Return energy, forces and stress of many configurations, in order, in batches of one padded shape."""
        require_elements(self, frames, self.name)
        if not len(frames):
            return []
        graphs = [make_graph(atoms, self.row_of, self.r_max) for atoms in frames]
        found = self.evaluate_graphs(graphs, progress=progress)
        return [
            one if stress and bool(np.all(atoms.pbc)) else replace(one, stress=np.zeros(6))
            for atoms, one in zip(frames, found, strict=True)
        ]

    def evaluate_graphs(self, graphs: Sequence[NequixGraph], *, progress: bool = False) -> list[Evaluation]:
        """Return the evaluation of configurations whose neighbour lists are known."""
        from rich.console import Console
        from rich.progress import Progress

        shape, groups = in_shape(graphs, _BATCH_EDGES["cuda" if self.device.startswith("cuda") else "cpu"])
        found: list[Evaluation] = []
        with Progress(console=Console(stderr=True), disable=not progress) as bar:
            task = bar.add_task("evaluating", total=len(graphs))
            for group in groups:
                found += self._evaluate([graphs[index] for index in group], shape)
                bar.advance(task, len(group))
        return found

    def _evaluate(self, graphs: Sequence[NequixGraph], shape: Shape) -> list[Evaluation]:
        from ase.stress import full_3x3_to_voigt_6_stress

        batch = pad(graphs, shape, self.dtype)
        with precision(self.dtype, self.device):
            arrays = self.functions.evaluate(self._leaves, batch)
            energies, forces, stresses = (np.asarray(array, dtype=np.float64) for array in arrays)
        rows = split_rows([graph.n_atoms for graph in graphs])
        return [
            Evaluation(float(energies[place]), forces[atoms], np.asarray(full_3x3_to_voigt_6_stress(stresses[place])))
            for place, atoms in enumerate(rows)
        ]

    def hessian_columns(self, atoms: Atoms, columns: Sequence[int]) -> Array:
        """Return columns of d²E/dx² in eV/Å², in the potential's precision.

        Forward over reverse differentiation; cells too large for it are displaced by central differences.
        """
        require_elements(self, [atoms], self.name)
        wanted = checked_columns(atoms, columns)
        graph = make_graph(atoms, self.row_of, self.r_max)
        if graph.n_edges > _LARGEST_AUTOGRAD_EDGES and self.dtype == "float64":
            return difference_columns(self, atoms, wanted)
        return self._columns(graph, wanted)

    def _columns(self, graph: NequixGraph, wanted: Sequence[int]) -> Array:
        batch = pad([graph], shape_for(graph.n_atoms, graph.n_edges, 1), self.dtype)
        found = np.empty((len(wanted), 3 * graph.n_atoms))
        for start in range(0, len(wanted), COLUMNS):
            part = wanted[start : start + COLUMNS]
            numbers = np.zeros(COLUMNS, dtype=np.int32)
            numbers[: len(part)] = part
            with precision(self.dtype, self.device):
                rows = np.asarray(self.functions.columns(self._leaves, batch, numbers, np.int32(len(part))))
            found[start : start + len(part)] = rows[: len(part), : graph.n_atoms].reshape(len(part), -1)
        return found

    def calculator(self) -> Calculator:
        """Return an ASE calculator of the same numbers."""
        from phonosmith.potentials.calculator import LoadedCalculator

        return LoadedCalculator(self)

    def prune(self, elements: Sequence[str]) -> NequixPotential:  # noqa: ARG002
        """Return itself: idle elements cost one row of the first layer and nothing else."""
        return self

    def save_plain(self, path: Path) -> None:
        """Write the ``.nqx`` file that ``NequixCalculator`` reads."""
        write_atomic(Path(path), write_weights(self.weights))


def load_nequix(
    data: bytes, *, dtype: str = "float64", device: str = "cpu", name: str = "The potential"
) -> NequixPotential:
    """Load the content of a ``.nqx`` file."""
    return NequixPotential(read_weights(data, name), dtype=dtype, device=device, name=name)


def register_nequix(data: bytes, name: str, parents: Sequence[str] = ()) -> PotentialRef:
    """Put a ``.nqx`` file into the artefact store and return its reference (checked by reading it)."""
    potential = load_nequix(data, name=name)
    artefact = default_artefacts().put_bytes(data, kind="model", suffix=".nqx")
    return PotentialRef(
        sha256=artefact.sha256,
        name=name,
        architecture="nequix",
        dtype="float64",
        elements=list(potential.elements),
        cutoff=potential.r_max,
        artefact=artefact,
        parents=list(parents),
    )
