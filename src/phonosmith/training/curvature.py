"""Hessian columns of a model, by autograd or by finite differences, and the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from phonosmith.potentials.backend import Backend
from phonosmith.potentials.graphs import frozen
from phonosmith.potentials.hessian import reverse_columns
from phonosmith.training.spec import TrainSpec

if TYPE_CHECKING:
    from phonosmith.potentials.graphs import Batch

    Tensors = Sequence[torch.Tensor]


def difference_column(
    backend: Backend, model: torch.nn.Module, batch: Batch, column: int | torch.Tensor, step: float
) -> torch.Tensor:
    """Return a Hessian column, eV/Å², by a central difference of forces over ``step`` (Å) at fixed neighbours."""
    plus, minus = (
        backend.predict(model, _moved(batch, column, shift), stress=False, create_graph=False).forces.detach()
        for shift in (step, -step)
    )
    return (minus - plus).reshape(-1) / (2 * step)


def _moved(batch: Batch, column: int | torch.Tensor, shift: float) -> Batch:
    positions = batch["positions"].clone()
    place = torch.as_tensor(column, device=positions.device).reshape(1)
    positions.view(-1).index_add_(0, place, positions.new_full((1,), shift))
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

    @cached_property
    def numbers(self) -> torch.Tensor:
        """``columns`` as a tensor on the device."""
        return torch.tensor(self.columns, device=self.reference.device)

    def errors(self, values: torch.Tensor, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Return the weighted mean absolute error of each of some columns (by default all), eV/Å²."""
        return (values - self.reference[rows]).abs().mean(dim=1) * self.weights[rows]

    def with_volume(self) -> CurvatureCell:
        """Return the cell with its volume in the batch, so that no backend takes a determinant, which waits."""
        volume = self.batch["cell"].view(-1, 3, 3).cpu().double().det().abs()
        return replace(self, batch=self.batch | {"volume": volume.to(self.batch["cell"])})


