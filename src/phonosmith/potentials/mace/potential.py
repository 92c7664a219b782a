"""MACE potentials around a module in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.torch_potential import TorchPotential

if TYPE_CHECKING:
    import torch


class MacePotential(TorchPotential):
    """A mace module, in the precision and on the device it is to be evaluated in (see ``TorchPotential``)."""

    def __init__(self, model: torch.nn.Module, *, head: str | None = None, name: str = "The potential") -> None:
        super().__init__(MaceBackend(), model, head=head, name=name)
