"""Several trainings side by side in one process, each on a stream of its own where there is a GPU.

A small model leaves most of a GPU idle, and processes on one GPU only take turns. So trainings take turns by epochs
here: on a GPU an epoch is launched without waiting for it, and while the host judges one training's last epoch those of
the others run. Each training is what it would be alone: its own weights, optimizer, checkpoint, log and document. On
the CPU the bits are those of trainings one after another.

A training begins, and records its steps as CUDA graphs, on its own stream (see ``capture.CudaCapture`` for why), and
while no other one runs.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from phonosmith.training.finetune import Training, TrainingResult
from phonosmith.training.loop import EpochRecord

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

MOST_STREAMS = 24
"""Most trainings on a GPU at a time: torch hands out 32 streams in turn, and two trainings must not have the same."""
MARGIN = 1.3
"""Free memory asked for before a training may begin beside others, in units of the most that one has taken so far."""


@dataclass(frozen=True)
class Planned:
    """A training that is still to be prepared.

    Attributes
    ----------
    name
        What to call it in reports on its progress.
    prepare
        Reads its data, checks them and returns it ready to run.
    walltime
        Seconds after which it is stopped with a checkpoint; None: no limit.
    """

    name: str
    prepare: Callable[[], Training]
    walltime: float | None = None


@dataclass
class Outcome:
    """What became of a planned training: a result or an error; neither: time was over before it began."""

    planned: Planned
    result: TrainingResult | None = None
    error: Exception | None = None


@dataclass(eq=False)
class _Lane:
    """One training under way: ``seconds`` is its part of the time, ``launched`` when an epoch was that is not over."""

    outcome: Outcome
    training: Training
    stream: torch.cuda.Stream | None
    seconds: float = 0.0
    launched: float | None = None

    def place(self) -> AbstractContextManager[object]:
        """Return the context of its stream."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def begin(self, since: float) -> None:
        """Go on from the checkpoint, or judge the start."""
        start, fitter = time.perf_counter(), self.training.fitter
        if self.stream is not None:
            # the model was made on the default one
            self.stream.wait_stream(torch.cuda.default_stream(fitter.device))
        with self.place():
            fitter.begin(walltime=self.outcome.planned.walltime, since=since)
        self.seconds = fitter.state.seconds + time.perf_counter() - start

    def launch(self) -> None:
        """Start the next epoch."""
        self.launched = time.perf_counter()
        with self.place():
            self.training.fitter.launch_epoch()
        if self.stream is None:
            self.seconds += time.perf_counter() - self.launched

    def finish(self, side_by_side: int) -> EpochRecord:
        """Wait for the epoch and judge it; ``side_by_side``: how many trainings share a GPU's time."""
        start, fitter = time.perf_counter(), self.training.fitter
        with self.place():
            record = fitter.finish_epoch()
        now = time.perf_counter()
        if self.stream is None or self.launched is None:
            self.seconds += now - start
        else:
            self.seconds += (now - self.launched) / side_by_side
        fitter.state.seconds, self.launched = self.seconds, None
        return record


