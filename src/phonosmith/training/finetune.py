"""Fine-tune a model: from labelled structures and a strategy to a plain model and the evidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from phonosmith.core.artefacts import default_artefacts, write_atomic
from phonosmith.core.errors import InputError
from phonosmith.core.hashing import digest_array, digest_json
from phonosmith.core.manifest import note_device, recorded
from phonosmith.potentials.backend import Backend
from phonosmith.potentials.base import Potential
from phonosmith.potentials.device import gpu_seen, ordered_sums, require_device
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.torch_potential import TorchPotential
from phonosmith.training.assemble import Assembly, Groundwork, assemble, placed
from phonosmith.training.checkpoint import metrics_lines
from phonosmith.training.documents import (
    CurvatureErrors,
    ReplayUse,
    SplitErrors,
    TrainingDocument,
    check_training,
    is_improved,
)
from phonosmith.training.energies import settled_shift
from phonosmith.training.graphs import compositions, relative_to
from phonosmith.training.judging import force_parity, predicted
from phonosmith.training.loop import Fitter, epoch_reporter
from phonosmith.training.placement import asked_device, choose_training_device
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import changes, frozen_blocks, select_trainable

if TYPE_CHECKING:
    from phonosmith.harmonic.curvature import CurvatureTarget
    from phonosmith.training.assemble import CurvatureInput


@dataclass(frozen=True)
class TrainingResult:
    """A trained model (plain, single-head, on the CPU, in float64 where the architecture has it) and its document."""

    model: torch.nn.Module
    document: TrainingDocument
    backend: Backend

    @property
    def potential(self) -> Potential:
        """The model, ready to be evaluated."""
        return TorchPotential(self.backend, self.model, name=self.document.name)

    def register(self, foundation: PotentialRef | None = None) -> TrainingDocument:
        """Put model and metrics log into the artefact store; return the document, with their references noted.

        Parents of the model are the foundation, where given, and the datasets.
        """
        document = self.document
        inputs = document.manifest.inputs if document.manifest else {}
        datasets = [inputs[key] for key in ("train", "valid", "replay") if key in inputs]
        parents = datasets if foundation is None else [foundation.sha256, *datasets]
        document.model = self.backend.register(self.model, document.name, parents)
        lines = metrics_lines(document.history)
        document.log = default_artefacts().put_bytes(lines, kind="metrics", suffix=".jsonl")
        return document

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write the model as a plain file of its architecture (e.g. ``model.model``) and ``training.json``.

        The model file loads without us, and can be named as a potential here at once. Both paths are returned.
        """
        target = Path(folder)
        model_path, document_path = target / f"model{self.backend.plain_suffix}", target / "training.json"
        self.backend.write_plain(self.model, model_path)
        write_atomic(document_path, (self.document.model_dump_json(indent=2) + "\n").encode())
        return model_path, document_path


def fine_tune(
    foundation: Potential,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    spec: TrainSpec,
    *,
    replay: Sequence[Atoms] | None = None,
    curvature: CurvatureInput = None,
    valid_curvature: Sequence[CurvatureTarget] = (),
    seed: int,
    workdir: Path | str | None = None,
    walltime: float | None = None,
    since: float | None = None,
    progress: bool = False,
    name: str = "",
) -> TrainingResult:
    """Fine-tune a model on labelled structures of one material.

    Parameters
    ----------
    foundation
        Loaded potential of a torch architecture; it is not changed.
    train, valid
        Labelled structures (energy, forces, stress under ASE's names).
    replay
        Pool of replay structures, labelled or not; needed exactly when the strategy replays.
    curvature
        Phonopy objects or targets, needed exactly when the strategy has a curvature term: of this material, or of
        several, whose columns take turns.
    valid_curvature
        Force constants the best epoch is chosen by, beside the validation structures; default: those that
        ``curvature_holdout`` holds out.
    workdir
        Folder of the metrics log and the checkpoint; an unfinished training there is resumed.
    walltime
        Seconds after which a checkpoint is written and the best model so far is returned, marked unfinished.
    since
        ``time.perf_counter()`` from which the walltime counts; default: the call of this function.
    progress
        Show a bar on standard error.

    Raises
    ------
    InputError, MismatchError, ConfigurationError, PotentialError
        For input that cannot work, before anything is computed.
    TrainingError
        When a loss or gradient stops being finite.
    """
    since = time.perf_counter() if since is None else since
    training = prepare(
        foundation,
        train,
        valid,
        spec,
        replay=replay,
        curvature=curvature,
        valid_curvature=valid_curvature,
        seed=seed,
        workdir=workdir,
        name=name,
    )
    with epoch_reporter(training.assembly.spec, training.name, show=progress) as report:
        training.fitter.run(walltime=walltime, since=since, on_epoch=report)
    return training.result()


