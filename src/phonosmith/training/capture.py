"""Training recorded once and replayed: a whole step, and validation, as one CUDA graph each.

Launching the kernels of a step one by one takes 70 ms whatever its size; a graph of them runs at the speed of the GPU.
A graph repeats the very operations on the very memory it was recorded with, so batches are padded to a few shapes and
copied into tensors that stay where they are, and nothing in a step may wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import partial

import numpy as np
import torch

from phonosmith.potentials.capture import Action, Capture, CudaCapture
from phonosmith.potentials.graphs import Shape, bucketed, fitting, padded_shape
from phonosmith.training.curvature import Choice, CurvatureTerm, Pattern, pattern_of
from phonosmith.training.graphs import LabelledBatch, LabelledGraph, labelled_batch
from phonosmith.training.losses import error_sums
from phonosmith.training.step import Step
from phonosmith.training.traced import Compiler, traced_gradient

Packed = tuple[torch.Tensor, torch.Tensor]
"""All real and all whole numbers of a batch."""
Key = tuple[Shape | None, Pattern | None]
"""What a recorded step takes: a batch of a shape, columns of a pattern, or both."""

MOST_RECORDINGS = 16
"""Kinds of step that are recorded; each takes about a second. Further ones (columns of many crystals) run plainly."""
KEPT_BYTES = 1e9
"""Batches of one structure are the same in every epoch: so much of them stays on the device."""


def uncaptured(action: Action) -> Action:
    """Return an action as it is: padded steps on a processor, which has no graphs."""
    return action


def capture_for(wanted: str, device: torch.device) -> tuple[Capture | None, str]:
    """Return how to record on a device for a setting ``compile``, None for the plain loop; and a note where needed."""
    if wanted == "off" or (wanted == "auto" and device.type != "cuda"):
        return None, ""
    if device.type == "cuda":
        return CudaCapture(device), ""
    if wanted == "inductor":
        return uncaptured, "compile=inductor: a processor has no graphs; padded steps run with a compiled gradient"
    return uncaptured, "compile=graph: a processor has no graphs; batches are padded, and steps run one by one"


class Snapshot:
    """Values of tensors, to be put back."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.places = list(tensors)
        self.values = [tensor.detach().clone() for tensor in tensors]

    def take(self) -> None:
        """Keep the present values instead."""
        with torch.no_grad():
            torch._foreach_copy_(self.values, self.places)

    def restore(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the values back; what else is among ``tensors`` (new state of an optimizer) becomes zero, as it began."""
        known = {id(place) for place in self.places}
        with torch.no_grad():
            torch._foreach_copy_(self.places, self.values)
            for tensor in tensors:
                if id(tensor) not in known:
                    tensor.zero_()


class StaticBatch:
    """A labelled batch that stays where it is: its tensors are views of two buffers other batches are copied into."""

    def __init__(self, sample: LabelledBatch, device: torch.device) -> None:
        self._buffers = tuple(part.to(device, copy=True) for part in packed(sample))
        offsets = [0, 0]

        def placed(tensor: torch.Tensor) -> torch.Tensor:
            kind = int(not tensor.is_floating_point())
            start = offsets[kind]
            offsets[kind] += tensor.numel()
            return self._buffers[kind][start : offsets[kind]].view(tensor.shape)

        inputs = {name: placed(sample.inputs[name]) for name in sorted(sample.inputs)}
        self.batch = LabelledBatch(inputs, *map(placed, _labels(sample)))

    def fill(self, parts: Packed) -> None:
        """Copy a batch of the same shape into the buffers."""
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer.copy_(part, non_blocking=True)


def _labels(batch: LabelledBatch) -> list[torch.Tensor]:
    return [getattr(batch, field.name) for field in fields(batch) if field.name != "inputs"]


def packed(batch: LabelledBatch) -> Packed:
    """Return all numbers of a padded batch in two rows."""
    tensors = [*(batch.inputs[name] for name in sorted(batch.inputs)), *_labels(batch)]
    real, whole = ([t.reshape(-1) for t in tensors if t.is_floating_point() == kind] for kind in (True, False))
    return torch.cat(real), torch.cat(whole)


def epoch_shapes(graphs: Sequence[LabelledGraph], orders: Iterable[np.ndarray], size: int) -> list[Shape]:
    """Return the padded shapes of all batches of some epochs, each once."""
    sizes = np.array([(1, len(one.graph.species), one.graph.n_edges) for one in graphs])
    starts = np.arange(0, len(graphs), size)
    found = np.unique(np.concatenate([np.add.reduceat(sizes[order], starts) for order in orders]), axis=0)
    return [Shape(n_graphs + 1, atoms + 1, edges) for n_graphs, atoms, edges in found.tolist()]


class Recording:
    """Steps and validation of one training, recorded for every kind of step.

    What cannot be recorded, for lack of memory or because it has to look at numbers on the way, runs plainly, and a
    note says so.

    Parameters
    ----------
    step
        A step in tensors.
    capture
        How one is recorded.
    compiler
        What makes the gradient of labelled structures one compiled function; None: its operations stay as they are.
    """

    def __init__(self, step: Step, capture: Capture, compiler: Compiler | None = None) -> None:
        self.step, self.capture, self.compiler = step, capture, compiler
        self.cutoff = step.backend.cutoff(step.model)
        self.notes: list[str] = []
        self.sums = torch.zeros(7, dtype=torch.float64, device=step.device)
        self.column_error = torch.zeros((), dtype=torch.float64, device=step.device)
        self._shapes: list[Shape] = []
        self._batches: dict[Shape, StaticBatch] = {}
        self._choices: dict[Pattern, Choice] = {}
        self._steps: dict[Key, Action] = {}
        self._kept: dict[int, Packed] = {}
        self._kept_bytes = 0
        self._validation: list[Action] = []

    # steps

    def record_steps(self, graphs: Sequence[LabelledGraph], shapes: Sequence[Shape], *, joint: bool) -> None:
        """Record steps on batches of some shapes; those on columns are ``joint`` with them, or steps of their own."""
        term = self.step.curvature
        patterns = self._patterns(term) if term is not None else {}
        self._shapes = bucketed(shapes, most=1 if joint and len(patterns) > 1 else 4)
        self._choices = {p: {c: rows.clone() for c, rows in choice.items()} for p, choice in patterns.items()}
        for shape in self._shapes:
            sample = next(one for one in graphs if fitting([shape], padded_shape([one.graph])))
            self._batches[shape] = StaticBatch(self._padded([sample], shape), self.step.device)
            if self.compiler is not None:
                self._compile(shape, self.compiler)
        keys: list[Key] = []
        if joint and term is not None:
            keys = [(shape, pattern) for pattern in patterns for shape in self._shapes]
        else:
            keys = [*((shape, None) for shape in self._shapes), *((None, pattern) for pattern in patterns)]
        if len(keys) > MOST_RECORDINGS:
            self._note(f"{len(keys) - MOST_RECORDINGS} of {len(keys)} kinds of step are not recorded and run plainly")
        for key in keys[:MOST_RECORDINGS]:
            self._record_step(*key)

    def _patterns(self, term: CurvatureTerm) -> dict[Pattern, Choice]:
        if term.needs_blocks(self.step.model):
            self._note("curvature in blocks of atoms looks at numbers on the way: its steps are not recorded")
            return {}
        return term.choices()

    def _compile(self, shape: Shape, compiler: Compiler) -> None:
        """Compile the gradient for a shape; where that fails its operations stay as they are, and a note says so."""
        batch = self._batches[shape].batch
        try:
            self.step.compiled[id(batch)] = traced_gradient(self.step, self.step.named, batch, compiler)
        except Exception as error:  # noqa: BLE001 - compilers fail in ways of their own
            self._note(f"the gradient cannot be compiled: {str(error).splitlines()[0][:120]}")

    def _record_step(self, shape: Shape | None, pattern: Pattern | None) -> None:
        batch = self._batches[shape].batch if shape is not None else None
        choice = self._choices[pattern] if pattern is not None else None
        what = "A step" if shape is None else f"A step on {shape.atoms} atoms and {shape.edges} edges"
        replay = self._recorded(what, partial(self.step, batch, choice))
        if replay is not None:
            self._steps[shape, pattern] = replay

    def _recorded(self, what: str, action: Action) -> Action | None:
        """Record an action and undo what that did; None, and a note, where it cannot be."""
        before, problem = Snapshot(self.step.changing()), ""
        try:
            return self.capture(action)
        except torch.cuda.OutOfMemoryError:
            problem = "does not fit into memory as a recording and runs plainly"
        except (RuntimeError, NotImplementedError) as error:
            # where a capture ends on an error, torch complains about the end and keeps the cause as context
            problem = f"cannot be recorded and runs plainly: {str(error.__context__ or error).splitlines()[0][:120]}"
        finally:
            self.step.optimizer.zero_grad(set_to_none=True)
            before.restore(self.step.changing())
        # here, for a handled error holds the tensors of what failed until it is left
        torch.cuda.empty_cache()
        self._note(f"{what} {problem}")
        return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @property
    def useless(self) -> bool:
        """Whether no step could be recorded."""
        return not self._steps

    def take_step(self, indices: Sequence[int], graphs: Sequence[LabelledGraph], choice: Choice | None) -> None:
        """Launch one step on some graphs (whose places in the training set are given), columns, or both."""
        pattern = pattern_of(choice) if choice is not None else None
        shape = fitting(self._shapes, padded_shape([one.graph for one in graphs])) if graphs else None
        replay = self._steps.get((shape, pattern))
        if replay is None or (graphs and shape is None):
            if graphs and shape is None:
                self._note("Batches larger than those that were recorded run plainly")
            batch = labelled_batch(graphs, self.step.dtype, self.step.device) if graphs else None
            self.step(batch, choice)
            return
        if shape is not None:
            self._batches[shape].fill(self._packed(indices, graphs, shape))
        if choice is not None and pattern is not None:
            for c, rows in self._choices[pattern].items():
                rows.copy_(choice[c])
        replay()

    def _padded(self, graphs: Sequence[LabelledGraph], shape: Shape) -> LabelledBatch:
        return labelled_batch(graphs, self.step.dtype, shape=shape, cutoff=self.cutoff)

    def _packed(self, indices: Sequence[int], graphs: Sequence[LabelledGraph], shape: Shape) -> Packed:
        """Return a batch ready to be copied; one structure alone is the same in every epoch and stays on the device."""
        alone = int(indices[0]) if len(indices) == 1 else -1
        if alone in self._kept:
            return self._kept[alone]
        on_gpu = self.step.device.type == "cuda"
        parts = packed(self._padded(graphs, shape))
        if on_gpu:
            parts = parts[0].pin_memory(), parts[1].pin_memory()
        if alone >= 0 and self._kept_bytes < KEPT_BYTES:
            self._kept[alone] = parts = self._on_device(parts)
            self._kept_bytes += sum(part.nbytes for part in parts)
        return parts

    def _on_device(self, parts: Packed) -> Packed:
        real, whole = (part.to(self.step.device, non_blocking=True) for part in parts)
        return real, whole

    # validation

    def record_validation(self, graphs: Sequence[LabelledGraph], size: int, judged: CurvatureTerm | None) -> None:
        """Record the errors of structures, ``size`` at a time, and of the columns that are judged."""
        groups = [graphs[start : start + size] for start in range(0, len(graphs), size)]
        (shape,) = bucketed([padded_shape([one.graph for one in group]) for group in groups], most=1)
        static = StaticBatch(self._padded(groups[0], shape), self.step.device)
        add_errors = partial(_add_errors, self.sums, self.step)  # not of self: recordings must go when it does
        replay = self._recorded("Validation", partial(add_errors, static.batch))
        for group in groups:
            if replay is None:
                plain = labelled_batch(group, self.step.dtype, self.step.device)
                self._validation.append(partial(add_errors, plain))
            else:
                self._validation.append(partial(static.fill, self._on_device(packed(self._padded(group, shape)))))
                self._validation.append(replay)
        if judged is not None:
            self._validation.append(self._recorded_columns(judged))

    def _recorded_columns(self, judged: CurvatureTerm) -> Action:
        error, model = self.column_error, self.step.model

        def measure() -> None:
            error.copy_(judged.mean_error(model))

        if judged.needs_blocks(self.step.model):
            return measure
        return self._recorded("The error of Hessian columns", measure) or measure

    def validate(self) -> None:
        """Launch validation: what :func:`losses.errors_of` reads will be in ``sums``, beside ``column_error``."""
        self.sums.zero_()
        for action in self._validation:
            action()


def _add_errors(sums: torch.Tensor, step: Step, batch: LabelledBatch) -> None:
    sums.add_(error_sums(step.backend, step.model, batch, step.spec))


def device_lost(error: RuntimeError) -> bool:
    """Tell whether an error means that this process can no longer use the GPU."""
    # torch before 2.8 has no class of its own for them
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or "CUDA error" in str(error)
