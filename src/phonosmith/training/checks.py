"""Whether training did what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from phonosmith.training.documents import CurvatureErrors, SplitErrors, TrainingChecks
from phonosmith.training.models import block_names, parameter_block
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import first_trainable_block


def changes(before: torch.nn.Module, after: torch.nn.Module) -> tuple[int, float, float, dict[str, int]]:
    """Compare two models of the same architecture, parameter by parameter.

    Returns
    -------
    int, float, float, dict
        Changed parameters, Euclidean norm of the change, that norm relative to the first model's, and the number of
        changed parameters by block (``other`` for parameters outside every block).
    """
    names = block_names(after)
    by_block = dict.fromkeys(names, 0)
    old = dict(before.named_parameters())
    count, square, scale = 0, 0.0, 0.0
    for name, parameter in after.named_parameters():
        new = parameter.detach().double()
        reference = old[name].detach().double()
        changed = int((new != reference).sum())
        index = parameter_block(after, name)
        key = "other" if index is None else names[index]
        if changed or key in by_block:
            by_block[key] = by_block.get(key, 0) + changed
        count += changed
        square += float((new - reference).square().sum())
        scale += float(reference.square().sum())
    return count, square**0.5, (square / scale) ** 0.5 if scale else 0.0, by_block


def is_improved(valid: SplitErrors, curvature: CurvatureErrors | None, spec: TrainSpec) -> bool:
    """Say whether a model beats the foundation by what chose its best epoch.

    That is the validation loss, plus the weighted column error where force constants supervise: with validation
    structures the foundation labelled itself its own loss is zero and says nothing.
    """
    before, after = valid.shifted.loss, valid.after.loss
    if curvature is not None:
        before += spec.curvature_weight * curvature.mae_before_ev_per_angstrom2
        after += spec.curvature_weight * curvature.mae_after_ev_per_angstrom2
    return after < before


def frozen_blocks(spec: TrainSpec, model: torch.nn.Module) -> list[str]:
    """Return the blocks of a MACE model that a strategy keeps as they are."""
    if spec.start != "foundation" or spec.anchor == "low_rank":
        return []
    return block_names(model)[: first_trainable_block(model, spec)]


def check_training(
    spec: TrainSpec,
    frozen: Sequence[str],
    *,
    improved: bool,
    best_epoch: int,
    changed_by_block: Mapping[str, int],
    replay_visits: int,
    curvature_steps: int,
) -> TrainingChecks:
    """Compare what happened with what the strategy asked for; every failure is a sentence."""
    findings = []
    if not improved:
        findings.append("The validation loss is not below the foundation's: the model is not better.")
    if best_epoch == 0:
        findings.append("No epoch was better than the start: the weights are those it began with.")
    moved = [name for name in frozen if changed_by_block.get(name, 0)]
    if moved:
        findings.append(f"Blocks that were to be frozen changed: {', '.join(moved)}.")
    if best_epoch > 0 and not any(changed_by_block.values()):
        findings.append("No parameter changed although training ran.")
    if spec.uses_replay and replay_visits == 0:
        findings.append("Replay was asked for, but no replay structure took part.")
    if spec.uses_curvature and curvature_steps == 0:
        findings.append("A curvature term was asked for, but took part in no step.")
    return TrainingChecks(passed=not findings, not_improved=not improved, findings=findings)
