"""The document of a training, whichever library did it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from phonosmith.harmonic.curvature import CurvatureTarget
from phonosmith.training.checks import check_training, is_improved
from phonosmith.training.documents import CurvatureErrors, ReplayUse, SplitErrors, TrainingDocument
from phonosmith.training.epochs import FitState
from phonosmith.training.metrics import Errors
from phonosmith.training.spec import TrainSpec


@dataclass(frozen=True)
class Measured:
    """What a library has to say about a training that is over.

    Attributes
    ----------
    metrics
        Errors of ``train`` and ``valid``.
    n_parameters, n_trainable, n_parameters_foundation
        Of the result, those that were trained, of the foundation as it was handed in.
    change
        Changed parameters, norm of the change, that relative to the start, changed parameters by block.
    frozen
        Blocks that were to stay as they are.
    e0_shift
        eV per element, before training.
    settled
        eV per element, after training.
    curvature
        Errors of the Hessian columns, where there are some.
    replay
        Number of replay structures, their labels, errors before and after; None without replay.
    notes
        What the user should know.
    """

    metrics: dict[str, SplitErrors]
    n_parameters: int
    n_trainable: int
    n_parameters_foundation: int
    change: tuple[int, float, float, dict[str, int]]
    frozen: Sequence[str]
    e0_shift: Mapping[str, float]
    settled: Mapping[str, float]
    curvature: CurvatureErrors | None = None
    replay: tuple[int, str, Errors, Errors] | None = None
    notes: list[str] = field(default_factory=list)


def curvature_errors(
    targets: Sequence[CurvatureTarget], state: FitState, method: str, before: float, after: float
) -> CurvatureErrors:
    """Return the record of a curvature term; ``before`` and ``after`` are column MAE in eV/Å²."""
    spent = sum(line["curvature_seconds"] for line in state.history)
    return CurvatureErrors(
        source=", ".join(target.source for target in targets),
        n_atoms=max(len(target.atoms) for target in targets),
        n_columns=sum(len(target.columns) for target in targets),
        method=method,
        mae_before_ev_per_angstrom2=before,
        mae_after_ev_per_angstrom2=after,
        steps=state.curvature_steps,
        seconds_per_step=spent / state.curvature_steps if state.curvature_steps else None,
    )


def training_document(
    spec: TrainSpec, state: FitState, found: Measured, *, name: str, seed: int, seconds: float
) -> TrainingDocument:
    """Put together what is known of a training, and check that what was asked for happened.

    Parameters
    ----------
    spec, state
        What was asked, and how it went.
    found
        What the library measured.
    name
        Of the model; the strategy by default.
    seed
        Of every random draw.
    seconds
        Wall time, interrupted parts included.
    """
    improved = is_improved(found.metrics["valid"], found.curvature, spec)
    replay, visits = None, 0
    if found.replay is not None:
        count, labels, before, after = found.replay
        visits = count * len(state.history[1:])
        replay = ReplayUse(
            mode=spec.replay, labels=labels, n_structures=count, visits=visits, before=before, after=after
        )
    count, norm, relative, by_block = found.change
    checks = check_training(
        spec,
        found.frozen,
        improved=improved,
        best_epoch=state.best_epoch,
        changed_by_block=by_block,
        replay_visits=visits,
        curvature_steps=state.curvature_steps,
    )
    return TrainingDocument(
        name=name or spec.strategy,
        strategy=spec.strategy,
        spec=spec,
        seed=seed,
        metrics=found.metrics,
        improved=improved,
        finished=state.finished,
        stop_reason=state.reason,
        epochs_run=state.epoch,
        best_epoch=state.best_epoch,
        seconds=seconds,
        steps=state.steps,
        n_parameters=found.n_parameters,
        n_trainable=found.n_trainable,
        n_changed=count,
        change_norm=norm,
        change_relative=relative,
        changed_by_block=by_block,
        n_parameters_foundation=found.n_parameters_foundation,
        e0_shift_ev={
            symbol: found.e0_shift.get(symbol, 0.0) + found.settled.get(symbol, 0.0)
            for symbol in sorted({*found.e0_shift, *found.settled})
        },
        e0_final_shift_ev=dict(found.settled),
        curvature=found.curvature,
        replay=replay,
        checks=checks,
        history=state.history,
        notes=list(found.notes),
    )
