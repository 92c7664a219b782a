"""Fine-tune a model: from labelled structures and a strategy to a plain model and the evidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.data import chemical_symbols

from phonosmith.core.errors import InputError
from phonosmith.core.hashing import digest_array, digest_json
from phonosmith.core.manifest import recorded
from phonosmith.training.assemble import Assembly, CurvatureInput, assemble, curvature_term
from phonosmith.training.checks import changes, frozen_blocks
from phonosmith.training.documents import CurvatureErrors, SplitErrors, TrainingDocument
from phonosmith.training.energies import final_shift, relative_to
from phonosmith.training.epochs import FitState
from phonosmith.training.graphs import Graph, adapted, in_batches
from phonosmith.training.loop import Fitter
from phonosmith.training.losses import LossTerms
from phonosmith.training.metrics import Errors, errors
from phonosmith.training.models import MAIN_HEAD, cast, model_numbers, resolve_device, single_head
from phonosmith.training.progress import epoch_reporter
from phonosmith.training.reporting import Measured, curvature_errors, training_document
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import merge_adapters, select_trainable


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and its document.

    Attributes
    ----------
    model
        Plain single-head ScaleShiftMACE in float64 on the CPU, or the trained Nequix potential.
    document
        Metrics, checks, settings, history.
    """

    model: Any
    document: TrainingDocument


