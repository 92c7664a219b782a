"""The one potential behind every torch architecture: batches whose size the memory decides, Hessian columns, pruning.

What evaluation costs was measured (benchmarks/evaluator): on a CPU the network is everything, neighbour lists are 2 %.
So time is saved where the network does needless work: elements that no configuration holds (a foundation pruned from 89
to one runs twice as fast), and batches that overflow the processor's cache (slower than single configurations) or are
too small to hide the cost of a call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers, chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from phonosmith.core.errors import PotentialError
from phonosmith.core.manifest import note_device
from phonosmith.core.progress import progress_bar
from phonosmith.potentials.ase_potential import LoadedCalculator
from phonosmith.potentials.base import Array, Evaluation, require_elements
from phonosmith.potentials.capture import RECORD_AFTER, CudaCapture, Recorded
from phonosmith.potentials.device import UNORDERED, DeviceChoice, choose_device, seconds_per_call
from phonosmith.potentials.graphs import Graph, GraphMaker, batches, collate, frozen, make_graph, numpy64
from phonosmith.potentials.hessian import checked_columns, reverse_columns
from phonosmith.settings import get_settings

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.potentials.backend import Backend
    from phonosmith.potentials.capture import Tensors
    from phonosmith.potentials.graphs import Batch

log = logging.getLogger(__name__)

_IDLE_FACTOR = 4
"""Prune for an evaluation when the model knows at least this many times the elements that occur."""
_MANY_ATOMS = 512
"""... and when at least this many atoms are evaluated in one call."""
_CACHE = 20e6
"""Bytes of edge data per batch and thread on a CPU: where the time per configuration was smallest."""
_KEPT = 6.0
"""Copies of the edge data that live at once on a GPU: forward values, their gradients and temporaries."""


class TorchPotential:
    """A torch module, in the precision and on the device it is to be evaluated in.

    A ``head`` to evaluate is needed only for a model with several heads none of which is called "default"; ``name`` is
    used in messages. One that ``roams`` is on the CPU, and each evaluation is done where one of its size was measured
    to take less time (``device.choose_device``). ``r_max`` is the cutoff of one message-passing layer, Å; ``z_table``
    holds the atomic numbers in the order of the model's element channels.
    """

    def __init__(
        self,
        backend: Backend,
        model: torch.nn.Module,
        *,
        head: str | None = None,
        name: str = "The potential",
        roams: bool = False,
    ) -> None:
        self.backend, self.model, self.name, self.roams = backend, model, name, roams
        self.architecture = backend.architecture
        parameter = next(model.parameters())
        self.device = str(parameter.device)
        self.dtype = str(parameter.dtype).removeprefix("torch.")
        self.r_max = backend.cutoff(model)
        self.z_table = backend.atomic_numbers(model)
        self.elements = tuple(chemical_symbols[number] for number in sorted(self.z_table))
        self.heads = backend.heads(model)
        self.head = _choose_head(self.heads, head, name)
        self._lean: dict[tuple[str, ...], tuple[list[float], TorchPotential]] = {}
        self._moved: dict[str, tuple[list[float], TorchPotential]] = {}
        self.recorded: Recorded | None = None
        if self.device.startswith("cuda"):
            # of no method of this object: recordings, which hold memory, must go when it does
            self.recorded = Recorded(partial(_outputs, backend, model), CudaCapture(parameter.device))
        self._recorded_from: tuple[int, ...] = ()
        self._graphs = GraphMaker(self.z_table, self.r_max)
        self._most_edges: int | None = None

    def evaluate(self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False) -> list[Evaluation]:
        """Return energy, forces and stress of many configurations, in order, in batches bounded by memory."""
        require_elements(self, frames, self.name)
        return self.lean(frames).settled(frames, stress=stress).evaluate_here(frames, stress=stress, progress=progress)

    def hessian_columns(self, atoms: Atoms, columns: Sequence[int]) -> Array:
        """Return columns of d²E/dx² in eV/Å² by differentiating the forces; all columns share one force graph."""
        require_elements(self, [atoms], self.name)
        return self.settled([atoms], stress=False).columns_here(atoms, checked_columns(atoms, columns))

    def lean(self, frames: Sequence[Atoms]) -> TorchPotential:
        """Return the potential to evaluate these frames with: pruned where that pays, and never older than the weights.

        Pruning takes seconds, so it is done for many atoms and many idle elements only, and kept for the next call.
        """
        used = tuple(sorted({symbol for atoms in frames for symbol in atoms.symbols}))
        if not used or len(self.elements) < _IDLE_FACTOR * len(used):
            return self
        fingerprint = _weight_sums(self.model, self.backend.atomic_energies(self.model))
        kept = self._lean.get(used)
        if kept is not None and kept[0] == fingerprint:
            return kept[1]
        if sum(len(atoms) for atoms in frames) < _MANY_ATOMS:
            return self
        pruned = self.prune(used)
        self._lean = {used: (fingerprint, pruned)}
        return pruned

    def prune(self, elements: Sequence[str]) -> TorchPotential:
        """Return a potential that knows only these elements and predicts the same numbers for them."""
        if set(elements) >= set(self.elements):
            return self
        numbers = sorted({atomic_numbers.get(symbol, -1) for symbol in elements})
        pruned = self.backend.prune(self.model, numbers)
        if len(self.backend.atomic_numbers(pruned)) == len(self.z_table):
            return self
        return TorchPotential(self.backend, pruned, head=self.head, name=self.name, roams=self.roams)

    def at(self, device: str) -> TorchPotential:
        """Return the potential on a device, to stay there; the copy on a GPU is kept while the weights are the same."""
        if device == self.device:
            return self
        fingerprint = _weight_sums(self.model, self.backend.atomic_energies(self.model))
        if (kept := self._moved.get(device)) is None or kept[0] != fingerprint:
            moved = self.backend.cast(self.model, self.dtype, device)
            kept = fingerprint, TorchPotential(self.backend, moved, head=self.head, name=self.name)
            self._moved[device] = kept
        return kept[1]

    def settled(self, frames: Sequence[Atoms], *, stress: bool) -> TorchPotential:
        """Return the potential that evaluates these frames, and write into the record being made where and why."""
        here, choice = self, DeviceChoice(self.device.partition(":")[0], "asked for")
        if self.roams and frames:
            choice = choose_device("auto", partial(self._seconds, frames, stress), self._work(frames, stress))
            here = self.at(choice.device)
        ordered = choice.device == "cpu" or torch.are_deterministic_algorithms_enabled()
        reason = choice.reason if ordered else f"{choice.reason}, {UNORDERED}"
        note_device(choice.device, reason, deterministic=ordered)
        return here

    def _work(self, frames: Sequence[Atoms], stress: bool) -> tuple[str | int, ...]:
        """Return what decides about the time of an evaluation: the model, and sizes to a factor of two."""
        size, count = (int(np.log2(1 + number)) for number in (len(frames[0]), min(len(frames), 100)))
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return "evaluation", self.architecture, self.dtype, parameters, size, count, int(stress)

    def _seconds(self, frames: Sequence[Atoms], stress: bool, device: str) -> float:
        """Return what an evaluation of these frames takes on a device, s."""
        # a processor takes its time for each configuration, so one of them tells; a GPU for each batch of them
        some, there = (frames[:1] if device == "cpu" else frames[:100]), self.at(device)
        taken = seconds_per_call(partial(there.evaluate_here, some, stress=stress), device, settling=RECORD_AFTER)
        return taken * len(frames) / len(some)

    def evaluate_here(
        self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False
    ) -> list[Evaluation]:
        """Evaluate on the device the potential is on, with all its elements."""
        results: list[Evaluation] = []
        with frozen(self.model), progress_bar("evaluating", len(frames), show=progress) as move:
            graphs = (self._graph(atoms, index) for index, atoms in enumerate(frames))
            for group in batches(graphs, *self.batch_limits()):
                results.extend(self._evaluate_group(group, frames, stress=stress))
                move(len(results), len(frames), "evaluating")
        return results

    def _graph(self, atoms: Atoms, index: int) -> Graph:
        if self.recorded is None:
            return make_graph(atoms, self.z_table, self.r_max, index)
        return self._graphs(atoms, index)

    def columns_here(self, atoms: Atoms, columns: Sequence[int]) -> Array:
        """Return checked Hessian columns, on the device the potential is on."""
        batch = self._batch([make_graph(atoms, self.z_table, self.r_max)])
        with frozen(self.model):
            predictions = self.backend.predict(self.model, batch, stress=False, create_graph=True)
            rows = reverse_columns(predictions.forces, predictions.positions, columns, create_graph=False)
        return numpy64(rows)

    def calculator(self) -> Calculator:
        """Return an ASE calculator of the same numbers."""
        return LoadedCalculator(self)

    def save_plain(self, path: Path) -> None:
        """Write the file that the rest of the world reads."""
        self.backend.write_plain(self.model, Path(path))

    def batch_limits(self) -> tuple[int, int]:
        """Return the most atoms and edges of one batch on the potential's device."""
        atoms = get_settings().batch_atoms
        bytes_per_edge = self.backend.bytes_per_edge(self.model)
        if self.device.startswith("cuda"):
            if self._most_edges is None:
                # asked once: what torch keeps for the next batch would count as taken
                free, _ = torch.cuda.mem_get_info(self.device)
                self._most_edges = max(1, int(0.6 * free / (_KEPT * bytes_per_edge)))
            return max(atoms, self._most_edges), self._most_edges
        return atoms, max(1, int(_CACHE * torch.get_num_threads() / bytes_per_edge))

    def _batch(self, graphs: Sequence[Graph]) -> Batch:
        batch = collate(graphs, getattr(torch, self.dtype), self.device, self.heads.index(self.head))
        return self.backend.prepare(self.model, batch)

    def _evaluate_group(self, group: Sequence[Graph], frames: Sequence[Atoms], *, stress: bool) -> Iterator[Evaluation]:
        """Evaluate one batch; on a device that runs out of memory its halves, and no larger ones later."""
        with suppress(torch.cuda.OutOfMemoryError):
            yield from self._evaluate(group, frames, stress=stress)
            return
        # not where the error is handled: it holds the tensors of the evaluation that failed
        if self.recorded is not None:
            self.recorded.forget()
        torch.cuda.empty_cache()
        self._most_edges = max(1, sum(graph.n_edges for graph in group) // 2)
        if len(group) == 1:
            raise PotentialError(
                f"A configuration of {len(group[0].species)} atoms does not fit into the memory of {self.device}.",
                "Use float32, a smaller supercell or device 'cpu'.",
            )
        half = len(group) // 2
        log.info("out of memory on %s: splitting a batch of %d", self.device, len(group))
        yield from self._evaluate_group(group[:half], frames, stress=stress)
        yield from self._evaluate_group(group[half:], frames, stress=stress)

    def _evaluate(self, group: Sequence[Graph], frames: Sequence[Atoms], *, stress: bool) -> list[Evaluation]:
        periodic = [bool(np.all(frames[graph.index].pbc)) for graph in group]
        wanted = stress and any(periodic)
        energies, forces, *tension = self._replayed(group, stress=wanted) or self._outputs(self._batch(group), wanted)
        tensions = numpy64(tension[0]) if tension else np.zeros((len(group), 3, 3))
        by_graph = np.split(numpy64(forces), np.cumsum([len(graph.species) for graph in group])[:-1])
        voigt = [
            np.asarray(full_3x3_to_voigt_6_stress(tension)) if repeats and stress else np.zeros(6)
            for tension, repeats in zip(tensions, periodic, strict=True)
        ]
        return [Evaluation(*one) for one in zip(map(float, numpy64(energies)), by_graph, voigt, strict=True)]

    def _outputs(self, batch: Batch, stress: bool) -> Tensors:
        return _outputs(self.backend, self.model, batch, stress)

    def _replayed(self, group: Sequence[Graph], *, stress: bool) -> Tensors | None:
        """Return the same by a recording, None where there is none."""
        if self.recorded is None:
            return None
        # training changes weights where they are; a tensor that was put in another's place is somewhere else
        places = tuple(one.data_ptr() for one in (*self.model.parameters(), *self.model.buffers()))
        if places != self._recorded_from:
            self.recorded.forget()
            self._recorded_from = places
        head, dtype = self.heads.index(self.head), getattr(torch, self.dtype)
        return self.recorded(group, self.r_max, dtype, self.device, head=head, stress=stress)


def _outputs(backend: Backend, model: torch.nn.Module, batch: Batch, stress: bool) -> Tensors:
    """Return energies, forces and, where wanted, stresses of a batch."""
    predictions = backend.predict(model, batch, stress=stress, create_graph=False)
    wanted = (predictions.energy, predictions.forces, *([] if predictions.stress is None else [predictions.stress]))
    return tuple(values.detach() for values in wanted)


def _choose_head(heads: Sequence[str], wanted: str | None, name: str) -> str:
    if wanted is not None and wanted not in heads:
        raise PotentialError(f"{name} has no head {wanted!r}.", f"Its heads are {', '.join(heads)}.")
    default = heads[0] if len(heads) == 1 else next((head for head in heads if head.lower() == "default"), None)
    if wanted is None and default is None:
        raise PotentialError(
            f"{name} has several heads and none is called 'default'.", f"Choose one of {', '.join(heads)}."
        )
    return wanted or str(default)


def _weight_sums(model: torch.nn.Module, atomic_energies: Array) -> list[float]:
    """Return sums that change when training changes any weight: the guard of a kept pruned copy."""
    with torch.no_grad():
        # joined first: on a GPU a few operations on all weights cost less than hundreds on each tensor
        tensors = [value.reshape(-1) for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]
        flat = torch.cat(tensors)
        weights: list[float] = torch.stack(
            [flat.sum(dtype=torch.float64), flat.square().sum(dtype=torch.float64)]
        ).tolist()
    return [*weights, float(atomic_energies.sum())]
