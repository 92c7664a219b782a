"""The loss of energies, forces and stresses, and errors of a model on labelled graphs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import huber_loss

from phonosmith.potentials.backend import Backend, Predictions
from phonosmith.potentials.graphs import frozen
from phonosmith.training.documents import Errors
from phonosmith.training.graphs import LabelledBatch
from phonosmith.training.spec import TrainSpec


def efs_loss(predictions: Predictions, batch: LabelledBatch, spec: TrainSpec) -> torch.Tensor:
    """Return the loss of one batch: means over structures (energy), components (forces) and tensors (stress).

    Structures without a stress label are left out of the stress mean, dummies of a padded batch out of everything.
    Energies are compared without their atomic references, which cancel.
    """

    def huber(predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return huber_loss(predicted, label, reduction="none", delta=spec.huber_delta)

    def mean(values: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        if real is None:
            return values.mean()
        per_row = values.numel() // len(values)
        return (values * real.view(-1, *[1] * (values.ndim - 1))).sum() / (per_row * real.sum())

    if spec.energy_convention == "per_atom":
        energy = huber(predictions.interaction / batch.sizes, batch.energy / batch.sizes)
    else:
        energy = huber(predictions.interaction, batch.energy) / batch.sizes
    factor = 1.0 + (spec.replay_weight - 1.0) * batch.replay
    forces = huber(predictions.forces, batch.forces) * factor[batch.inputs["batch"]].unsqueeze(-1)
    loss = spec.energy_weight * mean(energy * factor, batch.real_graphs)
    loss = loss + spec.forces_weight * mean(forces, batch.real_atoms)
    if spec.stress_weight > 0 and predictions.stress is not None:
        # of a dummy has_stress is 0
        stress = huber(predictions.stress, batch.stress).mean(dim=(1, 2)) * factor * batch.has_stress
        loss = loss + spec.stress_weight * stress.sum() / batch.has_stress.sum().clamp(min=1.0)
    return loss


def error_sums(backend: Backend, model: torch.nn.Module, batch: LabelledBatch, spec: TrainSpec) -> torch.Tensor:
    """Return what :func:`errors_of` needs of one batch, in float64 where the batch is; sums of batches add up."""
    with frozen(model):
        return prediction_sums(backend.predict(model, batch.inputs, stress=True, create_graph=False), batch, spec)


def prediction_sums(predictions: Predictions, batch: LabelledBatch, spec: TrainSpec) -> torch.Tensor:
    """Return the same of predictions, stresses included."""
    assert predictions.stress is not None  # it was asked for
    energy = ((predictions.interaction - batch.energy) / batch.sizes).abs()
    forces = (predictions.forces - batch.forces).abs()
    # the six components that differ
    stress = (predictions.stress - batch.stress).abs().triu().sum(dim=(1, 2))
    if batch.real_graphs is not None and batch.real_atoms is not None:
        energy, forces = energy * batch.real_graphs, forces * batch.real_atoms[:, None]
    values = [
        efs_loss(predictions, batch, spec) * batch.n_graphs,
        energy.sum(),
        forces.sum(),
        (stress * batch.has_stress).sum(),
        batch.has_stress.sum(),
        batch.n_graphs,
        batch.n_atoms,
    ]
    return torch.stack([value.detach().double() for value in values])


def errors_of(sums: torch.Tensor) -> Errors:
    """Return the errors whose sums over batches these are.

    The loss is a mean over structures, so that it does not depend on how they are batched beyond the force mean
    inside a batch of unequal sizes.
    """
    loss, energy, forces, tension, tensors, graphs, atoms = sums.tolist()
    return Errors(
        loss=loss / graphs,
        n_structures=round(graphs),
        mae_energy_mev_per_atom=1000 * energy / graphs,
        mae_forces_mev_per_angstrom=1000 * forces / (3 * atoms),
        mae_stress_mev_per_angstrom3=1000 * tension / (6 * tensors) if tensors else None,
    )


def errors(backend: Backend, model: torch.nn.Module, batches: Sequence[LabelledBatch], spec: TrainSpec) -> Errors:
    """Evaluate a model on batches."""
    first, *others = (error_sums(backend, model, batch, spec) for batch in batches)
    return errors_of(sum(others, start=first))
