"""The loss of energies, forces and stresses, and errors of a model on labelled graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import huber_loss

from phonosmith.potentials.backend import Backend, Predictions
from phonosmith.potentials.graphs import frozen
from phonosmith.training.documents import Errors
from phonosmith.training.graphs import LabelledBatch
from phonosmith.training.spec import TrainSpec

_VOIGT = [0, 4, 8, 5, 2, 1]
"""Places of xx yy zz yz xz xy in a flattened 3x3 tensor."""


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


def efs_loss(predictions: Predictions, batch: LabelledBatch, terms: LossTerms) -> torch.Tensor:
    """Return the loss of one batch: means over structures (energy), components (forces) and tensors (stress).

    Structures without a stress label are left out of the stress mean. Energies are compared without their atomic
    references, which cancel.
    """

    def huber(predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return huber_loss(predicted, label, reduction="none", delta=terms.delta)

    if terms.convention == "per_atom":
        energy = huber(predictions.interaction / batch.sizes, batch.energy / batch.sizes)
    else:
        energy = huber(predictions.interaction, batch.energy) / batch.sizes
    forces = huber(predictions.forces, batch.forces)
    factor = None
    if terms.replay != 1.0:
        factor = 1.0 + (terms.replay - 1.0) * batch.replay
        energy, forces = energy * factor, forces * factor[batch.inputs["batch"]].unsqueeze(-1)
    loss = terms.energy * energy.mean()
    loss = loss + terms.forces * forces.mean()
    if terms.stress > 0 and predictions.stress is not None:
        stress = huber(predictions.stress, batch.stress).mean(dim=(1, 2))
        if factor is not None:
            stress = stress * factor
        loss = loss + terms.stress * (stress * batch.has_stress).sum() / batch.has_stress.sum().clamp(min=1.0)
    return loss


def errors(backend: Backend, model: torch.nn.Module, batches: Sequence[LabelledBatch], terms: LossTerms) -> Errors:
    """Evaluate a model on batches.

    The loss is a mean over structures, so that it does not depend on how they are batched beyond the force mean
    inside a batch of unequal sizes.
    """
    sums = torch.zeros(7, dtype=torch.float64)
    with frozen(model):
        for batch in batches:
            predictions = backend.predict(model, batch.inputs, stress=True, create_graph=False)
            sums += _sums(predictions, batch, terms)
    loss, graphs, energy, forces, components, stress, tensors = sums.tolist()
    return Errors(
        loss=loss / graphs,
        n_structures=round(graphs),
        mae_energy_mev_per_atom=1000 * energy / graphs,
        mae_forces_mev_per_angstrom=1000 * forces / components,
        mae_stress_mev_per_angstrom3=1000 * stress / (6 * tensors) if tensors else None,
    )


def _sums(predictions: Predictions, batch: LabelledBatch, terms: LossTerms) -> torch.Tensor:
    count = len(batch.energy)
    energy = ((predictions.interaction - batch.energy) / batch.sizes).abs().sum()
    forces = (predictions.forces - batch.forces).abs().sum()
    stress = energy.new_zeros(())
    if predictions.stress is not None:
        components = (predictions.stress - batch.stress).reshape(count, 9)[:, _VOIGT]
        stress = (components.abs().sum(dim=1) * batch.has_stress).sum()
    values = [
        efs_loss(predictions, batch, terms) * count,
        energy.new_tensor(count),
        energy,
        forces,
        energy.new_tensor(batch.forces.numel()),
        stress,
        batch.has_stress.sum(),
    ]
    return torch.stack([value.detach().to(torch.float64).cpu() for value in values])
