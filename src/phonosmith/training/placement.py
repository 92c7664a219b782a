"""Where a training is done: a step of it is timed on the CPU and on the GPU where that is left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from phonosmith.potentials.device import LONG_CALL, DeviceChoice, choose_device, seconds_per_call
from phonosmith.potentials.graphs import padded_shape
from phonosmith.settings import get_settings
from phonosmith.training.assemble import Assembly
from phonosmith.training.capture import capture_for
from phonosmith.training.graphs import LabelledGraph, labelled_batch
from phonosmith.training.spec import TrainSpec
from phonosmith.training.step import Step

if TYPE_CHECKING:
    from phonosmith.harmonic.curvature import CurvatureTarget


def choose_training_device(assembly: Assembly) -> DeviceChoice:
    """Return where to train: as the strategy's ``device`` says, with auto as the setting PHONOSMITH_DEVICE says.

    With auto in both, one whole step (a batch of middle size, all parameters, the curvature part where there is one) is
    timed on either device.

    Raises
    ------
    ConfigurationError
        For cuda where torch sees no GPU.
    """
    spec = assembly.spec
    graphs = _typical(assembly)
    parameters = sum(parameter.numel() for parameter in assembly.start.parameters())
    sizes = (sum(len(one.graph.species) for one in graphs), sum(one.graph.n_edges for one in graphs))
    curved = tuple(len(target.atoms) for target in _first_targets(assembly))
    work = ("training", assembly.backend.architecture, spec.dtype, parameters, *sizes, *curved, spec.curvature_columns)
    work += (spec.compile, spec.deterministic)
    wanted = asked_device(spec)
    choice = choose_device(wanted, partial(step_seconds, assembly), work)
    if wanted != spec.device:
        return DeviceChoice(choice.device, f"asked for by PHONOSMITH_DEVICE={wanted}")
    return choice


def asked_device(spec: TrainSpec) -> str:
    """Return the device a strategy asks for: where it leaves that open, what the setting PHONOSMITH_DEVICE says."""
    return get_settings().device if spec.device == "auto" else spec.device


def _typical(assembly: Assembly) -> Sequence[LabelledGraph]:
    """Return a batch of the middle sizes."""
    ordered = sorted(assembly.train, key=lambda one: one.graph.n_edges)
    count = min(assembly.spec.batch_size, len(ordered))
    return ordered[(len(ordered) - count) // 2 :][:count]


def _first_targets(assembly: Assembly) -> Sequence[CurvatureTarget]:
    """Return force constants that share a step."""
    return assembly.targets[: assembly.spec.curvature_batch if assembly.spec.curvature_sampling == "uniform" else 1]


def step_seconds(assembly: Assembly, device: str) -> float:
    """Return what a step takes on a device, s, recorded where training would record it."""
    spec, backend, dtype = assembly.spec, assembly.backend, getattr(torch, assembly.spec.dtype)
    model = backend.cast(assembly.start, spec.dtype, device)
    parameters = [(name, one.requires_grad_(True)) for name, one in model.named_parameters()]
    capture, _ = capture_for(spec.compile, torch.device(device))
    term = replace(assembly, targets=_first_targets(assembly)).taught_term(dtype, device)
    if term is not None and capture is not None:
        term = term.without_waiting()
        # training does not record them either
        capture = None if term.needs_blocks(model) else capture
    choice = next(iter(term.choices().values())) if term is not None else None
    step = Step(backend, model, parameters, spec, term, recordable=capture is not None)

    def seconds(some: Sequence[LabelledGraph]) -> float:
        shape = padded_shape([one.graph for one in some]) if capture is not None else None
        batch = labelled_batch(some, dtype, device, shape=shape, cutoff=backend.cutoff(model))

        def action() -> None:
            step(batch, choice)

        recorded = action
        if capture is not None:
            try:
                recorded = capture(action)
            except torch.cuda.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError):
                step.optimizer.zero_grad(set_to_none=True)  # training would run plainly as well
        return seconds_per_call(recorded, device)

    graphs = _typical(assembly)
    if device == "cpu" and (alone := seconds(graphs[:1])) > LONG_CALL:
        return alone * len(graphs)
    return seconds(graphs)
