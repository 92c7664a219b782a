"""Evaluate many configurations in batches whose size the memory decides.

What it costs was measured (benchmarks/evaluator): on a CPU the network is everything, neighbour lists are 2 %. So
time is saved where the network does needless work: elements that no configuration holds (a foundation pruned from 89 to
one runs twice as fast), radial networks seeing every pair twice, and batches that overflow the processor's cache
(slower than single configurations) or are too small to hide the cost of a call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.base import Evaluation
from phonosmith.potentials.mace.graphs import Graph, batches, collate, make_graph
from phonosmith.potentials.mace.pairs import directed_pairs, shared_pairs

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.potentials.mace.potential import MacePotential

log = logging.getLogger(__name__)

_CACHE = 20e6
"""Bytes of edge data per batch and thread on a CPU: where the time per configuration was smallest."""
_KEPT = 6.0
"""Copies of the edge data that live at once on a GPU: forward values, their gradients and temporaries."""


def evaluate_batched(
    potential: MacePotential, frames: Sequence[Atoms], *, stress: bool, progress: bool
) -> list[Evaluation]:
    """Return the evaluation of every frame, in the order given."""
    from rich.console import Console
    from rich.progress import Progress

    potential = potential.lean(frames)
    limits = batch_limits(potential)
    results: list[Evaluation | None] = [None] * len(frames)
    with frozen(potential.model), Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("evaluating", total=len(frames))
        graphs = (make_graph(atoms, potential.z_table, potential.r_max, index) for index, atoms in enumerate(frames))
        for group in batches(graphs, *limits):
            for graph, found in zip(group, _evaluate_group(potential, group, frames, stress=stress), strict=True):
                results[graph.index] = found
            bar.advance(task, len(group))
    return [found for found in results if found is not None]


class frozen:  # noqa: N801  # reads as a statement: with frozen(model)
    """Switch off parameter gradients while a block runs; the previous state comes back afterwards."""

    def __init__(self, model: Any) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


def batch_limits(potential: MacePotential) -> tuple[int, int]:
    """Return the most atoms and edges of one batch on the potential's device."""
    from phonosmith.settings import get_settings

    atoms = get_settings().batch_atoms
    import torch

    if potential.device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(potential.device)
        edges = max(1, int(0.6 * free / (_KEPT * bytes_per_edge(potential))))
        return max(atoms, edges), edges
    return atoms, max(1, int(_CACHE * torch.get_num_threads() / bytes_per_edge(potential)))


def bytes_per_edge(potential: MacePotential) -> float:
    """Return the size of one edge's features, messages and tensor product weights over all layers, bytes."""
    width = 8 if potential.dtype == "float64" else 4
    numbers = 0
    for block in potential.model.interactions:
        numbers += block.conv_tp.irreps_in1.dim + block.conv_tp.irreps_out.dim + block.conv_tp.weight_numel
    return float(width * numbers)


def _evaluate_group(
    potential: MacePotential, group: Sequence[Graph], frames: Sequence[Atoms], *, stress: bool
) -> Iterator[Evaluation]:
    """Evaluate one batch; on a device that runs out of memory, its halves."""
    import torch

    try:
        yield from _evaluate(potential, group, frames, stress=stress)
    except torch.cuda.OutOfMemoryError:
        if len(group) == 1:
            raise PotentialError(
                f"A configuration of {len(group[0].species)} atoms does not fit into the memory of {potential.device}.",
                "Use float32, a smaller supercell or device 'cpu'.",
            ) from None
        torch.cuda.empty_cache()
        half = len(group) // 2
        log.info("out of memory on %s: splitting a batch of %d", potential.device, len(group))
        yield from _evaluate_group(potential, group[:half], frames, stress=stress)
        yield from _evaluate_group(potential, group[half:], frames, stress=stress)


def _evaluate(
    potential: MacePotential, group: Sequence[Graph], frames: Sequence[Atoms], *, stress: bool
) -> list[Evaluation]:
    import torch
    from ase.stress import full_3x3_to_voigt_6_stress

    from phonosmith.potentials.mace.potential import numpy64

    periodic = [bool(np.all(frames[graph.index].pbc)) for graph in group]
    wanted = stress and any(periodic)
    batch = collate(
        group,
        len(potential.z_table),
        potential.heads.index(potential.head),
        getattr(torch, potential.dtype),
        potential.device,
    )
    with shared_pairs(potential.model, *directed_pairs(batch)):
        out = potential.model(batch, compute_stress=wanted)
    energies, forces = numpy64(out["energy"]), numpy64(out["forces"])
    tensions = numpy64(out["stress"]) if wanted else np.zeros((len(group), 3, 3))
    ends = np.cumsum([len(graph.species) for graph in group])
    return [
        Evaluation(
            float(energies[place]),
            forces[end - len(graph.species) : end],
            np.asarray(full_3x3_to_voigt_6_stress(tensions[place])) if periodic[place] and stress else np.zeros(6),
        )
        for place, (graph, end) in enumerate(zip(group, ends, strict=True))
    ]
