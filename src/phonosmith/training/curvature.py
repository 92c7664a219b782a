"""Hessian columns of a model, by autograd or by finite differences, and the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from phonosmith.potentials.backend import Backend
from phonosmith.potentials.graphs import frozen
from phonosmith.potentials.hessian import reverse_columns
from phonosmith.training.spec import TrainSpec

if TYPE_CHECKING:
    from phonosmith.potentials.graphs import Batch

    Tensors = Sequence[torch.Tensor]


def difference_column(backend: Backend, model: torch.nn.Module, batch: Batch, column: int, step: float) -> torch.Tensor:
    """Return a Hessian column, eV/Å², by a central difference of forces over ``step`` (Å) at fixed neighbours."""
    plus, minus = (
        backend.predict(model, _moved(batch, column, shift), stress=False, create_graph=False).forces.detach()
        for shift in (step, -step)
    )
    return (minus - plus).reshape(-1) / (2 * step)


def _moved(batch: Batch, column: int, shift: float) -> Batch:
    positions = batch["positions"].clone()
    positions.view(-1)[column] += shift
    return batch | {"positions": positions}


@dataclass(frozen=True)
class CurvatureCell:
    """Reference columns of one perfect supercell.

    Attributes
    ----------
    batch
        The supercell alone, in the training precision (with a margin on the cutoff for differences).
    columns
        Irreducible columns in the order they are cycled.
    reference
        Their values, eV/Å², shape (len(columns), 3n).
    weights
        One per column, mean one.
    """

    batch: Batch
    columns: tuple[int, ...]
    reference: torch.Tensor
    weights: torch.Tensor

    def errors(self, values: torch.Tensor, rows: list[int] | slice = slice(None)) -> torch.Tensor:
        """Return the weighted mean absolute error of each of some columns (by default all), eV/Å²."""
        return (values - self.reference[rows]).abs().mean(dim=1) * self.weights[rows]


Place = tuple[int, int]
"""A cell, and one of its columns."""


@dataclass
class CurvatureTerm:
    """The curvature part of a loss: which columns come next, how their gradient is taken.

    Attributes
    ----------
    cells
        Supercells; the columns of several take turns.
    spec
        Its ``curvature_`` settings.
    method
        That of the settings; ``auto`` becomes definite at the first step.
    used
        Columns used so far; with it a resumed training goes on where it was.
    """

    backend: Backend
    cells: Sequence[CurvatureCell]
    spec: TrainSpec
    used: int = 0
    method: str = field(init=False)
    notes: list[str] = field(default_factory=list)
    _blocks: dict[int, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.method = self.spec.curvature_method

    def next_columns(self) -> list[Place]:
        """Return the next columns, cycling: the first of every cell, then the second ones, ..."""
        places = [(c, k) for c, cell in enumerate(self.cells) for k in range(len(cell.columns))]
        places.sort(key=lambda place: place[1])
        count = min(self.spec.curvature_columns, len(places))
        following = [places[(self.used + k) % len(places)] for k in range(count)]
        self.used += count
        return following

    def accumulate(self, model: torch.nn.Module, parameters: Tensors) -> float:
        """Add the gradient of the next columns' loss to the parameters' gradients; return the loss."""
        places = self.next_columns()
        if self.method != "auto":
            return self._accumulate(model, parameters, places)
        before = [None if p.grad is None else p.grad.clone() for p in parameters]
        self.method = "autograd"
        try:
            return self._accumulate(model, parameters, places)
        except (RuntimeError, NotImplementedError) as error:
            # no third derivative (a fused kernel) or no memory for it
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient
            self.method = "fd"
            self.notes.append(f"curvature by finite differences: {str(error).splitlines()[0][:120]}")
            return self._accumulate(model, parameters, places)

    def _accumulate(self, model: torch.nn.Module, parameters: Tensors, places: Sequence[Place]) -> float:
        gradient_of = self._differences if self.method == "fd" else self._exact
        total = 0.0
        for c in dict(places):
            rows = [k for cell, k in places if cell == c]
            total += gradient_of(model, parameters, c, rows, len(rows) / len(places))
        return total

    def block(self, model: torch.nn.Module, c: int = 0) -> int | None:
        """Return how many atoms of a cell at a time the exact derivative is taken for, None for all at once."""
        if "atom_blocks" not in self.backend.abilities:
            return None
        if c not in self._blocks:
            batch, memory = self.cells[c].batch, self.spec.curvature_memory_gb
            size = self._blocks[c] = self.backend.atoms_at_a_time(model, batch, memory)
            if size is not None:
                atoms = f"{size} of {len(batch['positions'])} atoms"
                self.notes.append(f"curvature in blocks of {atoms}, to stay within {memory:g} GB")
        return self._blocks[c]

    def _in_blocks(self, model: torch.nn.Module, c: int) -> AbstractContextManager[None]:
        size = self.block(model, c)
        return nullcontext() if size is None else self.backend.in_blocks(model, size)

    def _equilibrium(self, forces: torch.Tensor, stress: torch.Tensor | None) -> torch.Tensor:
        """Return what a perfect supercell adds by its forces and stress."""
        weight = self.spec.curvature_forces_weight
        loss = weight * forces.norm(dim=1).mean() if weight else forces.new_zeros(())
        return loss if stress is None else loss + self.spec.curvature_stress_weight * stress.abs().mean()

    def _exact(self, model: torch.nn.Module, parameters: Tensors, c: int, rows: list[int], share: float) -> float:
        cell, spec = self.cells[c], self.spec
        with self._in_blocks(model, c):
            output = self.backend.predict(model, cell.batch, stress=spec.curvature_stress_weight > 0, create_graph=True)
            numbers = [cell.columns[k] for k in rows]
            columns = reverse_columns(output.forces, output.positions, numbers, create_graph=True)
            loss = spec.curvature_weight * cell.errors(columns, rows).mean()
            loss = share * (loss + self._equilibrium(output.forces, output.stress))
            loss.backward(inputs=list(parameters))
        return float(loss.detach())

    def _differences(self, model: torch.nn.Module, parameters: Tensors, c: int, rows: list[int], share: float) -> float:
        """Take the exact gradient of the finite-difference loss with the memory of a single force step.

        The column is linear in the two sets of forces, so its values are computed first without a graph; then each
        displaced cell is differentiated alone against the known derivative of the loss.
        """
        cell, spec, total = self.cells[c], self.spec, 0.0
        step, wants_stress = spec.curvature_step, spec.curvature_stress_weight > 0
        for k in rows:
            column = cell.columns[k]
            value = difference_column(self.backend, model, cell.batch, column, step).requires_grad_(True)
            loss = share * (spec.curvature_weight * cell.errors(value[None], [k]).mean()) / len(rows)
            (slope,) = torch.autograd.grad(loss, value)
            total += float(loss.detach())
            for shift in (step, -step):
                batch = _moved(cell.batch, column, shift)
                forces = self.backend.predict(model, batch, stress=False, create_graph=True).forces
                part = (forces.reshape(-1) * slope).sum() * (-0.5 / shift)
                part.backward(inputs=list(parameters))
        if spec.curvature_forces_weight or wants_stress:
            output = self.backend.predict(model, cell.batch, stress=wants_stress, create_graph=True)
            loss = share * self._equilibrium(output.forces, output.stress)
            loss.backward(inputs=list(parameters))
            total += float(loss.detach())
        return total

    def mae(self, model: torch.nn.Module) -> float:
        """Return the weighted mean absolute error over all irreducible columns, eV/Å²."""
        with frozen(model):
            parts = [cell.errors(self._columns(model, c)) for c, cell in enumerate(self.cells)]
        return float(torch.cat(parts).mean())

    def _columns(self, model: torch.nn.Module, c: int) -> torch.Tensor:
        cell, step = self.cells[c], self.spec.curvature_step
        if self.method == "fd":
            return torch.stack([difference_column(self.backend, model, cell.batch, k, step) for k in cell.columns])
        with self._in_blocks(model, c):
            output = self.backend.predict(model, cell.batch, stress=False, create_graph=True)
            return reverse_columns(output.forces, output.positions, cell.columns, create_graph=False)
