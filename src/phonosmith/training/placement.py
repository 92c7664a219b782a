"""Where a training is done: a step of it is timed on the CPU and on the GPU where that is left open."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from phonosmith.potentials.base import Potential
from phonosmith.potentials.device import LONG_CALL, DeviceChoice, choose_device, seconds_per_call
from phonosmith.potentials.torch_potential import TorchPotential
from phonosmith.settings import get_settings
from phonosmith.structures.labels import Labels
from phonosmith.training.graphs import LabelledGraph, labelled_batch, labelled_graphs
from phonosmith.training.losses import efs_loss

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.training.spec import TrainSpec


def choose_training_device(foundation: Potential, frames: Sequence[Atoms], spec: TrainSpec) -> DeviceChoice:
    """Return where to train on some configurations: as ``spec.device`` says, with auto as PHONOSMITH_DEVICE says.

    With auto in both, one step on energies, forces and stresses (a batch of middle size, derivatives by all parameters)
    is timed on either device.

    Raises
    ------
    ConfigurationError
        For cuda where torch sees no GPU.
    """
    if spec.device == "auto" and (wanted := get_settings().device) != "auto":
        choice = choose_device(wanted, _unasked, ())
        return DeviceChoice(choice.device, f"asked for by PHONOSMITH_DEVICE={wanted}")
    if not isinstance(foundation, TorchPotential):
        return choose_device("cpu", _unasked, ())  # refused later, and by name
    sizes = sorted(frames, key=len)
    count = min(spec.batch_size, len(sizes))
    typical = sizes[(len(sizes) - count) // 2 :][:count]
    parameters = sum(parameter.numel() for parameter in foundation.model.parameters())
    work = ("training", foundation.architecture, spec.dtype, parameters, spec.prune, *map(len, typical))
    return choose_device(spec.device, partial(_step_seconds, foundation, typical, spec), work)


def _unasked(device: str) -> float:
    raise AssertionError(f"nothing is measured on {device}")


def _step_seconds(foundation: TorchPotential, frames: Sequence[Atoms], spec: TrainSpec, device: str) -> float:
    """Return what a step takes on a device, s: forward, loss and the gradient by every parameter."""
    backend, dtype = foundation.backend, getattr(torch, spec.dtype)
    elements = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    model = backend.cast((foundation.prune(elements) if spec.prune else foundation).model, spec.dtype, device)
    parameters = [parameter.requires_grad_(True) for parameter in model.parameters()]
    numbers, cutoff = backend.atomic_numbers(model), backend.cutoff(model)
    labels = [Labels(energy=0.0, forces=np.zeros((len(atoms), 3)), stress=np.zeros(6)) for atoms in frames]
    graphs = labelled_graphs(frames, labels, "train", numbers, cutoff, backend.atomic_energies(model)[0])

    def seconds(some: Sequence[LabelledGraph]) -> float:
        batch = labelled_batch(some, dtype, device)

        def step() -> None:
            predictions = backend.predict(model, batch.inputs, stress=spec.stress_weight > 0, create_graph=True)
            efs_loss(predictions, batch, spec).backward(inputs=parameters)

        return seconds_per_call(step, device)

    if device == "cpu" and (alone := seconds(graphs[:1])) > LONG_CALL:
        return alone * len(graphs)
    return seconds(graphs)
