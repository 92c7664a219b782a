"""Hessian columns of a model, by autograd or by finite differences, and the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from phonosmith.potentials.backend import Backend
from phonosmith.potentials.graphs import frozen
from phonosmith.potentials.hessian import reverse_columns
from phonosmith.training.spec import TrainSpec

if TYPE_CHECKING:
    from phonosmith.potentials.backend import Predictions
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
    places = torch.as_tensor(column, device=positions.device).reshape(-1)
    positions.view(-1).index_add_(0, places, positions.new_full((len(places),), shift))
    return batch | {"positions": positions}


@dataclass(frozen=True)
class Columns:
    """Reference columns of one crystal in a batch.

    Attributes
    ----------
    numbers
        Of the columns, counted over all coordinates of the batch.
    reference
        Their values in the crystal's own coordinates, eV/Å², shape (len(numbers), 3n).
    weights
        One per column, mean one.
    """

    numbers: torch.Tensor
    reference: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class CurvatureCell:
    """A perfect supercell, or several of different crystals in one batch: their Hessian has no elements between them.

    Attributes
    ----------
    batch
        In the training precision (with a margin on the cutoff for differences).
    members
        Reference columns of each crystal.
    energy
        Reference energies without atomic energies, eV, shape (crystals,), where they are to be learnt.
    """

    batch: Batch
    members: tuple[Columns, ...]
    energy: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return how many columns every crystal has at least."""
        return min(len(one.numbers) for one in self.members)

    @property
    def all_rows(self) -> torch.Tensor:
        """Rows that name all columns in their order (of several crystals: those all have)."""
        places = torch.arange(len(self), device=self.members[0].numbers.device)
        return places[:, None].expand(-1, len(self.members))

    def numbers(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the columns that ``rows`` (one column of each crystal, shape (k, crystals)) names, in that shape."""
        return torch.stack([one.numbers[rows[:, m]] for m, one in enumerate(self.members)], dim=1)

    def errors(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean absolute error of each row of columns, eV/Å², a mean over all coordinates."""
        parts = values.split([one.reference.shape[1] for one in self.members], dim=1)
        wrong = [
            (part - one.reference[rows[:, m]]).abs() * one.weights[rows[:, m], None]
            for m, (part, one) in enumerate(zip(parts, self.members, strict=True))
        ]
        return torch.cat(wrong, dim=1).mean(dim=1)

    def with_volume(self) -> CurvatureCell:
        """Return the cell with its volume in the batch, so that no backend takes a determinant, which waits."""
        volume = self.batch["cell"].view(-1, 3, 3).cpu().double().det().abs()
        return replace(self, batch=self.batch | {"volume": volume.to(self.batch["cell"])})


Choice = dict[int, "torch.Tensor"]
"""Columns of one step: for every cell that takes part, rows with one of the columns of each of its crystals."""
Pattern = tuple[tuple[int, int], ...]
"""The cells of a choice, and how many rows of each: steps of one pattern are the same operations."""


@dataclass
class CurvatureTerm:
    """The curvature part of a loss: which columns come next, how their gradient is taken.

    Attributes
    ----------
    cells
        Supercells; several take turns.
    spec
        Its ``curvature_`` settings.
    used
        Columns (``curvature_sampling=uniform``: draws) used so far; with it a resumed training goes on where it was.
    seed
        Of the draws.
    method
        That of the settings; ``auto`` becomes definite at the first step.
    """

    backend: Backend
    cells: Sequence[CurvatureCell]
    spec: TrainSpec
    used: int = 0
    seed: int = 0
    method: str = field(init=False)
    notes: list[str] = field(default_factory=list)
    _blocks: dict[int, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.method = self.spec.curvature_method

    @cached_property
    def _cycle(self) -> list[tuple[int, int]]:
        places = [(c, k) for c, cell in enumerate(self.cells) for k in range(len(cell))]
        return sorted(places, key=lambda place: place[1])

    def _rows_at(self, used: int) -> dict[int, list[list[int]]]:
        """Return the rows of a step, cell by cell, as a function of what was used before."""
        if self.spec.curvature_sampling == "uniform":
            return self._drawn_at(used)
        count = min(self.spec.curvature_columns, len(self._cycle))
        chosen: dict[int, list[list[int]]] = {}
        for c, k in (self._cycle[(used + further) % len(self._cycle)] for further in range(count)):
            chosen.setdefault(c, []).append([k] * len(self.cells[c].members))
        return chosen

    def _drawn_at(self, used: int) -> dict[int, list[list[int]]]:
        """Draw columns of every crystal of one cell; each cell has its turn, in another order every time."""
        turn, place = divmod(used, len(self.cells))
        c = int(np.random.default_rng([self.seed, 17, turn]).permutation(len(self.cells))[place])
        generator = np.random.default_rng([self.seed, 19, used])
        count = min(self.spec.curvature_columns, len(self.cells[c]))
        sizes = [len(one.numbers) for one in self.cells[c].members]
        drawn = [generator.choice(size, count, replace=False).tolist() for size in sizes]
        return {c: [list(row) for row in zip(*drawn, strict=True)]}

    def next_rows(self) -> dict[int, list[list[int]]]:
        """Return the rows of the next step.

        Cycled columns are the first of every cell, then the second ones, and so on.
        """
        rows = self._rows_at(self.used)
        self.used += 1 if self.spec.curvature_sampling == "uniform" else sum(map(len, rows.values()))
        return rows

    def choice(self, rows: dict[int, list[list[int]]]) -> Choice:
        """Return rows as tensors on the device, without waiting for it."""
        device = self.cells[0].members[0].reference.device
        return {c: torch.tensor(some).to(device, non_blocking=True) for c, some in rows.items()}

    def choices(self) -> dict[Pattern, Choice]:
        """Return one choice of every pattern that will come."""
        if self.spec.curvature_sampling == "uniform":
            steps = range(len(self.cells))
        else:
            count = min(self.spec.curvature_columns, len(self._cycle))
            steps = range(0, count * len(self._cycle), count)
        found = (self.choice(self._rows_at(used)) for used in steps)
        return {pattern_of(choice): choice for choice in found}

    def accumulate(self, model: torch.nn.Module, parameters: Tensors, choice: Choice | None = None) -> torch.Tensor:
        """Add the gradient of some columns' loss (default: the next) to the parameters' gradients; return the loss."""
        chosen = self.choice(self.next_rows()) if choice is None else choice
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

    def _equilibrium(self, cell: CurvatureCell, output: Predictions) -> torch.Tensor:
        """Return what perfect supercells add by their energies, forces and stresses."""
        spec, forces, stress = self.spec, output.forces, output.stress
        loss = forces.new_zeros(())
        if spec.curvature_forces_weight:
            loss = loss + spec.curvature_forces_weight * forces.norm(dim=1).mean()
        if stress is not None:
            loss = loss + spec.curvature_stress_weight * stress.abs().mean()
        if cell.energy is not None and spec.curvature_energy_weight:
            # counted without waiting for the device
            sizes = torch.zeros_like(cell.energy).index_add_(0, cell.batch["batch"], torch.ones_like(forces[:, 0]))
            loss = loss + spec.curvature_energy_weight * ((output.interaction - cell.energy) / sizes).abs().mean()
        return loss

    def _exact(
        self, model: torch.nn.Module, parameters: Tensors, c: int, rows: torch.Tensor, share: float
    ) -> torch.Tensor:
        cell, spec = self.cells[c], self.spec
        with self._in_blocks(model, c):
            output = self.backend.predict(model, cell.batch, stress=spec.curvature_stress_weight > 0, create_graph=True)
            columns = reverse_columns(output.forces, output.positions, cell.numbers(rows), create_graph=True)
            loss = spec.curvature_weight * cell.errors(columns, rows).mean()
            loss = share * (loss + self._equilibrium(cell, output))
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
            places = cell.numbers(row)[0]
            value = difference_column(self.backend, model, cell.batch, places, step).requires_grad_(True)
            loss = share * (spec.curvature_weight * cell.errors(value[None], row).mean()) / len(rows)
            (slope,) = torch.autograd.grad(loss, value)
            losses.append(loss.detach().double())
            for shift in (step, -step):
                batch = _moved(cell.batch, places, shift)
                forces = self.backend.predict(model, batch, stress=False, create_graph=True).forces
                part = (forces.reshape(-1) * slope).sum() * (-0.5 / shift)
                part.backward(inputs=list(parameters))
        if spec.curvature_forces_weight or spec.curvature_energy_weight or wants_stress:
            output = self.backend.predict(model, cell.batch, stress=wants_stress, create_graph=True)
            loss = share * self._equilibrium(cell, output)
            loss.backward(inputs=list(parameters))
            losses.append(loss.detach().double())
        return torch.stack(losses).sum()

    def mean_error(self, model: torch.nn.Module) -> torch.Tensor:
        """Return the weighted mean absolute error over all columns, eV/Å²."""
        with frozen(model):
            parts = [cell.errors(self._columns(model, c), cell.all_rows) for c, cell in enumerate(self.cells)]
        return torch.cat(parts).detach().mean()

    def mae(self, model: torch.nn.Module) -> float:
        """Return :meth:`mean_error` as a number."""
        return float(self.mean_error(model))

    def _columns(self, model: torch.nn.Module, c: int) -> torch.Tensor:
        cell, step = self.cells[c], self.spec.curvature_step
        places = cell.numbers(cell.all_rows)
        if self.method == "fd":
            return torch.stack([difference_column(self.backend, model, cell.batch, k, step) for k in places])
        with self._in_blocks(model, c):
            output = self.backend.predict(model, cell.batch, stress=False, create_graph=True)
            return reverse_columns(output.forces, output.positions, places, create_graph=False)


def pattern_of(choice: Choice) -> Pattern:
    """Return the pattern of a choice."""
    return tuple((c, len(rows)) for c, rows in choice.items())
