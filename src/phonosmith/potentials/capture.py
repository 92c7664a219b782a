"""Evaluations recorded once and replayed: a GPU then starts thousands of kernels with one call.

An evaluation by a network of this kind takes tens of milliseconds of launching whatever its size, and a few when
replayed. What is recorded has a fixed shape and reads fixed memory, so batches are padded (``graphs.pad``) and copied.
Recording costs about as much as ten evaluations: it is done for shapes that come again and again (relaxations), never
for a single pass over displaced cells.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from phonosmith.potentials.graphs import Shape, collate_padded, padded_shape

if TYPE_CHECKING:
    from phonosmith.potentials.graphs import Batch, Graph

log = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]
Action = Callable[[], None]
Capture = Callable[[Action], Action]
"""Runs an action some times, records it, and returns what replays it; effects are undone by who asked for it."""

RECORD_AFTER = 4
"""Evaluations of a shape after which it is recorded: as many again would cost more than the recording."""
MOST_RECORDINGS = 6
"""Each keeps its memory; the one that was not used for longest goes."""
WASTE = 2.0
"""A smaller batch runs in a recording of at most so many times its edges: still faster than launching it."""
WARM_UPS = 3
"""Runs before a recording: libraries allocate their workspaces and choose their algorithms in the first ones."""


class CudaCapture:
    """Records CUDA graphs of one training or potential, which share one pool of memory.

    All of them are warmed up and recorded on one stream that no other training records on: the current one, or one of
    their own where that is the default stream, which cannot record. cuBLAS keeps a workspace for each stream; recorded
    on torch's common stream for recordings, the graphs of trainings that run side by side would all write into the
    first one's, and go on doing so when its memory is another's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: tuple[int, int] = (0, 0)
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, action: Action) -> Action:
        """Record an action after warming up."""
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            here = torch.cuda.current_stream()
            if self._stream is None:
                # trainings run side by side on streams of the other priority: none of them can be this one
                self._stream = torch.cuda.Stream(priority=-1) if here == torch.cuda.default_stream() else here
            self._stream.wait_stream(here)
            # torch leaves its own context of a recording that fails without putting the stream back
            with torch.cuda.stream(self._stream):
                try:
                    for _ in range(WARM_UPS):
                        action()
                finally:
                    here.wait_stream(self._stream)
                graph = self._recorded(action, self._stream)
            return graph.replay

    def _recorded(self, action: Action, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        if not self._graphs:
            # a pool that no graph is left of cannot be used again
            self._pool = torch.cuda.graph_pool_handle()
        graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
        # another recording's end in the midst of this one is an operation that CUDA refuses
        gc.disable()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                action()
        except BaseException:
            _close(graph, self._pool)
            # whatever torch still thinks of this one, another is free
            self._graphs.clear()
            raise
        finally:
            if collects:
                gc.enable()
        self._graphs.add(graph)
        return graph


def _close(graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
    """Tell torch's allocator that a failed recording is over, which it does not notice when CUDA refuses to end it.

    It would take everything after it for part of the recording: no memory could be given back, nor the pool be used.
    """
    with suppress(RuntimeError):
        graph.pool()
        return  # it was ended, and is put away with the graph
    device = torch.cuda.current_device()
    # raises where the recording had not begun
    with suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(device, pool)  # noqa: SLF001  # as torch's own users of graphs do
        torch._C._cuda_releasePool(device, pool)  # type: ignore[attr-defined]  # noqa: SLF001


@dataclass(frozen=True)
class _Recording:
    shape: Shape
    inputs: Batch
    outputs: list[torch.Tensor]
    replay: Action


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
        recording.replay()
        energies, forces, *tensions = recording.outputs
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
        outputs: list[torch.Tensor] = []

        def action() -> None:
            outputs[:] = self._evaluate(inputs, stress)

        full = False
        try:
            replay = self._capture(action)
        except torch.cuda.OutOfMemoryError:
            full = True
        except RuntimeError as error:
            # an operation that waits for the device: every shape would fail alike
            # where a capture ends on an error, torch complains about the end and keeps the cause as context
            self.problem = str(error.__context__ or error).splitlines()[0][:200]
            log.warning("evaluations cannot be recorded and are launched one by one: %s", self.problem)
            return None
        if full:  # a handled error holds the tensors of what failed until it is left
            torch.cuda.empty_cache()
            self._refused.add(key)
            log.info("no memory to record a batch of %s: evaluated without", shape)
            return None
        return _Recording(shape, inputs, outputs, replay)


def rounded(shape: Shape) -> Shape:
    """Return a shape that holds another and others a little larger: at most a quarter more atoms and edges."""

    def up(number: int) -> int:
        step = 1 << max(0, number.bit_length() - 3)
        return -(-number // step) * step

    return Shape(up(shape.graphs), up(shape.atoms), up(shape.edges))
