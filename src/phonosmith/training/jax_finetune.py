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
from phonosmith.harmonic.curvature import CurvatureTarget
from phonosmith.potentials.nequix.backend import NequixWeights, architecture_key, precision, skeleton
from phonosmith.potentials.nequix.potential import NequixPotential
from phonosmith.training.documents import CurvatureErrors, SplitErrors
from phonosmith.training.energies import shift_of_compositions
from phonosmith.training.epochs import FitState
from phonosmith.training.finetune import TrainingResult
from phonosmith.training.jax_assemble import JaxAssembly, as_targets, assemble_jax, shifted
from phonosmith.training.jax_data import LabelledGraph
from phonosmith.training.jax_loop import JaxFitter
from phonosmith.training.jax_metrics import energy_residuals, split_errors
from phonosmith.training.jax_trainable import blocks_of, changes, require_supported, select_moved
from phonosmith.training.losses import LossTerms
from phonosmith.training.metrics import Errors
from phonosmith.training.models import resolve_device
from phonosmith.training.progress import epoch_reporter
from phonosmith.training.reporting import Measured, curvature_errors, training_document
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
        found = _Judge(foundation, assembly, spec, fitter).measured(state, final, settled)
        document = training_document(spec, state, found, name=name, seed=seed, seconds=seconds)
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
    """Evaluates foundation and trained model; errors in float64."""

    def __init__(self, foundation: NequixPotential, assembly: JaxAssembly, spec: TrainSpec, fitter: JaxFitter) -> None:
        self.assembly, self.spec, self.fitter = assembly, spec, fitter
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
        return curvature_errors(assembly.targets, state, "autograd", *found)

    def measured(self, state: FitState, final: NequixWeights, settled: dict[str, float]) -> Measured:
        assembly, replay = self.assembly, self.assembly.replay
        frame = skeleton(self.key)
        sizes = [int(np.prod(shape)) for shape in frame.shapes]
        trained = select_moved(frame, self.spec).trained
        notes = list(assembly.notes)
        if assembly.columns:
            notes.append("Curvature errors are evaluated in the precision of training.")
        return Measured(
            metrics={
                split: SplitErrors(
                    before=self.errors(assembly.foundation, getattr(assembly, split)),
                    shifted=self.errors(assembly.start, getattr(assembly, split)),
                    after=self.errors(final, getattr(assembly, split)),
                )
                for split in ("train", "valid")
            },
            n_parameters=sum(sizes),
            n_trainable=sum(size for size, flag in zip(sizes, trained, strict=True) if flag),
            n_parameters_foundation=sum(sizes),
            change=changes(frame, assembly.start, final),
            frozen=blocks_of(frame)[: self.spec.freeze_blocks],
            e0_shift=assembly.e0_shift,
            settled=settled,
            curvature=self.curvature(final, state),
            replay=(
                len(replay),
                assembly.replay_labels,
                self.errors(assembly.start, replay),
                self.errors(final, replay),
            )
            if replay
            else None,
            notes=notes,
        )
