"""Loss terms: Huber energies, forces and stresses; mean absolute error of Hessian columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from phonosmith.training.graphs import Batch
from phonosmith.training.spec import TrainSpec


@dataclass(frozen=True)
class LossTerms:
    """Weights and conventions of the energy, force and stress loss.

    Attributes
    ----------
    energy, forces, stress
        Weights.
    delta
        Huber threshold (eV, eV/Å, eV/Å³).
    convention
        ``per_atom``: Huber of the energy difference divided by the number of atoms, as MACE does it;
        ``per_cell``: Huber of the total energy difference, then divided by the number of atoms, as Equitrain does.
    replay
        Factor on replay structures.
    """

    energy: float = 10.0
    forces: float = 100.0
    stress: float = 1000.0
    delta: float = 0.01
    convention: str = "per_atom"
    replay: float = 1.0

    @classmethod
    def of(cls, spec: TrainSpec) -> LossTerms:
        """Take the weights of a strategy."""
        return cls(
            spec.energy_weight,
            spec.forces_weight,
            spec.stress_weight,
            spec.huber_delta,
            spec.energy_convention,
            spec.replay_weight,
        )


def efs_loss(output: Mapping[str, torch.Tensor], batch: Batch, terms: LossTerms) -> torch.Tensor:
    """Return the loss of one batch: means over structures (energy), components (forces) and tensors (stress).

    Structures without a stress label are left out of the stress mean. Energies are compared without their atomic
    references, which cancel.
    """
    factor = None
    if terms.replay != 1.0:
        factor = 1.0 + (terms.replay - 1.0) * batch["replay"]
    loss = terms.energy * _energy_huber(output["interaction_energy"], batch, terms, factor)
    forces = torch.nn.functional.huber_loss(output["forces"], batch["forces"], reduction="none", delta=terms.delta)
    if factor is not None:
        forces = forces * factor[batch["batch"]].unsqueeze(-1)
    loss = loss + terms.forces * forces.mean()
    if terms.stress > 0:
        stress = torch.nn.functional.huber_loss(output["stress"], batch["stress"], reduction="none", delta=terms.delta)
        per_tensor = stress.mean(dim=(1, 2))
        if factor is not None:
            per_tensor = per_tensor * factor
        labelled = batch["has_stress"]
        loss = loss + terms.stress * (per_tensor * labelled).sum() / labelled.sum().clamp(min=1.0)
    return loss


def _energy_huber(energy: torch.Tensor, batch: Batch, terms: LossTerms, factor: torch.Tensor | None) -> torch.Tensor:
    n_atoms = batch["n_atoms"]
    if terms.convention == "per_atom":
        per_graph = torch.nn.functional.huber_loss(
            energy / n_atoms, batch["energy"] / n_atoms, reduction="none", delta=terms.delta
        )
    else:
        per_graph = (
            torch.nn.functional.huber_loss(energy, batch["energy"], reduction="none", delta=terms.delta) / n_atoms
        )
    return (per_graph if factor is None else per_graph * factor).mean()


def column_mae(columns: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean absolute error of Hessian columns, eV/Å²; optional weights per column have mean one."""
    error = (columns - reference).abs()
    return error.mean() if weights is None else (error.mean(dim=1) * weights).mean()