def fine_tune(
    foundation: Any,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    spec: TrainSpec,
    *,
    replay: Sequence[Atoms] | None = None,
    curvature: CurvatureInput = None,
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
        Loaded potential with a MACE torch module, the module itself, or a Nequix potential; it is not changed.
    train, valid
        Labelled structures (energy, forces, stress under ASE's names).
    spec
        Strategy.
    replay
        Pool of replay structures, labelled or not; needed exactly when the strategy replays.
    curvature
        A phonopy object or a CurvatureTarget; needed exactly when the strategy has a curvature term.
    seed
        Of every random draw.
    workdir
        Folder of the metrics log and the checkpoint; an unfinished training there is resumed.
    walltime
        Seconds after which a checkpoint is written and the best model so far is returned, marked unfinished.
    since
        ``time.perf_counter()`` from which the walltime counts; default: the call of this function.
    progress
        Show a bar on standard error.
    name
        Of the resulting model.

    Raises
    ------
    InputError, MismatchError, ConfigurationError, PotentialError
        For input that cannot work, before anything is computed.
    TrainingError
        When a loss or gradient stops being finite.
    """
    since = time.perf_counter() if since is None else since
    device = resolve_device(spec.device)
    _check_extras(spec, replay, curvature)
    if getattr(foundation, "architecture", "mace") == "nequix":
        from phonosmith.training.jax_finetune import fine_tune_nequix

        return fine_tune_nequix(
            foundation,
            train,
            valid,
            spec,
            replay=replay,
            curvature=curvature,
            seed=seed,
            workdir=workdir,
            walltime=walltime,
            since=since,
            progress=progress,
            name=name,
        )
    assembly = assemble(foundation, train, valid, spec, replay=replay, curvature=curvature, seed=seed)
    folder = Path(workdir) if workdir is not None else None
    inputs = {"foundation": _model_digest(assembly.foundation), **assembly.digests}
    settings = {"spec": spec.model_dump(mode="json")}
    with recorded(inputs, settings, seed) as manifest:
        model = cast(assembly.start, spec.dtype).to(device)
        start = {key: value.detach().cpu().clone() for key, value in model.named_parameters()}
        with torch.random.fork_rng(devices=[]):
            # adapters start from random values
            torch.manual_seed(seed)
            parameters = select_trainable(model, spec)
        dtype = getattr(torch, spec.dtype)
        fitter = Fitter(
            model,
            parameters,
            [adapted(graph, dtype=dtype, device=device) for graph in (*assembly.train, *assembly.replay)],
            [adapted(graph, dtype=dtype, device=device) for graph in assembly.valid],
            spec,
            seed=seed,
            curvature=curvature_term(assembly, spec, dtype, device),
            identity=digest_json({"inputs": inputs, "settings": settings, "seed": seed}),
            workdir=folder,
        )
        begin = time.perf_counter()
        with epoch_reporter(spec, name or spec.strategy, show=progress) as report:
            state = fitter.run(walltime=walltime, since=since, on_epoch=report)
        # a resumed training counts what it took before
        seconds = max(time.perf_counter() - begin, state.seconds)
        trained = _weights(model, fitter, spec)
        final = _transplant(assembly.start, start, trained)
        settled = _settle_energies(assembly, final, spec, state)
        found = _measured(assembly, spec, state, fitter, final, settled)
        document = training_document(spec, state, found, name=name, seed=seed, seconds=seconds)
    document.manifest = manifest
    plain = single_head(final, MAIN_HEAD)
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    return TrainingResult(plain, document)


def _check_extras(spec: TrainSpec, replay: Sequence[Atoms] | None, curvature: CurvatureInput) -> None:
    """Refuse a strategy that lacks its data, and data the strategy would ignore."""
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


def _model_digest(model: torch.nn.Module) -> str:
    tensors = {name: digest_array(value.detach().cpu().numpy()) for name, value in model.state_dict().items()}
    return digest_json(tensors)


def _weights(model: torch.nn.Module, fitter: Fitter, spec: TrainSpec) -> dict[str, torch.Tensor]:
    """Return the best weights under the plain model's parameter names (adapters folded in)."""
    with torch.no_grad():
        for parameter, value in zip(fitter.parameters, fitter.state.best, strict=True):
            parameter.copy_(value)
    plain = merge_adapters(model) if spec.anchor == "low_rank" else model
    return {name: value.detach().cpu().clone() for name, value in plain.named_parameters()}


def _transplant(
    model: torch.nn.Module, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> torch.nn.Module:
    """Return a float64 copy with trained weights; what training did not touch keeps every bit of the original."""
    final = cast(model, "float64").cpu()
    with torch.no_grad():
        for name, parameter in final.named_parameters():
            parameter.copy_(torch.where(after[name] == before[name], parameter, after[name].double()))
    return final


def _settle_energies(assembly: Assembly, final: torch.nn.Module, spec: TrainSpec, state: FitState) -> dict[str, float]:
    """Shift the trained head's atomic energies where asked for and helpful; labels follow. Return eV per element."""
    if not spec.e0_final_shift or spec.e0 != "refit" or state.best_epoch == 0:
        return {}
    shift = final_shift(final, assembly.main_head, assembly.train, assembly.valid)
    if not shift.any():
        return {}
    assembly.train, assembly.valid = relative_to(assembly.train, shift), relative_to(assembly.valid, shift)
    return {chemical_symbols[z]: float(e) for z, e in zip(model_numbers(final), shift, strict=True)}


def _errors(model: torch.nn.Module, graphs: Sequence[Graph], spec: TrainSpec) -> Errors:
    return errors(model, in_batches(graphs, 2 * spec.batch_size), LossTerms.of(spec))


def _measured(
    assembly: Assembly,
    spec: TrainSpec,
    state: FitState,
    fitter: Fitter,
    final: torch.nn.Module,
    settled: dict[str, float],
) -> Measured:
    """Evaluate foundation and trained model in float64."""
    foundation, plain = assembly.foundation, single_head(final, MAIN_HEAD)
    splits = {}
    for split in ("train", "valid"):
        graphs: Sequence[Graph] = getattr(assembly, split)
        splits[split] = SplitErrors(
            before=_errors(foundation, assembly.unshifted[split], spec),
            shifted=_errors(foundation, assembly.shifted[split], spec),
            after=_errors(final, graphs, spec),
        )
    count, norm, relative, by_block = changes(single_head(assembly.start, MAIN_HEAD), plain)
    total = sum(parameter.numel() for parameter in plain.parameters())
    if spec.start == "fresh":
        # a fresh model shares nothing with the foundation: everything changed
        count = total
    term, replay = fitter.curvature, assembly.replay
    return Measured(
        metrics=splits,
        n_parameters=total,
        n_trainable=sum(parameter.numel() for parameter in fitter.parameters),
        n_parameters_foundation=assembly.n_parameters,
        change=(count, norm, relative, by_block),
        frozen=frozen_blocks(spec, plain),
        e0_shift=assembly.e0_shift,
        settled=settled,
        curvature=_curvature_errors(assembly, spec, state, final, term.method if term else ""),
        replay=(len(replay), assembly.replay_labels, _errors(foundation, replay, spec), _errors(final, replay, spec))
        if replay
        else None,
        notes=[*assembly.notes, *(term.notes if term else [])],
    )


def _curvature_errors(
    assembly: Assembly, spec: TrainSpec, state: FitState, final: torch.nn.Module, method: str
) -> CurvatureErrors | None:
    target = assembly.target
    if target is None:
        return None
    cpu = torch.device("cpu")
    judged = curvature_term(assembly, spec, torch.float64, cpu)
    original = curvature_term(assembly, spec, torch.float64, cpu, head=0)
    if judged is None or original is None:
        return None
    judged.method = original.method = method if method != "auto" else "autograd"
    before, after = original.mae(assembly.foundation), judged.mae(final)
    return curvature_errors([target], state, judged.method, before, after)
