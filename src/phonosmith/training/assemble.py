"""From frames and a foundation to the graphs and the starting model of one training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_array, digest_atoms, digest_json
from phonosmith.harmonic.curvature import CurvatureTarget, check_target, curvature_target, hold_out
from phonosmith.potentials.backend import Backend, FreshStart, require_ability
from phonosmith.potentials.base import Array, Potential, require_elements
from phonosmith.potentials.device import DeviceChoice
from phonosmith.potentials.graphs import Graph, collate, make_graph
from phonosmith.potentials.torch_potential import TorchPotential
from phonosmith.reference.datasets.dataset import dataset_digest
from phonosmith.reference.datasets.moments import magnetic_note
from phonosmith.structures.labels import SOURCE, Labels
from phonosmith.training.curvature import Columns, CurvatureCell, CurvatureTerm
from phonosmith.training.documents import Errors
from phonosmith.training.energies import given_energies, least_squares_shift
from phonosmith.training.graphs import LabelledGraph, check_frames, compositions, labelled_graphs, relative_to
from phonosmith.training.judging import Predicted, predicted
from phonosmith.training.replay import POOL_OF, draw, keeps_labels, with_labels
from phonosmith.training.spec import TrainSpec
from phonosmith.training.trainable import frozen_blocks

if TYPE_CHECKING:
    from phonopy import Phonopy

    CurvatureInput: TypeAlias = CurvatureTarget | Phonopy | Sequence[CurvatureTarget | Phonopy] | None

T = TypeVar("T")

HEADS = ("pt_head", "Default")
"""Readouts of a model with a replay head (the names mace gives them); the last one is trained on the material."""
PRUNING_TOLERANCE = 1e-8
"""Largest change of energy per atom (eV) and force (eV/Å) that pruning may make; rounding gives about 1e-14."""
OWN_LABELS = 1e-3
"""Force error of a foundation below which labels are its own, meV/Å: rounding of a GPU gives less, DFT far more."""
DIFFERENCE_MARGIN = 0.1
"""Added to the cutoff of graphs used for finite differences, Å: no neighbour may appear or vanish."""


@dataclass(frozen=True)
class Base:
    """A foundation as it is trained from: one head, the precision of all judgement, only the elements of the data.

    ``model`` is on the CPU; ``notes`` say what could not be done to it.
    """

    model: torch.nn.Module
    numbers: tuple[int, ...]
    cutoff: float
    energies: Array
    notes: tuple[str, ...]


class Groundwork:
    """What trainings from one foundation share: each pruned copy, neighbour list and prediction is made once.

    Parameters
    ----------
    foundation
        Loaded potential of a torch architecture; it is not changed.
    """

    def __init__(self, foundation: Potential) -> None:
        if not isinstance(foundation, TorchPotential):
            raise PotentialError(
                f"{getattr(foundation, 'architecture', type(foundation).__name__)} cannot be fine-tuned.",
                "Give a loaded potential of a torch architecture, e.g. registry.load('MACE-MPA-0').",
            )
        self.potential, self.backend = foundation, foundation.backend
        self.backend.require_trainable(foundation.model)
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made for a key, making it the first time."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def graph(self, atoms: Atoms, numbers: Sequence[int], cutoff: float, index: int = 0) -> Graph:
        """Return a configuration's graph; its neighbours are sought once, whatever the order of elements."""
        kept = self.once(("graph", digest_atoms(atoms), cutoff), lambda: make_graph(atoms, numbers, cutoff))
        place = {number: row for row, number in enumerate(numbers)}
        species = np.array([place[int(number)] for number in atoms.numbers], dtype=np.int64)
        return replace(kept, index=index, species=species)

    def base(self, present: tuple[int, ...], probe: Atoms, *, prune: bool) -> Base:
        """Return the foundation pruned to the elements present (all of them where it resists, or is not to be)."""
        return self.once(("base", present, prune), lambda: self._base(present, probe, prune=prune))

    def _base(self, present: tuple[int, ...], probe: Atoms, *, prune: bool) -> Base:
        backend, notes = self.backend, []
        precise = "float64" if "float64_training" in backend.abilities else "float32"
        model = backend.single_head(backend.cast(self.potential.model, precise), self.potential.head)
        if prune and present != tuple(sorted(backend.atomic_numbers(model))):
            try:
                smaller = backend.prune(model, present)
                whole, same = (self._predicted_one(one, probe) for one in (model, smaller))
                worst = float((whole - same).abs().max())
                if worst < PRUNING_TOLERANCE:
                    model = smaller
                else:
                    notes.append(f"Not pruned: the pruned model differs by {worst:.1e}.")
            except (PotentialError, RuntimeError, AttributeError, KeyError, IndexError, TypeError) as error:
                notes.append(f"Not pruned: this architecture could not be rebuilt ({error}).")
        numbers, energies = backend.atomic_numbers(model), backend.atomic_energies(model)[0]
        return Base(model, numbers, backend.cutoff(model), energies, tuple(notes))

    def _predicted_one(self, model: torch.nn.Module, atoms: Atoms) -> torch.Tensor:
        """Return energy per atom (eV) and forces (eV/Å) of a model."""
        graph = self.graph(atoms, self.backend.atomic_numbers(model), self.backend.cutoff(model))
        found = predicted(self.backend, model, [graph])
        return torch.cat([found.energy / len(atoms), found.forces.reshape(-1)])

    def judge(self, base: Base, device: str) -> torch.nn.Module:
        """Return a base where predictions are made."""
        return self.once(("judge", id(base), device), lambda: placed(base.model, device))

    def predicted(self, base: Base, frames: Sequence[Atoms], device: str) -> Predicted:
        """Return the foundation's predictions for a set of configurations, made on a device."""
        key = ("predicted", id(base), device, *map(digest_atoms, frames))
        graphs = [self.graph(atoms, base.numbers, base.cutoff, index) for index, atoms in enumerate(frames)]
        return self.once(key, lambda: predicted(self.backend, self.judge(base, device), graphs))


