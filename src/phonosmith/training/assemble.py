"""From frames and a foundation to the graphs and the starting model of one training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_array, digest_atoms, digest_json
from phonosmith.harmonic.curvature import CurvatureTarget, check_target, curvature_target
from phonosmith.potentials.backend import Backend, FreshStart, require_ability
from phonosmith.potentials.base import Array, Potential, require_elements
from phonosmith.potentials.graphs import collate, frozen, make_graph
from phonosmith.potentials.torch_potential import TorchPotential
from phonosmith.reference.datasets.dataset import dataset_digest
from phonosmith.training.curvature import CurvatureCell, CurvatureTerm
from phonosmith.training.energies import energy_residuals, given_energies, least_squares_shift
from phonosmith.training.graphs import LabelledGraph, check_frames, compositions, labelled_graphs, relative_to
from phonosmith.training.replay import replay_frames
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import frozen_blocks

if TYPE_CHECKING:
    from phonopy import Phonopy

    CurvatureInput: TypeAlias = CurvatureTarget | Phonopy | Sequence[CurvatureTarget | Phonopy] | None

HEADS = ("pt_head", "Default")
"""Readouts of a model with a replay head (the names mace gives them); the last one is trained on the material."""
PRUNING_TOLERANCE = 1e-8
"""Largest change of energy per atom (eV) and force (eV/Å) that pruning may make; rounding gives about 1e-14."""
DIFFERENCE_MARGIN = 0.1
"""Added to the cutoff of graphs used for finite differences, Å: no neighbour may appear or vanish."""


@dataclass(frozen=True)
class Assembly:
    """Everything one training starts from, on the CPU in the precision that everything but the steps is done in.

    Attributes
    ----------
    foundation
        Pruned single-head foundation with its own atomic energies.
    start
        Model to train: foundation or fresh, with its heads and the atomic energies of this training.
    train, valid, replay
        Graphs labelled relative to ``start``'s atomic energies.
    unshifted
        Train and valid graphs relative to the foundation's own atomic energies, for judging it as it is.
    shifted
        The same relative to the atomic energies it would be used with here, for judging it fairly.
    targets
        Force constants to learn.
    n_parameters
        Of the foundation before pruning.
    digests
        Identity of every input.
    """

    backend: Backend
    spec: TrainSpec
    foundation: torch.nn.Module
    start: torch.nn.Module
    train: list[LabelledGraph]
    valid: list[LabelledGraph]
    replay: list[LabelledGraph]
    unshifted: dict[str, list[LabelledGraph]]
    shifted: dict[str, list[LabelledGraph]]
    targets: Sequence[CurvatureTarget]
    n_parameters: int
    e0_shift: dict[str, float]
    replay_labels: str
    digests: dict[str, str]
    notes: list[str]

    @property
    def main_head(self) -> int:
        """Index of the head that is trained on the material: the last one."""
        return len(self.backend.heads(self.start)) - 1

    @property
    def dtype(self) -> torch.dtype:
        """Precision of foundation and start."""
        return next(self.foundation.parameters()).dtype

    def curvature_term(
        self, targets: Sequence[CurvatureTarget], dtype: torch.dtype, device: str = "cpu", head: int | None = None
    ) -> CurvatureTerm | None:
        """Build the curvature term of some force constants in some precision, None where there are none."""
        if not targets:
            return None
        backend, base = self.backend, self.foundation
        numbers = backend.atomic_numbers(base)
        cutoff = backend.cutoff(base) + (DIFFERENCE_MARGIN if self.spec.curvature_method == "fd" else 0.0)
        head = self.main_head if head is None else head
        cells = [
            CurvatureCell(
                batch=collate([make_graph(target.atoms, numbers, cutoff)], dtype, device, head),
                columns=target.columns,
                reference=torch.tensor(target.hessian[:, list(target.columns)].T.copy(), dtype=dtype, device=device),
                weights=torch.tensor(target.weights, dtype=dtype, device=device),
            )
            for target in targets
        ]
        return CurvatureTerm(backend, cells, self.spec)


def assemble(
    foundation: Potential,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    spec: TrainSpec,
    *,
    replay: Sequence[Atoms] | None,
    curvature: CurvatureInput = None,
    valid_curvature: Sequence[CurvatureTarget] = (),
    seed: int,
) -> Assembly:
    """Check the input and build the graphs, the pruned foundation and the model to start from."""
    if not isinstance(foundation, TorchPotential):
        raise PotentialError(
            f"{getattr(foundation, 'architecture', type(foundation).__name__)} cannot be fine-tuned.",
            "Give a loaded potential of a torch architecture, e.g. registry.load('MACE-MPA-0').",
        )
    backend, module = foundation.backend, foundation.model
    backend.require_trainable(module)
    _require_abilities(backend, module, spec)
    frames = {"train": train, "valid": valid}
    labels = {split: check_frames(frames[split], split, minimum=2 if split == "train" else 1) for split in frames}
    targets = _as_targets(curvature)
    if len(targets) == 1:
        check_target(targets[0], train)
    everything = [*train, *valid, *(replay or []), *(target.atoms for target in (*targets, *valid_curvature))]
    require_elements(foundation, everything, "The foundation")
    present = sorted({int(number) for atoms in everything for number in atoms.numbers})

    notes: list[str] = []
    precise = "float64" if "float64_training" in backend.abilities else "float32"
    base = backend.single_head(backend.cast(module, precise), foundation.head)
    if spec.prune:
        base = _pruned(backend, base, present, train[0], notes)
    numbers, cutoff, own = backend.atomic_numbers(base), backend.cutoff(base), backend.atomic_energies(base)[0]
    raw = {split: labelled_graphs(frames[split], labels[split], split, numbers, cutoff, own) for split in frames}
    suited = energies = _reference_energies(backend, base, spec, raw["train"], present)
    if spec.start == "fresh" and spec.e0 == "refit":
        totals = np.array([float(label.energy or 0.0) for label in labels["train"]])
        energies = least_squares_shift(compositions(raw["train"], len(own)), totals)
    start = _start_model(backend, base, spec, seed, energies, raw["train"])
    digests = {split: dataset_digest(frames[split]) for split in frames}
    for role, some in (("curvature", targets), ("curvature_valid", valid_curvature)):
        parts = [[digest_atoms(target.atoms), digest_array(target.hessian)] for target in some]
        if parts:
            digests[role] = digest_json(parts[0] if len(parts) == 1 else parts)
    replayed, replay_labels = [], ""
    if spec.uses_replay:
        drawn, replay_labels = replay_frames(backend, base, replay or [], spec, seed)
        digests["replay"] = dataset_digest(drawn)
        # replay keeps the foundation's own atomic energies (only interaction energies are compared), unless nothing of
        # the foundation is kept
        reference = energies if spec.start == "fresh" else own
        replayed = labelled_graphs(drawn, check_frames(drawn, "replay"), "replay", numbers, cutoff, reference)
    head = len(backend.heads(start)) - 1
    return Assembly(
        backend=backend,
        spec=spec,
        foundation=base,
        start=start,
        train=relative_to(raw["train"], energies - own, head),
        valid=relative_to(raw["valid"], energies - own, head),
        replay=replayed,
        unshifted=raw,
        shifted={split: relative_to(graphs, suited - own, 0) for split, graphs in raw.items()},
        targets=targets,
        n_parameters=sum(parameter.numel() for parameter in module.parameters()),
        e0_shift={
            chemical_symbols[z]: float(new - old)
            for z, new, old in zip(numbers, energies, own, strict=True)
            if z in present or new != old
        },
        replay_labels=replay_labels,
        digests=digests,
        notes=notes,
    )


def _require_abilities(backend: Backend, model: torch.nn.Module, spec: TrainSpec) -> None:
    """Refuse a strategy that means nothing for this architecture, or that leaves nothing to train."""
    if spec.replay == "head":
        require_ability(backend, "heads", "replay=head (strategy multihead)")
    if spec.anchor == "low_rank":
        require_ability(backend, "low_rank", "anchor=low_rank (strategy lora)")
    if spec.dtype == "float64":
        require_ability(backend, "float64_training", "dtype=float64")
    frozen_blocks(backend, model, spec)


def _as_targets(curvature: CurvatureInput) -> list[CurvatureTarget]:
    several = curvature if isinstance(curvature, Sequence) else [] if curvature is None else [curvature]
    return [one if isinstance(one, CurvatureTarget) else curvature_target(one) for one in several]


def _pruned(
    backend: Backend, model: torch.nn.Module, numbers: Sequence[int], atoms: Atoms, notes: list[str]
) -> torch.nn.Module:
    """Prune a model and prove on one structure that it predicts the same; an architecture that resists stays whole."""
    if list(numbers) == sorted(backend.atomic_numbers(model)):
        return model
    try:
        smaller = backend.prune(model, numbers)
        whole, same = (_predicted(backend, one, atoms) for one in (model, smaller))
    except (PotentialError, RuntimeError, AttributeError, KeyError, IndexError, TypeError) as error:
        notes.append(f"Not pruned: this architecture could not be rebuilt ({error}).")
        return model
    worst = float((whole - same).abs().max())
    if worst < PRUNING_TOLERANCE:
        return smaller
    notes.append(f"Not pruned: the pruned model differs by {worst:.1e}.")
    return model


def _predicted(backend: Backend, model: torch.nn.Module, atoms: Atoms) -> torch.Tensor:
    """Return energy per atom (eV) and forces (eV/Å) of a model."""
    graph = make_graph(atoms, backend.atomic_numbers(model), backend.cutoff(model))
    with frozen(model):
        batch = collate([graph], next(model.parameters()).dtype, "cpu")
        predictions = backend.predict(model, batch, stress=False, create_graph=False)
    return torch.cat([predictions.energy / len(atoms), predictions.forces.reshape(-1)]).detach()


def _reference_energies(
    backend: Backend, model: torch.nn.Module, spec: TrainSpec, graphs: Sequence[LabelledGraph], present: Sequence[int]
) -> Array:
    """Return the atomic energies the foundation is used with in this training, eV, in the model's order."""
    own = backend.atomic_energies(model)[0]
    if spec.e0 == "foundation":
        return own
    if spec.e0 == "given":
        energies, numbers = own.copy(), backend.atomic_numbers(model)
        energies[[numbers.index(z) for z in present]] = given_energies(spec.e0_values or {}, present)
        return energies
    return own + least_squares_shift(compositions(graphs, len(own)), energy_residuals(backend, model, graphs))


def _start_model(
    backend: Backend,
    base: torch.nn.Module,
    spec: TrainSpec,
    seed: int,
    energies: Array,
    graphs: Sequence[LabelledGraph],
) -> torch.nn.Module:
    if spec.start == "fresh":
        forces = torch.tensor(np.concatenate([one.forces for one in graphs]))
        neighbours = sum(one.graph.n_edges for one in graphs) / sum(len(one.graph.species) for one in graphs)
        model = backend.fresh(base, FreshStart(seed, neighbours, float(forces.square().mean().sqrt())))
    elif spec.replay == "head":
        model = backend.with_heads(base, HEADS)
    else:
        model = copy.deepcopy(base)
    backend.set_atomic_energies(model, len(backend.heads(model)) - 1, energies)
    return model
