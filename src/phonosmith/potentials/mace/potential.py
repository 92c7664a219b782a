"""MACE potentials: from an artefact of ours, or around a module in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.potentials.mace.files import unpack_model
from phonosmith.potentials.torch_potential import TorchPotential

if TYPE_CHECKING:
    import torch


class MacePotential(TorchPotential):
    """A mace module that evaluates batches and gives Hessian columns.

    Parameters
    ----------
    model
        Module in the precision and on the device it is to be evaluated in.
    head
        Head to evaluate; needed only for a model with several heads none of which is called "default".
    name
        Human name used in messages.
    """

    def __init__(self, model: torch.nn.Module, *, head: str | None = None, name: str = "The potential") -> None:
        super().__init__(MaceBackend(), model, head=head, name=name)

    @classmethod
    def from_model(
        cls, model: torch.nn.Module, *, dtype: str | None = None, device: str | None = None
    ) -> MacePotential:
        """Wrap a module; another precision or device works on a copy and leaves the given module alone."""
        parameter = next(model.parameters())
        now = str(parameter.dtype).removeprefix("torch."), str(parameter.device)
        wanted = dtype or now[0], device or now[1]
        return cls(model if wanted == now else MaceBackend().cast(model, *wanted))


def load_mace(
    data: bytes, *, dtype: str = "float64", device: str = "cpu", name: str = "The potential"
) -> MacePotential:
    """Load an artefact of ours in the given precision on the given device."""
    return MacePotential(unpack_model(data, dtype).to(device), name=name)