@dataclass
class SideBySide:
    """Runs trainings side by side: as many at a time as fit into memory, the others as soon as there is room.

    One that fails leaves the others alone; one that runs out of memory beside others begins again, from its
    checkpoint, when there are fewer.

    Attributes
    ----------
    at_once
        Most trainings at a time; None: as many as fit.
    on_epoch
        Called after every epoch of every training.
    on_end
        Called with every training's result or error as soon as it is known: it may keep it where nothing is lost.
    """

    at_once: int | None = None
    on_epoch: Callable[[Planned, EpochRecord], object] | None = None
    on_end: Callable[[Outcome], object] | None = None
    _lanes: list[_Lane] = field(default_factory=list)
    _waiting: deque[Outcome] = field(default_factory=deque)
    _most_taken: int = 0
    _ended: bool = False

    def run(self, planned: Sequence[Planned], *, since: float | None = None) -> list[Outcome]:
        """Run all of them and return what became of them, in their order.

        ``since``: ``time.perf_counter()`` from which walltimes count; default: now. When a training is stopped by its
        own, none begins any more.
        """
        since = time.perf_counter() if since is None else since
        outcomes = [Outcome(one) for one in planned]
        self._waiting.extend(outcomes)
        while self._waiting or self._lanes:
            while self._waiting and self._room():
                self._begin(self._waiting.popleft(), since)
            for lane in list(self._lanes):
                self._turn(lane)
        return outcomes

    def _room(self) -> bool:
        """Tell whether one more training may begin beside those that run; where none does, one always may."""
        running = len(self._lanes)
        try:
            if self._ended:
                # recorded steps keep their memory until they are collected
                gc.collect()
                if torch.cuda.is_initialized():
                    torch.cuda.empty_cache()
                self._ended = False
            if running == 0 or (self.at_once is not None and running >= self.at_once):
                return running == 0
            if not torch.cuda.is_initialized():
                return True
            # other programs may use the device as well
            free, _ = torch.cuda.mem_get_info(self._lanes[-1].stream and self._lanes[-1].stream.device)
            return running < MOST_STREAMS and free > MARGIN * self._most_taken
        except RuntimeError:
            # the GPU has failed: each training will find out, save what the host has of it, and say so
            return running == 0

    def _begin(self, outcome: Outcome, since: float) -> None:
        """Begin a training and do its first epoch alone: what it takes is known then."""

        def begin() -> None:
            taken = _reserved()
            training = outcome.planned.prepare()
            device = training.fitter.device
            lane = _Lane(outcome, training, torch.cuda.Stream(device) if device.type == "cuda" else None)
            self._lanes.append(lane)
            if lane.stream is not None:
                torch.cuda.synchronize(device)
            lane.begin(since)
            if not training.fitter.over:
                lane.launch()
                self._report(lane, lane.finish(1))
            self._most_taken = max(self._most_taken, _reserved() - taken)

        self._guarded(outcome, begin)

    def _turn(self, lane: _Lane) -> None:
        """Finish a training's epoch, then launch the next one or end the training."""

        def turn() -> None:
            if lane.launched is not None:
                self._report(lane, lane.finish(len(self._lanes)))
            if lane.training.fitter.over:
                self._end(lane)
            else:
                lane.launch()

        self._guarded(lane.outcome, turn)

    def _report(self, lane: _Lane, record: EpochRecord) -> None:
        if self.on_epoch is not None:
            self.on_epoch(lane.outcome.planned, record)

    def _end(self, lane: _Lane) -> None:
        """Judge the trained model; when time was over for it, nothing else begins."""
        if lane.stream is not None:
            lane.stream.synchronize()
        lane.outcome.result = lane.training.result(lane.seconds)
        if self.on_end is not None:
            self.on_end(lane.outcome)
        if not lane.training.fitter.state.finished:
            self._waiting.clear()
        self._leave(lane.outcome)

    def _guarded(self, outcome: Outcome, action: Callable[[], None]) -> None:
        """Do something for one training; a failure must not stop the others."""
        try:
            action()
        except Exception as error:  # noqa: BLE001
            self._leave(outcome)
            if self._lanes and torch.cuda.OutOfMemoryError in (type(error), type(error.__cause__)):
                self.at_once = len(self._lanes)
                self._waiting.append(outcome)
            else:
                self._fail(outcome, error)

    def _leave(self, outcome: Outcome) -> None:
        for lane in [lane for lane in self._lanes if lane.outcome is outcome]:
            self._lanes.remove(lane)
            if lane.stream is not None:
                # its memory is another's soon; a GPU that has failed waits for nothing
                with suppress(RuntimeError):
                    lane.stream.synchronize()
        self._ended = True

    def _fail(self, outcome: Outcome, error: Exception) -> None:
        outcome.result, outcome.error = None, error
        link: BaseException | None = error
        while link is not None:
            # what was on the device when it was raised would stay there as long as it is known where that was
            link.__traceback__ = None
            link = link.__cause__ or link.__context__
        if self.on_end is not None:
            self.on_end(outcome)


def _reserved() -> int:
    """Return the bytes this process holds on GPUs."""
    if not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_reserved(number) for number in range(torch.cuda.device_count()))
