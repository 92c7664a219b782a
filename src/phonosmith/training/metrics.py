"""Errors of a model on labelled graphs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.training.graphs import Batch, fresh
from phonosmith.training.losses import LossTerms, efs_loss
from phonosmith.training.models import frozen


class Errors(Document):
    """Mean absolute errors over one split."""

    mae_energy_mev_per_atom: float = Field(description="mean |dE|/n over structures, meV/atom")
    mae_forces_mev_per_angstrom: float = Field(description="mean |dF| over Cartesian components, meV/Å")
    mae_stress_mev_per_angstrom3: float | None = Field(
        None, description="mean |dS| over the six components of labelled structures, meV/Å³"
    )
    loss: float = Field(description="training loss averaged over structures, weights included")
    n_structures: int = Field(description="structures in the split")


def errors(model: torch.nn.Module, batches: Sequence[Batch], terms: LossTerms) -> Errors:
    """Evaluate a model on batches.

    The loss is a mean over structures, so that it does not depend on how they are batched beyond the force mean
    inside a batch of unequal sizes.
    """
    sums = torch.zeros(7, dtype=torch.float64)
    with frozen(model):
        for batch in batches:
            output = model(fresh(batch), training=False, compute_stress=True)
            sums += _sums(output, batch, terms)
    loss, graphs, energy, forces, components, stress, tensors = sums.tolist()
    return Errors(
        loss=loss / graphs,
        n_structures=round(graphs),
        mae_energy_mev_per_atom=1000 * energy / graphs,
        mae_forces_mev_per_angstrom=1000 * forces / components,
        mae_stress_mev_per_angstrom3=1000 * stress / (6 * tensors) if tensors else None,
    )


def _sums(output: dict[str, torch.Tensor], batch: Batch, terms: LossTerms) -> torch.Tensor:
    count = len(batch["energy"])
    voigt = torch.tensor([0, 4, 8, 5, 2, 1], device=batch["energy"].device)
    energy = ((output["interaction_energy"] - batch["energy"]) / batch["n_atoms"]).abs().sum()
    forces = (output["forces"] - batch["forces"]).abs().sum()
    stress = ((output["stress"] - batch["stress"]).reshape(count, 9)[:, voigt].abs().sum(dim=1)) * batch["has_stress"]
    values = [
        efs_loss(output, batch, terms) * count,
        energy.new_tensor(count),
        energy,
        forces,
        energy.new_tensor(batch["forces"].numel()),
        stress.sum(),
        batch["has_stress"].sum(),
    ]
    return torch.stack([value.detach().to(torch.float64).cpu() for value in values])