def n_weights(model: torch.nn.Module) -> int:
    """Return the number of weights of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def placed(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """Return a model on a device: itself on the CPU, else a copy."""
    return model if device == "cpu" else copy.deepcopy(model).to(device)


@dataclass(frozen=True)
class Assembly:
    """Everything one training starts from, on the CPU in the precision that everything but the steps is done in.

    Attributes
    ----------
    ground, base
        What it shares with other trainings; the pruned single-head foundation with its own atomic energies.
    placed
        Where training is, and all that is predicted before and after it, and why there.
    start
        Model to train: foundation or fresh, with its heads and the atomic energies of this training.
    train, valid, replay
        Graphs labelled relative to ``start``'s atomic energies.
    frames
        The configurations behind the graphs of each split, replay included where there is any.
    raw
        Train and valid graphs relative to the foundation's own atomic energies, for judging it as it is.
    suited
        How the atomic energies the foundation would be used with here differ from its own, eV: for judging it fairly.
    targets, judged
        Force constants to learn, and those that judge epochs (held out, or given for it).
    n_parameters
        Of the foundation before pruning.
    digests
        Identity of every input.
    """

    ground: Groundwork
    base: Base
    spec: TrainSpec
    placed: DeviceChoice
    start: torch.nn.Module
    train: list[LabelledGraph]
    valid: list[LabelledGraph]
    replay: list[LabelledGraph]
    frames: dict[str, Sequence[Atoms]]
    raw: dict[str, list[LabelledGraph]]
    suited: Array
    targets: Sequence[CurvatureTarget]
    judged: Sequence[CurvatureTarget]
    seed: int
    n_parameters: int
    e0_shift: dict[str, float]
    replay_labels: str
    digests: dict[str, str]
    notes: list[str]

    @property
    def device(self) -> str:
        """Where training is."""
        return self.placed.device

    @property
    def backend(self) -> Backend:
        """Functions of the architecture."""
        return self.ground.backend

    @property
    def foundation(self) -> torch.nn.Module:
        """The pruned foundation."""
        return self.base.model

    @property
    def main_head(self) -> int:
        """Index of the head that is trained on the material: the last one."""
        return len(self.backend.heads(self.start)) - 1

    @property
    def dtype(self) -> torch.dtype:
        """Precision of foundation and start."""
        return next(self.foundation.parameters()).dtype

    def foundation_predicted(self, split: str) -> Predicted:
        """Return the foundation's predictions of a split, computed once."""
        return self.ground.predicted(self.base, self.frames[split], self.device)

    def foundation_errors(self, split: str, *, shifted: bool = False) -> Errors:
        """Return the foundation's errors on a split, with its own atomic energies or with those suited to the data."""
        found = self.foundation_predicted(split)
        graphs = self.replay if split == "replay" else self.raw[split]
        return found.errors(relative_to(graphs, self.suited, 0) if shifted else graphs, self.spec)

    def foundation_columns(self, method: str, targets: Sequence[CurvatureTarget]) -> float:
        """Return the foundation's error on columns of some of the force constants, eV/Å²."""

        def make() -> float:
            term = self.curvature_term(targets, self.dtype, self.device, head=0)
            assert term is not None  # asked for where there are targets
            term.method = method
            return term.mae(self.ground.judge(self.base, self.device))

        settings = self.device, self.spec.curvature_step, self.spec.curvature_memory_gb
        which = digest_json([[digest_array(one.hessian), list(one.columns)] for one in targets])
        return self.ground.once(("columns", id(self.base), which, method, *settings), make)

    def taught_term(self, dtype: torch.dtype, device: str = "cpu") -> CurvatureTerm | None:
        """Build the term that training takes its steps on, None where there are no force constants.

        With uniform draws every column is there, and several crystals share a step.
        """
        if self.spec.curvature_sampling == "irreducible":
            return self.curvature_term(self.targets, dtype, device)
        order = np.random.default_rng([self.seed, 23]).permutation(len(self.targets))
        shuffled = [self.targets[k] for k in order]
        size = self.spec.curvature_batch
        groups = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        cells = [self._cell(group, dtype, device, self.main_head, every=True) for group in groups]
        return CurvatureTerm(self.backend, cells, self.spec, seed=self.seed) if cells else None

    def curvature_term(
        self, targets: Sequence[CurvatureTarget], dtype: torch.dtype, device: str = "cpu", head: int | None = None
    ) -> CurvatureTerm | None:
        """Build the term of the irreducible columns of some force constants, one crystal a cell; None without any."""
        head = self.main_head if head is None else head
        cells = [self._cell([target], dtype, device, head, every=False) for target in targets]
        return CurvatureTerm(self.backend, cells, self.spec, seed=self.seed) if cells else None

    def _cell(
        self, targets: Sequence[CurvatureTarget], dtype: torch.dtype, device: str, head: int, *, every: bool
    ) -> CurvatureCell:
        cutoff = self.base.cutoff + (DIFFERENCE_MARGIN if self.spec.curvature_method == "fd" else 0.0)
        graphs = [self.ground.graph(target.atoms, self.base.numbers, cutoff) for target in targets]
        members, offset = [], 0
        for target in targets:
            columns = list(target.equivalent_columns if every else target.columns)
            weights = np.ones(len(columns)) if every else np.array(target.weights)
            members.append(
                Columns(
                    torch.tensor(columns, device=device) + offset,
                    torch.tensor(target.hessian[:, columns].T.copy(), dtype=dtype, device=device),
                    torch.tensor(weights, dtype=dtype, device=device),
                )
            )
            offset += 3 * len(target.atoms)
        energy = None
        if self.spec.curvature_energy_weight:
            energy = torch.tensor([self._interaction(target) for target in targets], dtype=dtype, device=device)
        return CurvatureCell(collate(graphs, dtype, device, head), tuple(members), energy)

    def _interaction(self, target: CurvatureTarget) -> float:
        """Return the energy a perfect cell is to have without atomic energies, eV: by default the foundation's."""
        if target.energy is not None:
            species = [self.base.numbers.index(int(number)) for number in target.atoms.numbers]
            own = self.backend.atomic_energies(self.start)[self.main_head]
            return target.energy - float(own[species].sum())
        return float(self.ground.predicted(self.base, [target.atoms], "cpu").interaction[0])