def prepare(
    foundation: Potential | Groundwork,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    spec: TrainSpec,
    *,
    replay: Sequence[Atoms] | None = None,
    curvature: CurvatureInput = None,
    valid_curvature: Sequence[CurvatureTarget] = (),
    seed: int,
    workdir: Path | str | None = None,
    name: str = "",
) -> Training:
    """Return a fine-tuning that is ready to run, for the parameters of :func:`fine_tune`.

    Trainings from the same :class:`Groundwork` share what does not depend on the strategy.
    """
    check_extras(spec, replay, curvature)
    require_device(asked_device(spec))
    with ordered_sums(spec.deterministic and asked_device(spec) != "cpu" and gpu_seen()):
        assembly = assemble(
            foundation,
            train,
            valid,
            spec,
            replay=replay,
            curvature=curvature,
            valid_curvature=valid_curvature,
            seed=seed,
            place=choose_training_device,
        )
    return Training(assembly, seed=seed, workdir=workdir, name=name)


class Training:
    """One fine-tuning between its assembly and its result; its ``fitter`` does the epochs.

    See :func:`fine_tune` for the parameters. ``result`` may be asked for once, when training has ended.
    """

    def __init__(
        self,
        assembly: Assembly,
        *,
        seed: int,
        workdir: Path | str | None = None,
        name: str = "",
    ) -> None:
        backend, spec, device = assembly.backend, assembly.spec, assembly.device
        self.assembly, self.name = assembly, name or spec.strategy
        weights = {key: digest_array(value.numpy()) for key, value in assembly.foundation.state_dict().items()}
        inputs = {"foundation": digest_json(weights), **assembly.digests}
        settings = {"spec": spec.model_dump(mode="json")}
        self._record = recorded(inputs, settings, seed)
        self._manifest = self._record.__enter__()
        note_device(device, assembly.placed.reason, deterministic=_repeats(spec, device))
        self._model = backend.cast(assembly.start, spec.dtype, device)
        self._before = _weights(self._model)
        with torch.random.fork_rng(devices=[]):
            # adapters start from random values
            torch.manual_seed(seed)
            parameters = select_trainable(backend, self._model, spec)
        dtype = getattr(torch, spec.dtype)
        self.fitter = Fitter(
            backend,
            self._model,
            parameters,
            [*assembly.train, *assembly.replay],
            assembly.valid,
            spec,
            seed=seed,
            curvature=assembly.taught_term(dtype, device),
            judged=assembly.curvature_term(assembly.judged, dtype, device),
            identity=digest_json({"inputs": inputs, "settings": settings, "seed": seed}),
            workdir=Path(workdir) if workdir is not None else None,
        )
        self._begin = time.perf_counter()

    def result(self, seconds: float | None = None) -> TrainingResult:
        """Judge what the fitter found; ``seconds``: what training took, by default the time since the assembly."""
        assembly, fitter = self.assembly, self.fitter
        backend, state = assembly.backend, fitter.state
        if seconds is None:
            # a resumed training counts what it took before
            seconds = max(time.perf_counter() - self._begin, state.seconds)
        fitter.take_best()
        merged = backend.merge_low_rank(self._model) if assembly.spec.anchor == "low_rank" else self._model
        final = _transplant(assembly, self._before, _weights(merged))
        with ordered_sums(assembly.spec.deterministic and assembly.device != "cpu"):
            document, plain = _judged(assembly, fitter, final, name=self.name, seconds=seconds)
        self._record.__exit__(None, None, None)
        document.manifest = self._manifest
        plain.requires_grad_(True)
        return TrainingResult(plain, document, backend)


