"""Fine-tune a Nequix model in JAX: the same settings in, the same document out as for MACE."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from phonosmith.core.hashing import digest_array, digest_json
from phonosmith.core.manifest import recorded
from phonosmith.potentials.nequix import NequixPotential
from phonosmith.potentials.nequix_backend import NequixWeights, architecture_key, precision, skeleton
from phonosmith.training.checks import is_improved
from phonosmith.training.curvature import CurvatureTarget
from phonosmith.training.documents import CurvatureErrors, ReplayUse, SplitErrors, TrainingDocument
from phonosmith.training.energies import shift_of_compositions
from phonosmith.training.finetune import TrainingResult
from phonosmith.training.jax_assemble import JaxAssembly, as_targets, assemble_jax, shifted
from phonosmith.training.jax_data import LabelledGraph
from phonosmith.training.jax_loop import JaxFitter
from phonosmith.training.jax_metrics import energy_residuals, split_errors
from phonosmith.training.jax_trainable import blocks_of, changes, check, require_supported, select_moved
from phonosmith.training.loop import FitState
from phonosmith.training.losses import LossTerms
from phonosmith.training.metrics import Errors
from phonosmith.training.models import resolve_device
from phonosmith.training.progress import epoch_reporter
from phonosmith.training.spec import TrainSpec


def fine_tune_nequix(
    foundation: NequixPotential,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    spec: TrainSpec,
    *,
    replay: Sequence[Atoms] | None = None,
    curvature: Any = None,
    valid_curvature: Sequence[CurvatureTarget] = (),
    seed: int,
    workdir: Path | str | None = None,
    walltime: float | None = None,
    since: float | None = None,
    progress: bool = False,
    name: str = "",
) -> TrainingResult:
    """Fine-tune a Nequix potential; parameters as for ``finetune.fine_tune``, and for many materials at once.

    Parameters
    ----------
    curvature
        Force constants of one material, or a list of them: their columns take turns.
    valid_curvature
        Force constants the best epoch is chosen by; default: those that are learnt.
    """
    since = time.perf_counter() if since is None else since
    require_supported(spec)
    place = resolve_device(spec.device).type
    targets = as_targets(curvature)
    assembly = assemble_jax(
        foundation, train, valid, spec, replay=replay, targets=targets, valid_targets=valid_curvature, seed=seed
    )
    key = architecture_key(foundation.weights.config)
    inputs = {"foundation": weights_digest(foundation.weights), **assembly.digests}
    settings = {"spec": spec.model_dump(mode="json")}
    with recorded(inputs, settings, seed) as manifest:
        fitter = JaxFitter(
            key,
            assembly.start.leaves,
            select_moved(skeleton(key), spec),
            [*assembly.train, *assembly.replay],
            assembly.valid,
            spec,
            columns=assembly.columns,
            valid_columns=assembly.valid_columns,
            seed=seed,
            identity=digest_json({"inputs": inputs, "settings": settings, "seed": seed}),
            workdir=Path(workdir) if workdir is not None else None,
            device=place,
        )
        begin = time.perf_counter()
        with epoch_reporter(spec, name or spec.strategy, show=progress) as report:
            state = fitter.run(walltime=walltime, since=since, on_epoch=report)
        seconds = max(time.perf_counter() - begin, state.seconds)
        final = NequixWeights(foundation.weights.config, [np.asarray(leaf, dtype=np.float32) for leaf in state.best])
        final, settled = _settle_energies(assembly, final, fitter, foundation.row_of)
        document = _Judge(foundation, assembly, spec, fitter).document(
            state, final, name=name, seed=seed, seconds=seconds, settled=settled
        )
    document.manifest = manifest
    trained = NequixPotential(final, dtype=foundation.dtype, device=foundation.device, name=name or spec.strategy)
    return TrainingResult(trained, document)


def weights_digest(weights: NequixWeights) -> str:
    """Return the identity of a model: its architecture and every weight."""
    parts = [digest_array(np.asarray(leaf)) for leaf in weights.leaves]
    return digest_json([architecture_key(weights.config), parts])


def _settle_energies(
    assembly: JaxAssembly, final: NequixWeights, fitter: JaxFitter, row_of: Mapping[int, int]
) -> tuple[NequixWeights, dict[str, float]]:
    """Take the mean energy offset training left out of the atomic energies where that helps; forces do not change."""
    spec = fitter.spec
    if not spec.e0_final_shift or spec.e0 != "refit" or fitter.state.best_epoch == 0:
        return final, {}
    counts, left = {}, {}
    with precision("float64", fitter.device):
        leaves = [np.asarray(leaf, dtype=np.float64) for leaf in final.leaves]
        for split, graphs in (("train", assembly.train), ("valid", assembly.valid)):
            left[split] = energy_residuals(fitter.key, leaves, graphs, spec, fitter.shape)
            counts[split] = np.array([np.bincount(one.graph.species, minlength=len(row_of)) for one in graphs], float)
    shift = shift_of_compositions(counts["train"], left["train"])
    sizes = counts["valid"].sum(axis=1)
    after = left["valid"] - counts["valid"] @ shift
    if not np.mean(np.abs(after) / sizes) < np.mean(np.abs(left["valid"]) / sizes):
        return final, {}
    named = {chemical_symbols[number]: float(shift[row]) for number, row in row_of.items() if shift[row]}
    return shifted(final, shift), named


class _Judge:
    """Writes the document of a training; errors are evaluated in float64."""

    def __init__(self, foundation: NequixPotential, assembly: JaxAssembly, spec: TrainSpec, fitter: JaxFitter) -> None:
        self.foundation, self.assembly, self.spec, self.fitter = foundation, assembly, spec, fitter
        self.key = architecture_key(foundation.weights.config)

    def errors(self, weights: NequixWeights, graphs: Sequence[LabelledGraph]) -> Errors:
        with precision("float64", self.fitter.device):
            leaves = [np.asarray(leaf, dtype=np.float64) for leaf in weights.leaves]
            terms = LossTerms.of(self.spec)
            return split_errors(self.key, leaves, graphs, terms, self.spec, self.fitter.shape, "float64")

    def curvature(self, final: NequixWeights, state: FitState) -> CurvatureErrors | None:
        assembly, columns = self.assembly, self.assembly.columns
        if not columns:
            return None
        found = []
        with precision(self.spec.dtype, self.fitter.device):
            for weights in (assembly.foundation, final):
                leaves = [np.asarray(leaf, dtype=self.spec.dtype) for leaf in weights.leaves]
                found.append(self.fitter.column_mae(leaves, columns))
        spent = sum(line["curvature_seconds"] for line in state.history)
        return CurvatureErrors(
            source=", ".join(target.source for target in assembly.targets),
            n_atoms=max(len(target.atoms) for target in assembly.targets),
            n_columns=len(columns),
            method="autograd",
            mae_before_ev_per_angstrom2=found[0],
            mae_after_ev_per_angstrom2=found[1],
            steps=state.curvature_steps,
            seconds_per_step=spent / state.curvature_steps if state.curvature_steps else None,
        )

    def replay(self, final: NequixWeights, visits: int) -> ReplayUse | None:
        assembly = self.assembly
        if not assembly.replay:
            return None
        return ReplayUse(
            mode=self.spec.replay,
            labels=assembly.replay_labels,
            n_structures=len(assembly.replay),
            visits=visits,
            before=self.errors(assembly.start, assembly.replay),
            after=self.errors(final, assembly.replay),
        )

    def document(
        self,
        state: FitState,
        final: NequixWeights,
        *,
        name: str,
        seed: int,
        seconds: float,
        settled: dict[str, float],
    ) -> TrainingDocument:
        assembly, spec = self.assembly, self.spec
        frame = skeleton(self.key)
        splits = {
            split: SplitErrors(
                before=self.errors(assembly.foundation, getattr(assembly, split)),
                shifted=self.errors(assembly.start, getattr(assembly, split)),
                after=self.errors(final, getattr(assembly, split)),
            )
            for split in ("train", "valid")
        }
        count, norm, relative, by_block = changes(frame, assembly.start, final)
        curvature = self.curvature(final, state)
        improved = is_improved(splits["valid"], curvature, spec)
        visits = len(assembly.replay) * len(state.history[1:])
        total = sum(int(np.prod(shape)) for shape in frame.shapes)
        moved = select_moved(frame, spec)
        return TrainingDocument(
            name=name or spec.strategy,
            strategy=spec.strategy,
            spec=spec,
            seed=seed,
            metrics=splits,
            improved=improved,
            finished=state.finished,
            stop_reason=state.reason,
            epochs_run=state.epoch,
            best_epoch=state.best_epoch,
            seconds=seconds,
            steps=state.steps,
            n_parameters=total,
            n_trainable=sum(
                int(np.prod(shape)) for shape, flag in zip(frame.shapes, moved.trained, strict=True) if flag
            ),
            n_changed=count,
            change_norm=norm,
            change_relative=relative,
            changed_by_block=by_block,
            n_parameters_foundation=total,
            e0_shift_ev={
                symbol: assembly.e0_shift.get(symbol, 0.0) + settled.get(symbol, 0.0)
                for symbol in sorted({*assembly.e0_shift, *settled})
            },
            e0_final_shift_ev=settled,
            curvature=curvature,
            replay=self.replay(final, visits),
            checks=check(
                spec,
                blocks_of(frame),
                improved=improved,
                best_epoch=state.best_epoch,
                by_block=by_block,
                visits=visits,
                steps=state.curvature_steps,
            ),
            history=state.history,
            notes=[*assembly.notes, "Curvature errors are evaluated in the precision of training."]
            if assembly.columns
            else assembly.notes,
        )