def assemble(
    foundation: Potential | Groundwork,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    spec: TrainSpec,
    *,
    replay: Sequence[Atoms] | None,
    curvature: CurvatureInput = None,
    valid_curvature: Sequence[CurvatureTarget] = (),
    seed: int,
    place: Callable[[Assembly], DeviceChoice] | None = None,
) -> Assembly:
    """Check the input and build the graphs, the pruned foundation and the model to start from.

    ``place`` chooses the device once there is something to choose it by: an assembly whose start and labels are the
    foundation's own. By default it is the CPU.
    """
    ground = foundation if isinstance(foundation, Groundwork) else Groundwork(foundation)
    backend, module = ground.backend, ground.potential.model
    _require_abilities(backend, module, spec)
    frames: dict[str, Sequence[Atoms]] = {"train": train, "valid": valid}
    labels = {split: check_frames(frames[split], split, minimum=2 if split == "train" else 1) for split in frames}
    targets = _as_targets(curvature)
    if len(targets) == 1 and not isinstance(curvature, Sequence):
        check_target(targets[0], train)
    everything = [*train, *valid, *(replay or []), *(target.atoms for target in (*targets, *valid_curvature))]
    require_elements(ground.potential, everything, "The foundation")
    present = tuple(sorted({int(number) for atoms in everything for number in atoms.numbers}))

    base = ground.base(present, min(train, key=len), prune=spec.prune)
    asked, count = spec, n_weights(base.model)
    spec = asked.for_model(count, low_rank="low_rank" in backend.abilities)
    spec = spec.for_cells([len(atoms) for atoms in train], count)
    numbers, own = base.numbers, base.energies

    def graphs_of(split: str, labelled: Sequence[Labels], e0: Array) -> list[LabelledGraph]:
        return labelled_graphs(frames[split], labelled, split, numbers, base.cutoff, e0, ground.graph)

    raw = {split: graphs_of(split, labels[split], own) for split in ("train", "valid")}
    digests = {split: dataset_digest(frames[split]) for split in frames}
    for role, some in (("curvature", targets), ("curvature_valid", valid_curvature)):
        parts = [[digest_atoms(target.atoms), digest_array(target.hessian)] for target in some]
        if parts:
            digests[role] = digest_json(parts[0] if len(parts) == 1 else parts)
    taught, judged, judging = _divided(targets, valid_curvature, spec, seed)
    notes = [*base.notes, *judging]
    if spec.anchor != asked.anchor:
        notes.append(f"{count:,} weights: they stay as they are, matrices of rank {spec.rank} are learnt beside them")
    if spec.curvature_energy_weight and (unknown := [one.source for one in targets if one.energy is None]):
        notes.append(f"The energies of {len(unknown)} perfect cells are not known: the foundation's own are kept")
    plain = Assembly(
        ground=ground,
        base=base,
        spec=spec,
        placed=DeviceChoice("cpu", "asked for"),
        start=base.model,
        train=raw["train"],
        valid=raw["valid"],
        replay=[],
        frames=frames,
        raw=raw,
        suited=np.zeros(len(own)),
        targets=taught,
        judged=judged,
        seed=seed,
        n_parameters=n_weights(module),
        e0_shift={},
        replay_labels="",
        digests=digests,
        notes=[*notes, *filter(None, [magnetic_note(frames["train"])])],
    )
    chosen = plain.placed if place is None else place(plain)
    device = chosen.device
    suited = energies = _reference_energies(plain, device, present)
    if spec.fresh_readout and spec.e0 == "refit":
        totals = np.array([float(label.energy or 0.0) for label in labels["train"]])
        energies = least_squares_shift(compositions(raw["train"], len(own)), totals)
    start = _start_model(backend, base.model, spec, seed, energies, raw["train"])
    replayed, replay_labels = [], ""
    if spec.uses_replay:
        drawn = draw(replay or [], spec.replay_size, seed)
        replay_labels = "given" if keeps_labels(drawn, spec) else "foundation"
        if replay_labels == "foundation":
            # their labels follow from foundation and configurations; on a GPU not to the last bit
            digests["replay"] = dataset_digest([atoms.copy() for atoms in drawn])
            drawn = with_labels(drawn, ground.predicted(base, drawn, device))
        else:
            digests["replay"] = dataset_digest(drawn)
            if all(str(atoms.info.get(SOURCE, "")).startswith(POOL_OF) for atoms in drawn):
                replay_labels = "foundation"
        if replay_labels == "foundation":
            plain.notes.append(
                f"Replay: {len(drawn)} structures labelled by the foundation itself, no subset of its training data"
            )
        frames["replay"] = drawn
        # replay keeps the foundation's own atomic energies (only interaction energies are compared), unless nothing of
        # the foundation is kept
        reference = energies if spec.start == "fresh" else own
        replayed = graphs_of("replay", check_frames(drawn, "replay"), reference)
    head = len(backend.heads(start)) - 1
    whole = replace(
        plain,
        placed=chosen,
        start=start,
        train=relative_to(raw["train"], energies - own, head),
        valid=relative_to(raw["valid"], energies - own, head),
        replay=replayed,
        suited=suited - own,
        e0_shift={
            chemical_symbols[z]: float(new - old)
            for z, new, old in zip(numbers, energies, own, strict=True)
            if z in present or new != old
        },
        replay_labels=replay_labels,
    )
    if whole.targets and not whole.judged:
        own_labels = whole.foundation_errors("valid", shifted=True).mae_forces_mev_per_angstrom < OWN_LABELS
        if own_labels:
            notes.append("Validation labels are the foundation's own: the columns that are learnt judge epochs")
            return replace(whole, judged=whole.targets)
    return whole