def _repeats(spec: TrainSpec, device: str) -> bool:
    """Tell whether every sum is taken in the same order each time."""
    return spec.deterministic or device == "cpu"


def check_extras(spec: TrainSpec, replay: Sequence[Atoms] | None, curvature: CurvatureInput) -> None:
    """Refuse a strategy that lacks its data, and data the strategy would ignore."""
    if spec.uses_curvature and curvature is None:
        raise InputError(
            f"Strategy {spec.strategy} learns force constants, but none are given.",
            "Give a phonopy file with force constants or displacements and forces.",
        )
    if not spec.uses_curvature and curvature is not None:
        raise InputError(
            f"Force constants are given, but strategy {spec.strategy} does not use them.",
            "Choose strategy pft or delta+pft, or set curvature_weight.",
        )
    if spec.uses_replay and replay is None:
        raise InputError(
            f"Strategy {spec.strategy} replays structures, but none are given.",
            "Give a replay set (labelled, or unlabelled to be labelled by the foundation).",
        )
    if not spec.uses_replay and replay is not None:
        raise InputError(
            f"A replay set is given, but strategy {spec.strategy} does not use it.",
            "Choose strategy multihead, or set replay=cotrain or replay=head.",
        )


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.named_parameters()}


def _transplant(assembly: Assembly, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Return a precise copy with trained weights; what training did not touch keeps every bit of the original."""
    final = assembly.backend.cast(assembly.start, str(assembly.dtype).removeprefix("torch."))
    with torch.no_grad():
        for name, parameter in final.named_parameters():
            parameter.copy_(torch.where(after[name] == before[name], parameter, after[name].to(parameter.dtype)))
    return final


def _judged(
    assembly: Assembly, fitter: Fitter, final: torch.nn.Module, *, name: str, seconds: float
) -> tuple[TrainingDocument, torch.nn.Module]:
    """Settle the trained model's energies, compare it with the foundation and check what was asked for.

    ``final`` is the trained model with all its heads, changed here; returned are the document and the model that is
    handed out. Every set is predicted once, where training was.
    """
    backend, state, spec = assembly.backend, fitter.state, fitter.spec
    judge, head = placed(final, assembly.device), assembly.main_head
    symbols = [chemical_symbols[z] for z in backend.atomic_numbers(final)]
    labelled = {"train": assembly.train, "valid": assembly.valid}
    found = {
        split: predicted(backend, judge, [one.graph for one in graphs], head) for split, graphs in labelled.items()
    }
    settled = np.zeros(len(symbols))
    if spec.e0_final_shift and spec.e0 == "refit" and state.best_epoch > 0:
        said = [
            values
            for split, graphs in labelled.items()
            for values in (compositions(graphs, len(symbols)), found[split].residuals(graphs))
        ]
        settled = settled_shift(*said)
        backend.set_atomic_energies(final, head, backend.atomic_energies(final)[head] + settled)
    final_shifts = dict(zip(symbols, settled.tolist(), strict=True)) if settled.any() else {}
    metrics = {
        split: SplitErrors(
            before=assembly.foundation_errors(split),
            shifted=assembly.foundation_errors(split, shifted=True),
            after=found[split].errors(relative_to(graphs, settled), spec),
        )
        for split, graphs in labelled.items()
    }
    plain = backend.single_head(final, backend.heads(final)[-1])
    curvature = _curvature_errors(assembly, fitter, judge)
    visits = fitter.visits(len(assembly.train)) if assembly.replay else 0
    replay = None
    if assembly.replay:
        replay = ReplayUse(
            mode=spec.replay,
            labels=assembly.replay_labels,
            n_structures=len(assembly.replay),
            visits=visits,
            before=assembly.foundation_errors("replay"),
            after=predicted(backend, judge, [one.graph for one in assembly.replay]).errors(assembly.replay, spec),
        )
    start = backend.single_head(assembly.start, backend.heads(assembly.start)[-1])
    n_changed, norm, relative, by_block = changes(backend, start, plain)
    n_parameters = sum(parameter.numel() for parameter in plain.parameters())
    improved = is_improved(metrics["valid"], curvature, spec)
    document = TrainingDocument(
        name=name,
        strategy=spec.strategy,
        spec=spec,
        seed=fitter.seed,
        metrics=metrics,
        parity=force_parity(assembly.raw["valid"], assembly.foundation_predicted("valid"), found["valid"]),
        improved=improved,
        finished=state.finished,
        stop_reason=state.reason,
        epochs_run=state.epoch,
        best_epoch=state.best_epoch,
        seconds=seconds,
        steps=state.steps,
        device=assembly.device,
        device_reason=assembly.placed.reason,
        deterministic=_repeats(spec, assembly.device),
        n_parameters=n_parameters,
        n_trainable=sum(parameter.numel() for parameter in fitter.parameters),
        # a fresh model shares nothing with the foundation: everything changed
        n_changed=n_parameters if spec.start == "fresh" else n_changed,
        change_norm=norm,
        change_relative=relative,
        changed_by_block=by_block,
        n_parameters_foundation=assembly.n_parameters,
        e0_shift_ev={
            symbol: assembly.e0_shift.get(symbol, 0.0) + final_shifts.get(symbol, 0.0)
            for symbol in sorted({*assembly.e0_shift, *final_shifts})
        },
        e0_final_shift_ev=final_shifts,
        curvature=curvature,
        replay=replay,
        checks=check_training(
            spec,
            frozen_blocks(backend, plain, spec),
            improved=improved,
            best_epoch=state.best_epoch,
            changed_by_block=by_block,
            replay_visits=visits,
            curvature_steps=state.curvature_steps,
        ),
        history=state.history,
        notes=[*assembly.notes, *fitter.notes],
    )
    return document, plain


def _curvature_errors(assembly: Assembly, fitter: Fitter, judge: torch.nn.Module) -> CurvatureErrors | None:
    """Return the errors of the columns that were learnt, and of those that judged."""
    targets, judged, state = assembly.targets, assembly.judged, fitter.state
    if fitter.curvature is None:
        return None
    method = fitter.curvature.method if fitter.curvature.method != "auto" else "autograd"

    def errors_on(some: Sequence[CurvatureTarget]) -> tuple[float | None, float | None]:
        after = assembly.curvature_term(some, assembly.dtype, assembly.device)
        if after is None:
            return None, None
        after.method = method
        return assembly.foundation_columns(method, some), after.mae(judge)

    before, after = errors_on(targets)
    assert before is not None  # there is a curvature term
    assert after is not None
    judged_before, judged_after = errors_on(judged)
    # of recorded steps the part of the columns is not known
    known = [seconds for line in state.history if (seconds := line["curvature_seconds"]) is not None]
    spent = sum(known) if len(known) == len(state.history) else None
    return CurvatureErrors(
        source=", ".join(target.source for target in targets),
        n_atoms=max(len(target.atoms) for target in targets),
        n_columns=sum(len(target.columns) for target in targets),
        method=method,
        mae_before_ev_per_angstrom2=before,
        mae_after_ev_per_angstrom2=after,
        judged_source=", ".join(target.source for target in judged),
        n_columns_judged=sum(len(target.columns) for target in judged),
        judged_before_ev_per_angstrom2=judged_before,
        judged_after_ev_per_angstrom2=judged_after,
        steps=state.curvature_steps,
        seconds_per_step=spent / state.curvature_steps if state.curvature_steps and spent is not None else None,
    )
