"""Hessian columns of a model, by autograd or by finite differences, and the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from phonosmith.training.blocks import block_size, in_blocks
from phonosmith.training.graphs import Batch, fresh
from phonosmith.training.models import frozen


def hessian_columns(
    model: torch.nn.Module,
    batch: Batch,
    columns: Sequence[int],
    *,
    create_graph: bool = False,
    method: Literal["autograd", "fd"] = "autograd",
    step: float = 1e-3,
) -> torch.Tensor:
    """Return columns of the model's Hessian, eV/Å², shape (len(columns), 3n).

    Parameters
    ----------
    model, batch
        Model and one collated structure (built with a margin on the cutoff for ``fd``).
    columns
        Column 3i+a is the response to moving atom i along a.
    create_graph
        Keep the graph for a gradient with respect to parameters.
    method
        ``autograd``: second reverse pass through one force graph shared by all columns;
        ``fd``: central difference of forces, for models that cannot be differentiated three times.
    step
        Displacement of the central difference, Å.
    """
    if method == "fd":
        return torch.stack([_difference(model, batch, column, step, create_graph) for column in columns])
    data = fresh(batch)
    positions = data["positions"]
    forces = model(data, training=True, compute_stress=False)["forces"]
    return _reverse_columns(forces, positions, columns, create_graph=create_graph)


def _reverse_columns(
    forces: torch.Tensor, positions: torch.Tensor, columns: Sequence[int], *, create_graph: bool
) -> torch.Tensor:
    found = []
    for column in columns:
        probe = torch.zeros_like(forces)
        probe.view(-1)[column] = -1.0
        (response,) = torch.autograd.grad(
            forces, positions, grad_outputs=probe, create_graph=create_graph, retain_graph=True
        )
        found.append(response.reshape(-1))
    return torch.stack(found)


def _moved(batch: Batch, column: int, shift: float) -> Batch:
    data = fresh(batch)
    data["positions"].view(-1)[column] += shift
    return data


def _difference(model: torch.nn.Module, batch: Batch, column: int, step: float, create_graph: bool) -> torch.Tensor:
    plus = model(_moved(batch, column, step), training=create_graph)["forces"]
    minus = model(_moved(batch, column, -step), training=create_graph)["forces"]
    return (minus - plus).reshape(-1) / (2 * step)


@dataclass
class CurvatureTerm:
    """The curvature part of a loss: which columns come next, how their gradient is taken.

    Attributes
    ----------
    batch
        The perfect supercell, collated alone in the training precision.
    reference
        Reference columns, shape (len(columns), 3n), eV/Å².
    columns, column_weights
        Irreducible columns in the order they are cycled.
    weight, forces_weight, stress_weight
        Of the column MAE, the mean force norm and the mean absolute stress of the perfect supercell.
    per_step
        Columns per step.
    method, step
        See :func:`hessian_columns`; ``auto`` becomes definite at the first step.
    memory_gb
        Memory an exact step may take, GB: above it, it is taken in blocks of atoms (None: never).
    used
        Columns used so far; with it a resumed training goes on where it was.
    """

    batch: Batch
    reference: torch.Tensor
    columns: tuple[int, ...]
    column_weights: torch.Tensor
    weight: float
    forces_weight: float = 0.0
    stress_weight: float = 0.0
    per_step: int = 1
    method: str = "auto"
    step: float = 0.01
    memory_gb: float | None = None
    used: int = 0
    notes: list[str] = field(default_factory=list)
    _block: int | None = None
    _sized: bool = False

    def next_columns(self) -> list[int]:
        """Return the positions (in ``columns``) of the next columns, cycling."""
        count = min(self.per_step, len(self.columns))
        chosen = [(self.used + k) % len(self.columns) for k in range(count)]
        self.used += count
        return chosen

    def accumulate(self, model: torch.nn.Module, parameters: Sequence[torch.Tensor]) -> float:
        """Add the gradient of the next columns' loss to the parameters' gradients; return the loss."""
        chosen = self.next_columns()
        if self.method == "auto":
            return self._try_autograd(model, parameters, chosen)
        run = self._finite if self.method == "fd" else self._autograd
        return run(model, parameters, chosen)

    def _try_autograd(self, model: torch.nn.Module, parameters: Sequence[torch.Tensor], chosen: Sequence[int]) -> float:
        before = [None if p.grad is None else p.grad.clone() for p in parameters]
        try:
            value = self._autograd(model, parameters, chosen)
        except (RuntimeError, NotImplementedError) as error:
            # no third derivative (a fused kernel) or no memory for it
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient
            self.method = "fd"
            self.notes.append(f"curvature by finite differences: {str(error).splitlines()[0][:120]}")
            return self._finite(model, parameters, chosen)
        self.method = "autograd"
        return value

    def block(self, model: torch.nn.Module) -> int | None:
        """Return how many atoms at a time the exact derivative is taken, None for all at once."""
        if not self._sized and self.memory_gb is not None:
            self._block, self._sized = block_size(model, self.batch, self.memory_gb), True
            if self._block is not None:
                self.notes.append(
                    f"curvature in blocks of {self._block} of {len(self.batch['positions'])} atoms, "
                    f"to stay within {self.memory_gb:g} GB"
                )
        return self._block

    def _equilibrium(self, forces: torch.Tensor, stress: torch.Tensor | None) -> torch.Tensor:
        loss = self.forces_weight * forces.norm(dim=1).mean() if self.forces_weight else forces.new_zeros(())
        if stress is not None and self.stress_weight:
            loss = loss + self.stress_weight * stress.abs().mean()
        return loss

    def _error(self, columns: torch.Tensor, chosen: Sequence[int]) -> torch.Tensor:
        difference = (columns - self.reference[list(chosen)]).abs().mean(dim=1)
        return self.weight * (difference * self.column_weights[list(chosen)]).mean()

    def _autograd(self, model: torch.nn.Module, parameters: Sequence[torch.Tensor], chosen: Sequence[int]) -> float:
        data = fresh(self.batch)
        positions = data["positions"]
        with in_blocks(model, self.block(model)):
            output = model(data, training=True, compute_stress=self.stress_weight > 0)
            numbers = [self.columns[k] for k in chosen]
            found = _reverse_columns(output["forces"], positions, numbers, create_graph=True)
            loss = self._error(found, chosen) + self._equilibrium(output["forces"], output["stress"])
            loss.backward(inputs=list(parameters))
        return float(loss.detach())

    def _finite(self, model: torch.nn.Module, parameters: Sequence[torch.Tensor], chosen: Sequence[int]) -> float:
        """Take the exact gradient of the finite-difference loss with the memory of a single force step.

        The column is linear in the two sets of forces, so its values are computed first without a graph; then each
        displaced cell is differentiated alone against the known derivative of the loss.
        """
        total = 0.0
        for k in chosen:
            column = self.columns[k]
            value = _difference(model, self.batch, column, self.step, create_graph=False).detach().requires_grad_(True)
            loss = self._error(value[None], [k]) / len(chosen)
            (slope,) = torch.autograd.grad(loss, value)
            total += float(loss.detach())
            for sign in (1.0, -1.0):
                forces = model(_moved(self.batch, column, sign * self.step), training=True)["forces"]
                part = (forces.reshape(-1) * slope).sum() * (-sign / (2 * self.step))
                part.backward(inputs=list(parameters))
        if self.forces_weight or self.stress_weight:
            output = model(fresh(self.batch), training=True, compute_stress=self.stress_weight > 0)
            loss = self._equilibrium(output["forces"], output["stress"])
            loss.backward(inputs=list(parameters))
            total += float(loss.detach())
        return total

    def mae(self, model: torch.nn.Module) -> float:
        """Return the weighted mean absolute error over all irreducible columns, eV/Å²."""
        method: Literal["autograd", "fd"] = "fd" if self.method == "fd" else "autograd"
        with frozen(model), in_blocks(model, None if method == "fd" else self.block(model)):
            found = torch.stack(
                [
                    hessian_columns(model, self.batch, [column], method=method, step=self.step)[0].detach()
                    for column in self.columns
                ]
            )
        errors = (found - self.reference).abs().mean(dim=1) * self.column_weights
        return float(errors.mean())
