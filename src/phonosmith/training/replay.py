"""Replay: structures that keep the model from forgetting, drawn from a pool and labelled by the foundation itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from phonosmith.core.errors import InputError
from phonosmith.structures.labels import label_frame
from phonosmith.training.graphs import build_graph, collate, fresh, is_labelled
from phonosmith.training.models import frozen, model_e0, model_numbers


def draw(pool: Sequence[Atoms], size: int, seed: int) -> list[Atoms]:
    """Draw structures at random without repetition (all of them where the pool is smaller)."""
    if len(pool) == 0:
        raise InputError("The replay pool is empty.", "Give structures to replay, labelled or not.")
    order = np.random.default_rng([seed, 7]).permutation(len(pool))[:size]
    return [pool[index] for index in sorted(order)]


def label_with(model: torch.nn.Module, frames: Sequence[Atoms], batch_atoms: int = 512) -> list[Atoms]:
    """Label structures with a model's own energy, forces and stress.

    Parameters
    ----------
    model
        Single-head MACE module in float64.
    frames
        Configurations; labels they carry are replaced.
    batch_atoms
        Atoms per batch.
    """
    numbers, e0 = model_numbers(model), model_e0(model)[0]
    cutoff = float(model.r_max)
    parameter = next(model.parameters())
    graphs = [
        build_graph(a, None, numbers=numbers, cutoff=cutoff, e0=e0, dtype=parameter.dtype, device=parameter.device)
        for a in frames
    ]
    labelled: list[Atoms] = []
    start = 0
    with frozen(model):
        while start < len(frames):
            stop, atoms_in = start + 1, len(frames[start])
            while stop < len(frames) and atoms_in + len(frames[stop]) <= batch_atoms:
                atoms_in += len(frames[stop])
                stop += 1
            output = model(fresh(collate(graphs[start:stop])), training=False, compute_stress=True)
            forces = output["forces"].detach().cpu().numpy()
            offset = 0
            for k, atoms in enumerate(frames[start:stop]):
                periodic = bool(np.all(atoms.pbc))
                labelled.append(
                    label_frame(
                        atoms,
                        energy=float(output["energy"][k]),
                        forces=forces[offset : offset + len(atoms)],
                        stress=output["stress"][k].detach().cpu().numpy() if periodic else None,
                    )
                )
                offset += len(atoms)
            start = stop
    return labelled


def replay_frames(
    model: torch.nn.Module, pool: Sequence[Atoms], *, size: int, labels: str, seed: int
) -> tuple[list[Atoms], str]:
    """Draw replay structures and see to their labels.

    Parameters
    ----------
    model
        The foundation, float64, covering the pool's elements.
    pool
        Candidates.
    size
        How many to draw.
    labels
        ``given``, ``foundation``, or ``auto``: given where every drawn structure has energy and forces.
    seed
        Of the draw.

    Returns
    -------
    list, str
        Labelled structures and where the labels are from (``given`` or ``foundation``).
    """
    chosen = draw(pool, size, seed)
    if labels == "given" or (labels == "auto" and all(is_labelled(atoms) for atoms in chosen)):
        return chosen, "given"
    return label_with(model, chosen), "foundation"
