"""Evaluations recorded once and replayed: a GPU then starts thousands of kernels with one call.

An evaluation by a network of this kind takes tens of milliseconds of launching whatever its size, and a few when
replayed. What is recorded has a fixed shape and reads fixed memory, so batches are padded (``graphs.pad``) and copied.
Recording costs about as much as ten evaluations: it is done for shapes that come again and again (relaxations), never
for a single pass over displaced cells.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from phonosmith.potentials.graphs import Shape, collate_padded, padded_shape

if TYPE_CHECKING:
    from phonosmith.potentials.graphs import Batch, Graph

log = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]
Capture = Callable[[Callable[[], Tensors]], Callable[[], Tensors]]
"""Records a function of fixed memory; calling what it returns runs the recording and gives the same tensors anew."""

RECORD_AFTER = 4
"""Evaluations of a shape after which it is recorded: as many again would cost more than the recording."""
MOST_RECORDINGS = 6
"""Each keeps its memory; the one that was not used for longest goes."""
WASTE = 2.0
"""A smaller batch runs in a recording of at most so many times its edges: still faster than launching it."""
WARM_UPS = 3


class CudaGraphs:
    """Records functions as CUDA graphs that share memory: one runs at a time, its results are read before the next."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._pool: tuple[int, int] | None = None

    def __call__(self, function: Callable[[], Tensors]) -> Callable[[], Tensors]:
        """Run a function a few times beside the main stream, so that everything lazy is made, and record it."""
        with torch.cuda.device(self._device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UPS):
                    function()
            torch.cuda.current_stream().wait_stream(beside)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                results = function()

        def replay() -> Tensors:
            graph.replay()
            return results

        return replay


@dataclass(frozen=True)
class _Recording:
    shape: Shape
    inputs: Batch
    replay: Callable[[], Tensors]


class Recorded:
    """Evaluates batches of one model by recordings, where their shape is known or worth it.

    Parameters
    ----------
    evaluate
        Energies, forces and (where the second argument asks for them) stresses of a batch, as tensors on its device.
    capture
        How a function is recorded.
    """

    def __init__(self, evaluate: Callable[[Batch, bool], Tensors], capture: Capture) -> None:
        self._evaluate, self._capture = evaluate, capture
        self._recordings: dict[tuple[Shape, bool], _Recording] = {}  # the last used one is the last
        self._met: Counter[tuple[Shape, bool]] = Counter()
        self._refused: set[tuple[Shape, bool]] = set()
        self.problem = ""
        """Why nothing is recorded any more."""

    def forget(self) -> None:
        """Drop every recording: the memory they read is no longer the model's."""
        self._recordings.clear()

    def __call__(
        self, graphs: Sequence[Graph], cutoff: float, dtype: torch.dtype, device: str, *, head: int, stress: bool
    ) -> Tensors | None:
        """Return energies, forces and stresses of the graphs alone; None where the batch is not (yet) recorded."""
        key = self._key(padded_shape(graphs), stress=stress)
        if key is None:
            return None
        shape = key[0]
        batch = collate_padded(graphs, shape, cutoff, dtype, "cpu", head)
        recording = self._recordings.pop(key, None) or self._recorded(key, batch, device)
        if recording is None:
            return None
        self._recordings[key] = recording
        for name, values in recording.inputs.items():
            values.copy_(batch[name])
        atoms = sum(len(graph.species) for graph in graphs)
        energies, forces, *tensions = recording.replay()
        return energies[: len(graphs)], forces[:atoms], *(tension[: len(graphs)] for tension in tensions)

    def _key(self, wanted: Shape, *, stress: bool) -> tuple[Shape, bool] | None:
        """Return the recording for a shape: one there is, or one to be made; None for what is not worth it."""
        usable = [
            shape
            for shape, has_stress in self._recordings
            if has_stress == stress
            and all(has >= needed for has, needed in zip(shape, wanted, strict=True))
            and shape.edges <= WASTE * wanted.edges
        ]
        if usable:
            return min(usable, key=lambda shape: (shape.edges, shape.atoms)), stress
        key = rounded(wanted), stress
        self._met[key] += 1
        worth = self._met[key] > RECORD_AFTER and key not in self._refused and not self.problem
        return key if worth else None

    def _recorded(self, key: tuple[Shape, bool], batch: Batch, device: str) -> _Recording | None:
        shape, stress = key
        while len(self._recordings) >= MOST_RECORDINGS:
            self._recordings.pop(next(iter(self._recordings)))
        inputs = {name: values.to(device, copy=True) for name, values in batch.items()}
        try:
            replay = self._capture(lambda: self._evaluate(inputs, stress))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._refused.add(key)
            log.info("no memory to record a batch of %s: evaluated without", shape)
            return None
        except RuntimeError as error:
            # an operation that waits for the device: every shape would fail alike
            self.problem = str(error).splitlines()[0][:200]
            log.warning("evaluations cannot be recorded and are launched one by one: %s", self.problem)
            return None
        return _Recording(shape, inputs, replay)


def rounded(shape: Shape) -> Shape:
    """Return a shape that holds another and others a little larger: at most a quarter more atoms and edges."""

    def up(number: int) -> int:
        step = 1 << max(0, number.bit_length() - 3)
        return -(-number // step) * step

    return Shape(up(shape.graphs), up(shape.atoms), up(shape.edges))
