"""From frames and a foundation to the graphs and the starting model of one training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from phonosmith.core.errors import PotentialError
from phonosmith.core.hashing import digest_array, digest_atoms, digest_json
from phonosmith.reference.datasets.dataset import dataset_digest
from phonosmith.structures.labels import Labels
from phonosmith.training.curvature import CurvatureTarget, CurvatureTerm, check_target, curvature_target
from phonosmith.training.energies import energy_residuals, given_energies, least_squares_shift, relative_to
from phonosmith.training.graphs import Graph, build_graph, check_frames, collate, frame_name, fresh
from phonosmith.training.models import (
    MAIN_HEAD,
    REPLAY_HEAD,
    cast,
    frozen,
    model_e0,
    model_heads,
    model_numbers,
    prune,
    rebuild,
    set_e0,
    single_head,
    torch_module,
)
from phonosmith.training.replay import replay_frames
from phonosmith.training.spec import TrainSpec

CurvatureInput = Any
"""A phonopy object, a CurvatureTarget, or None."""
PRUNING_TOLERANCE = 1e-8
"""Largest change of energy per atom (eV) and force (eV/Å) that pruning may make; rounding gives about 1e-14."""
DIFFERENCE_MARGIN = 0.1
"""Added to the cutoff of graphs used for finite differences, Å: no neighbour may appear or vanish."""


@dataclass
class Assembly:
    """Everything one training starts from, in float64 on the CPU.

    Attributes
    ----------
    foundation
        Pruned single-head foundation with its own atomic energies.
    start
        Model to train: foundation or fresh, with its heads and the atomic energies of this training.
    train, valid, replay
        Graphs labelled with interaction energies of ``start``'s atomic energies.
    unshifted
        Train and valid graphs relative to the foundation's own atomic energies, for judging it as it is.
    shifted
        The same relative to the atomic energies it would be used with here, for judging it fairly.
    digests
        Identity of every input.
    """

    foundation: torch.nn.Module
    start: torch.nn.Module
    train: list[Graph]
    valid: list[Graph]
    replay: list[Graph]
    unshifted: dict[str, list[Graph]]
    shifted: dict[str, list[Graph]]
    n_parameters: int
    e0_shift: dict[str, float]
    target: CurvatureTarget | None = None
    replay_labels: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def main_head(self) -> int:
        """Index of the head that is trained on the material."""
        return model_heads(self.start).index(MAIN_HEAD) if len(model_heads(self.start)) > 1 else 0


def assemble(
    foundation: Any,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    spec: TrainSpec,
    *,
    replay: Sequence[Atoms] | None,
    curvature: CurvatureInput,
    seed: int,
) -> Assembly:
    """Check the input and build the graphs, the pruned foundation and the model to start from."""
    labels = {
        "train": check_frames(train, "train", minimum=2),
        "valid": check_frames(valid, "valid", minimum=1),
    }
    module = torch_module(foundation)
    head = getattr(foundation, "head", None) or model_heads(module)[-1]
    pool = list(replay or [])
    target = _as_target(curvature, train)
    numbers = _covered(module, [*train, *valid, *pool], spec)
    notes: list[str] = []
    original = single_head(cast(module, "float64").cpu(), head)
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    base = _pruned(original, numbers, train[0], labels["train"][0], notes) if spec.prune else original
    numbers = model_numbers(base)
    digests = {"train": dataset_digest(train), "valid": dataset_digest(valid)}
    if target is not None:
        digests["curvature"] = digest_json([digest_atoms(target.atoms), digest_array(target.hessian)])

    own = model_e0(base)[0]
    splits = {"train": train, "valid": valid}
    raw = {split: _graphs(frames, labels[split], base, own, split=split) for split, frames in splits.items()}
    suited = _reference_energies(base, spec, train, raw["train"])
    energies = suited
    if spec.start == "fresh" and spec.e0 == "refit":
        totals = np.array([float(label.energy or 0.0) for label in labels["train"]])
        energies = least_squares_shift(train, numbers, totals)
    replayed: list[Atoms] = []
    origin = ""
    if spec.uses_replay:
        replayed, origin = replay_frames(base, pool, size=spec.replay_size, labels=spec.replay_labels, seed=seed)
        digests["replay"] = dataset_digest(replayed)
        check_frames(replayed, "replay")
    start = _start_model(base, spec, seed, energies, raw["train"])
    assembly = Assembly(
        foundation=base,
        start=start,
        train=[],
        valid=[],
        replay=[],
        unshifted=raw,
        shifted={split: relative_to(graphs, suited - own, 0) for split, graphs in raw.items()},
        n_parameters=n_parameters,
        e0_shift={chemical_symbols[z]: float(e - o) for z, e, o in zip(numbers, energies, own, strict=True)},
        target=target,
        replay_labels=origin,
        digests=digests,
        notes=notes,
    )
    for split, graphs in raw.items():
        setattr(assembly, split, relative_to(graphs, energies - own, assembly.main_head))
    # replay keeps the foundation's own atomic energies (only interaction energies are compared), unless nothing of
    # the foundation is kept
    if replayed:
        reference = energies if spec.start == "fresh" else own
        assembly.replay = _graphs(replayed, check_frames(replayed, "replay"), base, reference, split="replay")
    return assembly


def _as_target(curvature: CurvatureInput, train: Sequence[Atoms]) -> CurvatureTarget | None:
    if curvature is None:
        return None
    target = curvature if isinstance(curvature, CurvatureTarget) else curvature_target(curvature)
    check_target(target, train)
    return target


def _covered(module: torch.nn.Module, frames: Sequence[Atoms], spec: TrainSpec) -> list[int]:
    """Return the atomic numbers to train with; every element of the data must be known to the foundation."""
    wanted = sorted({int(z) for atoms in frames for z in atoms.numbers})
    known = model_numbers(module)
    missing = [chemical_symbols[z] for z in wanted if z not in known]
    if missing:
        raise PotentialError(
            f"The foundation does not know {', '.join(missing)} "
            f"(it covers {' '.join(chemical_symbols[z] for z in sorted(known))}).",
            "Choose a foundation that covers every element of the data.",
        )
    return wanted if spec.prune else known


def _pruned(
    model: torch.nn.Module, numbers: Sequence[int], atoms: Atoms, labels: Labels, notes: list[str]
) -> torch.nn.Module:
    """Prune a model and prove on one structure that it predicts the same; an architecture that resists stays whole."""
    if sorted(numbers) == sorted(model_numbers(model)):
        return model
    try:
        smaller = prune(model, numbers)
        worst = _disagreement(model, smaller, atoms, labels)
    except (PotentialError, RuntimeError, AttributeError, KeyError, IndexError, TypeError) as error:
        notes.append(f"Not pruned: this architecture could not be rebuilt ({error}).")
        return model
    if not worst < PRUNING_TOLERANCE:
        notes.append(f"Not pruned: the pruned model differs by {worst:.1e}.")
        return model
    return smaller


def _disagreement(one: torch.nn.Module, other: torch.nn.Module, atoms: Atoms, labels: Labels) -> float:
    found = []
    for model in (one, other):
        graph = _graphs([atoms], [labels], model, model_e0(model)[0], split="train")[0]
        with frozen(model):
            output = model(fresh(collate([graph])), training=False)
        found.append((output["energy"].detach() / len(atoms), output["forces"].detach()))
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


def _graphs(
    frames: Sequence[Atoms], labels: Sequence[Labels], model: torch.nn.Module, e0: np.ndarray, *, split: str
) -> list[Graph]:
    numbers, cutoff = model_numbers(model), float(model.r_max)
    return [
        build_graph(
            atoms,
            label,
            numbers=numbers,
            cutoff=cutoff,
            e0=e0,
            dtype=torch.float64,
            replay=split == "replay",
            name=frame_name(split, index, atoms),
        )
        for index, (atoms, label) in enumerate(zip(frames, labels, strict=True))
    ]


def _reference_energies(
    model: torch.nn.Module, spec: TrainSpec, train: Sequence[Atoms], graphs: Sequence[Graph]
) -> np.ndarray:
    """Return the atomic energies the foundation is used with in this training, eV, in the model's order."""
    numbers = model_numbers(model)
    own = model_e0(model)[0]
    if spec.e0 == "foundation":
        return own
    if spec.e0 == "given":
        return given_energies(spec.e0_values or {}, numbers)
    return own + least_squares_shift(train, numbers, energy_residuals(model, graphs))


