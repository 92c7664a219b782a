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

if TYPE_CHECKING:
    from phonosmith.potentials.graphs import Batch


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


Place = tuple[int, int]
"""A cell, and one of its columns."""


@dataclass
class CurvatureTerm:
    """The curvature part of a loss: which columns come next, how their gradient is taken.

    Attributes
    ----------
    backend
        Of the model.
    cells
        Supercells; the columns of several take turns.
    weight, forces_weight, stress_weight
        Of the column MAE, the mean force norm and the mean absolute stress of the perfect supercell.
    per_step
        Columns per step.
    method, step
        ``autograd``, ``fd`` (central difference over ``step`` Å) or ``auto``, which becomes definite at the first step.
    memory_gb
        Memory an exact step may take, GB: above it, it is taken in blocks of atoms (None: never).
    used
        Columns used so far; with it a resumed training goes on where it was.
    """

    backend: Backend
    cells: Sequence[CurvatureCell]
    weight: float
    forces_weight: float = 0.0
    stress_weight: float = 0.0
    per_step: int = 1
    method: str = "auto"
    step: float = 0.01
    memory_gb: float | None = None
    used: int = 0
    notes: list[str] = field(default_factory=list)
    _blocks: dict[int, int | None] = field(default_factory=dict)

    @property
    def order(self) -> list[Place]:
        """All columns in the order they are cycled: the first of every cell, then the second ones, ..."""
        longest = max(len(cell.columns) for cell in self.cells)
        return [(c, k) for k in range(longest) for c, cell in enumerate(self.cells) if k < len(cell.columns)]

    def next_columns(self) -> list[Place]:
        """Return the next columns, cycling."""
        order = self.order
        count = min(self.per_step, len(order))
        places = [order[(self.used + k) % len(order)] for k in range(count)]
        self.used += count
        return places

    def accumulate(self, model: torch.nn.Module, parameters: Sequence[torch.Tensor]) -> float:
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

    def _accumulate(self, model: torch.nn.Module, parameters: Sequence[torch.Tensor], places: Sequence[Place]) -> float:
        gradient_of = self._differences if self.method == "fd" else self._exact
        by_cell: dict[int, list[int]] = {}
        for c, k in places:
            by_cell.setdefault(c, []).append(k)
        return sum(
            gradient_of(model, parameters, c, chosen, len(chosen) / len(places)) for c, chosen in by_cell.items()
        )

    def block(self, model: torch.nn.Module, c: int = 0) -> int | None:
        """Return how many atoms of a cell at a time the exact derivative is taken for, None for all at once."""
        if self.memory_gb is None or "atom_blocks" not in self.backend.abilities:
            return None
        if c not in self._blocks:
            batch = self.cells[c].batch
            size = self._blocks[c] = self.backend.atoms_at_a_time(model, batch, self.memory_gb)
            if size is not None:
                self.notes.append(
                    f"curvature in blocks of {size} of {len(batch['positions'])} atoms, "
                    f"to stay within {self.memory_gb:g} GB"
                )
        return self._blocks[c]

    def _in_blocks(self, model: torch.nn.Module, c: int) -> AbstractContextManager[None]:
        size = self.block(model, c)
        return nullcontext() if size is None else self.backend.in_blocks(model, size)

    def _error(self, columns: torch.Tensor, c: int, chosen: Sequence[int]) -> torch.Tensor:
        cell, rows = self.cells[c], list(chosen)
        difference = (columns - cell.reference[rows]).abs().mean(dim=1)
        return self.weight * (difference * cell.weights[rows]).mean()

    def _equilibrium(self, forces: torch.Tensor, stress: torch.Tensor | None) -> torch.Tensor:
        loss = self.forces_weight * forces.norm(dim=1).mean() if self.forces_weight else forces.new_zeros(())
        if stress is not None and self.stress_weight:
            loss = loss + self.stress_weight * stress.abs().mean()
        return loss

    def _exact(
        self,
        model: torch.nn.Module,
        parameters: Sequence[torch.Tensor],
        c: int,
        chosen: Sequence[int],
        share: float,
    ) -> float:
        cell = self.cells[c]
        with self._in_blocks(model, c):
            output = self.backend.predict(model, cell.batch, stress=self.stress_weight > 0, create_graph=True)
            numbers = [cell.columns[k] for k in chosen]
            columns = reverse_columns(output.forces, output.positions, numbers, create_graph=True)
            loss = share * (self._error(columns, c, chosen) + self._equilibrium(output.forces, output.stress))
            loss.backward(inputs=list(parameters))
        return float(loss.detach())

    def _differences(
        self,
        model: torch.nn.Module,
        parameters: Sequence[torch.Tensor],
        c: int,
        chosen: Sequence[int],
        share: float,
    ) -> float:
        """Take the exact gradient of the finite-difference loss with the memory of a single force step.

        The column is linear in the two sets of forces, so its values are computed first without a graph; then each
        displaced cell is differentiated alone against the known derivative of the loss.
        """
        cell, total = self.cells[c], 0.0
        for k in chosen:
            column = cell.columns[k]
            value = difference_column(self.backend, model, cell.batch, column, self.step).requires_grad_(True)
            loss = share * self._error(value[None], c, [k]) / len(chosen)
            (slope,) = torch.autograd.grad(loss, value)
            total += float(loss.detach())
            for sign in (1.0, -1.0):
                batch = _moved(cell.batch, column, sign * self.step)
                forces = self.backend.predict(model, batch, stress=False, create_graph=True).forces
                part = (forces.reshape(-1) * slope).sum() * (-sign / (2 * self.step))
                part.backward(inputs=list(parameters))
        if self.forces_weight or self.stress_weight:
            output = self.backend.predict(model, cell.batch, stress=self.stress_weight > 0, create_graph=True)
            loss = share * self._equilibrium(output.forces, output.stress)
            loss.backward(inputs=list(parameters))
            total += float(loss.detach())
        return total

    def mae(self, model: torch.nn.Module) -> float:
        """Return the weighted mean absolute error over all irreducible columns, eV/Å²."""
        with frozen(model):
            parts = [
                (self._columns(model, c) - cell.reference).abs().mean(dim=1) * cell.weights
                for c, cell in enumerate(self.cells)
            ]
        return float(torch.cat(parts).mean())

    def _columns(self, model: torch.nn.Module, c: int) -> torch.Tensor:
        cell = self.cells[c]
        if self.method == "fd":
            rows = [difference_column(self.backend, model, cell.batch, column, self.step) for column in cell.columns]
            return torch.stack(rows)
        with self._in_blocks(model, c):
            output = self.backend.predict(model, cell.batch, stress=False, create_graph=True)
            return reverse_columns(output.forces, output.positions, cell.columns, create_graph=False)