Place = tuple[int, int]
"""A cell, and one of its columns."""
Choice = dict[int, "torch.Tensor"]
"""Columns of one step: for every cell that takes part, which of its columns."""
Pattern = tuple[tuple[int, int], ...]
"""The cells of a choice, and how many of the columns of each: steps of one pattern are the same operations."""


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
    _rows: dict[tuple[int, tuple[int, ...]], torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.method = self.spec.curvature_method

    @cached_property
    def _cycle(self) -> list[Place]:
        places = [(c, k) for c, cell in enumerate(self.cells) for k in range(len(cell.columns))]
        return sorted(places, key=lambda place: place[1])

    def _columns_at(self, used: int) -> list[Place]:
        count = min(self.spec.curvature_columns, len(self._cycle))
        return [self._cycle[(used + k) % len(self._cycle)] for k in range(count)]

    def next_columns(self) -> list[Place]:
        """Return the next columns, cycling: the first of every cell, then the second ones, ..."""
        following = self._columns_at(self.used)
        self.used += len(following)
        return following

    def choice(self, places: Sequence[Place]) -> Choice:
        """Return columns as tensors on the device; what was asked for once is there already."""
        chosen = {}
        for c in dict(places):
            rows = tuple(k for cell, k in places if cell == c)
            if (c, rows) not in self._rows:
                self._rows[c, rows] = torch.tensor(rows, device=self.cells[c].reference.device)
            chosen[c] = self._rows[c, rows]
        return chosen

    def choices(self) -> dict[Pattern, Choice]:
        """Return one choice of every pattern that will come."""
        count = min(self.spec.curvature_columns, len(self._cycle))
        found = (self.choice(self._columns_at(count * step)) for step in range(len(self._cycle)))
        return {pattern_of(choice): choice for choice in found}

    def accumulate(self, model: torch.nn.Module, parameters: Tensors, choice: Choice | None = None) -> torch.Tensor:
        """Add the gradient of some columns' loss (default: the next) to the parameters' gradients; return the loss."""
        chosen = self.choice(self.next_columns()) if choice is None else choice
        if self.method != "auto":
            return self._accumulate(model, parameters, chosen)
        before = [None if p.grad is None else p.grad.clone() for p in parameters]
        self.method = "autograd"
        try:
            return self._accumulate(model, parameters, chosen)
        except (RuntimeError, NotImplementedError) as error:
            # no third derivative (a fused kernel) or no memory for it, which a handled error holds until it is left
            reason = str(error).splitlines()[0][:120]
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
        self.method = "fd"
        self.notes.append(f"curvature by finite differences: {reason}")
        return self._accumulate(model, parameters, chosen)

    def _accumulate(self, model: torch.nn.Module, parameters: Tensors, choice: Choice) -> torch.Tensor:
        gradient_of = self._differences if self.method == "fd" else self._exact
        count = sum(len(rows) for rows in choice.values())
        parts = [gradient_of(model, parameters, c, rows, len(rows) / count) for c, rows in choice.items()]
        return torch.stack(parts).sum()

    def needs_blocks(self, model: torch.nn.Module) -> bool:
        """Tell whether the exact derivative of some cell is taken in blocks of atoms."""
        return self.method != "fd" and any(self.block(model, c) is not None for c in range(len(self.cells)))

    def without_waiting(self) -> CurvatureTerm:
        """Return the term with the volumes of its cells known, for steps that may not wait for the device."""
        return replace(self, cells=[cell.with_volume() for cell in self.cells])

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

    def _exact(
        self, model: torch.nn.Module, parameters: Tensors, c: int, rows: torch.Tensor, share: float
    ) -> torch.Tensor:
        cell, spec = self.cells[c], self.spec
        with self._in_blocks(model, c):
            output = self.backend.predict(model, cell.batch, stress=spec.curvature_stress_weight > 0, create_graph=True)
            columns = reverse_columns(output.forces, output.positions, cell.numbers[rows], create_graph=True)
            loss = spec.curvature_weight * cell.errors(columns, rows).mean()
            loss = share * (loss + self._equilibrium(output.forces, output.stress))
            loss.backward(inputs=list(parameters))
        return loss.detach().double()

    def _differences(
        self, model: torch.nn.Module, parameters: Tensors, c: int, rows: torch.Tensor, share: float
    ) -> torch.Tensor:
        """Take the exact gradient of the finite-difference loss with the memory of a single force step.

        The column is linear in the two sets of forces, so its values are computed first without a graph; then each
        displaced cell is differentiated alone against the known derivative of the loss.
        """
        cell, spec, losses = self.cells[c], self.spec, []
        step, wants_stress = spec.curvature_step, spec.curvature_stress_weight > 0
        for row in rows.split(1):
            column = cell.numbers[row]
            value = difference_column(self.backend, model, cell.batch, column, step).requires_grad_(True)
            loss = share * (spec.curvature_weight * cell.errors(value[None], row).mean()) / len(rows)
            (slope,) = torch.autograd.grad(loss, value)
            losses.append(loss.detach().double())
            for shift in (step, -step):
                batch = _moved(cell.batch, column, shift)
                forces = self.backend.predict(model, batch, stress=False, create_graph=True).forces
                part = (forces.reshape(-1) * slope).sum() * (-0.5 / shift)
                part.backward(inputs=list(parameters))
        if spec.curvature_forces_weight or wants_stress:
            output = self.backend.predict(model, cell.batch, stress=wants_stress, create_graph=True)
            loss = share * self._equilibrium(output.forces, output.stress)
            loss.backward(inputs=list(parameters))
            losses.append(loss.detach().double())
        return torch.stack(losses).sum()

    def mean_error(self, model: torch.nn.Module) -> torch.Tensor:
        """Return the weighted mean absolute error over all irreducible columns, eV/Å²."""
        with frozen(model):
            parts = [cell.errors(self._columns(model, c)) for c, cell in enumerate(self.cells)]
        return torch.cat(parts).detach().mean()

    def mae(self, model: torch.nn.Module) -> float:
        """Return :meth:`mean_error` as a number."""
        return float(self.mean_error(model))

    def _columns(self, model: torch.nn.Module, c: int) -> torch.Tensor:
        cell, step = self.cells[c], self.spec.curvature_step
        if self.method == "fd":
            columns = cell.numbers.split(1)
            return torch.stack([difference_column(self.backend, model, cell.batch, k, step) for k in columns])
        with self._in_blocks(model, c):
            output = self.backend.predict(model, cell.batch, stress=False, create_graph=True)
            return reverse_columns(output.forces, output.positions, cell.numbers, create_graph=False)


def pattern_of(choice: Choice) -> Pattern:
    """Return the pattern of a choice."""
    return tuple((c, len(rows)) for c, rows in choice.items())