def _start_model(
    base: torch.nn.Module, spec: TrainSpec, seed: int, energies: np.ndarray, graphs: Sequence[Graph]
) -> torch.nn.Module:
    if spec.start == "fresh":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = rebuild(base, model_numbers(base), fresh=True)
        forces = torch.cat([graph.tensors["forces"] for graph in graphs])
        edges = sum(graph.tensors["edge_index"].shape[1] for graph in graphs)
        neighbours = edges / sum(graph.n_atoms for graph in graphs)
        for interaction in model.interactions:
            interaction.avg_num_neighbors = float(neighbours)
        # as mace trains from scratch: energies in units of the forces' root mean square
        model.scale_shift.scale.fill_(max(float(forces.square().mean().sqrt()), 1e-3))
    elif spec.replay == "head":
        model = rebuild(base, model_numbers(base), (REPLAY_HEAD, MAIN_HEAD))
    else:
        model = copy.deepcopy(base)
    set_e0(model, len(model_heads(model)) - 1, energies)
    return model


def curvature_term(
    assembly: Assembly, spec: TrainSpec, dtype: torch.dtype, device: torch.device, head: int | None = None
) -> CurvatureTerm | None:
    """Build the curvature term of a training in some precision, None where the strategy has none."""
    target = assembly.target
    if target is None:
        return None
    base = assembly.foundation
    differences = spec.curvature_method == "fd"
    graph = build_graph(
        target.atoms,
        None,
        numbers=model_numbers(base),
        cutoff=float(base.r_max) + (DIFFERENCE_MARGIN if differences else 0.0),
        e0=model_e0(base)[0],
        dtype=dtype,
        head=assembly.main_head if head is None else head,
        name="perfect supercell",
        device=device,
    )
    columns = list(target.columns)
    return CurvatureTerm(
        batch=collate([graph]),
        reference=torch.as_tensor(target.hessian[:, columns].T.copy(), dtype=dtype, device=device),
        columns=target.columns,
        column_weights=torch.tensor(target.weights, dtype=dtype, device=device),
        weight=spec.curvature_weight,
        forces_weight=spec.curvature_forces_weight,
        stress_weight=spec.curvature_stress_weight,
        per_step=spec.curvature_columns,
        method=spec.curvature_method,
        step=spec.curvature_step,
        memory_gb=spec.curvature_memory_gb,
    )