def _divided(
    targets: Sequence[CurvatureTarget], given: Sequence[CurvatureTarget], spec: TrainSpec, seed: int
) -> tuple[list[CurvatureTarget], list[CurvatureTarget], list[str]]:
    """Return force constants to learn, those that judge epochs, and what has to be said about it.

    Of several crystals whole ones are held out; of one, the columns of inequivalent atoms.
    """
    taught, judged = list(targets), list(given)
    if judged or not taught:
        return taught, judged, []
    generator, share = np.random.default_rng([seed, 29]), spec.curvature_holdout
    if len(taught) > 1:
        count = max(int(share * len(taught)), 1 if share and len(taught) > 2 else 0)
        held = set(generator.permutation(len(taught))[:count].tolist())
        judged = [one for place, one in enumerate(taught) if place in held]
        taught = [one for place, one in enumerate(taught) if place not in held]
    else:
        rest, alone = hold_out(taught[0], share, generator)
        taught, judged = [rest], [alone] if alone is not None else []
    if judged:
        return taught, judged, []
    return taught, [], ["No force constants are held out (too few that symmetry leaves independent)"]


def _require_abilities(backend: Backend, model: torch.nn.Module, spec: TrainSpec) -> None:
    """Refuse a strategy that means nothing for this architecture, or that leaves nothing to train."""
    if spec.replay == "head":
        require_ability(backend, "heads", "replay=head (strategy multihead)")
    if spec.anchor == "low_rank":
        require_ability(backend, "low_rank", "anchor=low_rank (strategy lora)")
    if spec.dtype == "float64":
        require_ability(backend, "float64_training", "dtype=float64")
    if spec.optimizer == "mace":
        backend.decays(model, "", "interactions")
    frozen_blocks(backend, model, spec)


def _as_targets(curvature: CurvatureInput) -> list[CurvatureTarget]:
    several = curvature if isinstance(curvature, Sequence) else [] if curvature is None else [curvature]
    return [one if isinstance(one, CurvatureTarget) else curvature_target(one) for one in several]


def _reference_energies(plain: Assembly, device: str, present: Sequence[int]) -> Array:
    """Return the atomic energies the foundation is used with in this training, eV, in the model's order."""
    spec, base, graphs, own = plain.spec, plain.base, plain.raw["train"], plain.base.energies
    if spec.e0 == "foundation":
        return own
    if spec.e0 == "given":
        energies = own.copy()
        energies[[base.numbers.index(z) for z in present]] = given_energies(spec.e0_values or {}, present)
        return energies
    residuals = plain.ground.predicted(base, plain.frames["train"], device).residuals(graphs)
    return own + least_squares_shift(compositions(graphs, len(own)), residuals)


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
        model = backend.with_heads(base, HEADS, seed if spec.head_start == "fresh" else None)
    else:
        model = copy.deepcopy(base)
    backend.set_atomic_energies(model, len(backend.heads(model)) - 1, energies)
    return model
