"""The MACE adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import PotentialError
from phonosmith.potentials.base import Array, Evaluation, require_elements
from phonosmith.potentials.mace.imports import settle

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator

_IDLE_FACTOR = 4
"""Prune for an evaluation when the model knows at least this many times the elements that occur."""
_MANY_ATOMS = 512
"""... and when at least this many atoms are evaluated in one call."""


class MacePotential:
    """A MACE model that evaluates batches and gives Hessian columns.

    Parameters
    ----------
    model
        ``mace`` module in the precision and on the device it is to be evaluated in.
    head
        Head to evaluate; needed only for a model with several heads none of which is called "default".
    name
        Human name used in messages.

    Attributes
    ----------
    model
        The torch module.
    device, dtype
        Where and in which precision it is evaluated (``dtype`` as "float32" or "float64").
    r_max
        Cutoff of one message-passing layer, Å.
    z_table
        Atomic numbers in the order of the model's element channels.
    """

    architecture = "mace"

    def __init__(self, model: torch.nn.Module, *, head: str | None = None, name: str = "The potential") -> None:
        from ase.data import chemical_symbols

        self.model: Any = model
        self.name = name
        parameter = next(self.model.parameters())
        self.device = str(parameter.device)
        self.dtype = str(parameter.dtype).removeprefix("torch.")
        self.r_max = float(self.model.r_max)
        settle(self.model)
        self.z_table = tuple(int(number) for number in self.model.atomic_numbers)
        self.elements = tuple(chemical_symbols[number] for number in sorted(self.z_table))
        self.heads = tuple(getattr(self.model, "heads", None) or ("Default",))
        self.head = _choose_head(self.heads, head, name)
        self._lean: dict[tuple[str, ...], tuple[Any, MacePotential]] = {}

    @classmethod
    def from_model(
        cls,
        model: torch.nn.Module,
        *,
        dtype: str | None = None,
        device: str | None = None,
        head: str | None = None,
        name: str = "The potential",
    ) -> MacePotential:
        """Wrap a torch module; another precision or device works on a copy and leaves the given module alone."""
        parameter = next(model.parameters())
        wanted = dtype or str(parameter.dtype).removeprefix("torch.")
        place = device or str(parameter.device)
        if wanted != str(parameter.dtype).removeprefix("torch.") or place != str(parameter.device):
            import copy

            import torch

            model = copy.deepcopy(model).to(dtype=getattr(torch, wanted), device=place)
        return cls(model, head=head, name=name)

    def evaluate(self, frames: Sequence[Atoms], *, stress: bool = True, progress: bool = False) -> list[Evaluation]:
        """Return energy, forces and stress of many configurations, in order, in batches bounded by memory."""
        from phonosmith.potentials.mace.batched import evaluate_batched

        require_elements(self, frames, self.name)
        return evaluate_batched(self, frames, stress=stress, progress=progress)

    def hessian_columns(self, atoms: Atoms, columns: Sequence[int]) -> Array:
        """Return columns of d²E/dx² in eV/Å² by differentiating the forces; all columns share one force graph."""
        from phonosmith.potentials.mace.hessian import autograd_columns

        require_elements(self, [atoms], self.name)
        return autograd_columns(self, atoms, columns)

    def lean(self, frames: Sequence[Atoms]) -> MacePotential:
        """Return the potential to evaluate these frames with: pruned where that pays, and never older than the weights.

        Pruning takes seconds, so it is done for many atoms and many idle elements only, and kept for the next call.
        """
        used = tuple(sorted({symbol for atoms in frames for symbol in atoms.symbols}))
        if not used or len(self.elements) < _IDLE_FACTOR * len(used):
            return self
        fingerprint = _weight_sums(self.model)
        kept = self._lean.get(used)
        if kept is not None and kept[0] == fingerprint:
            return kept[1]
        if sum(len(atoms) for atoms in frames) < _MANY_ATOMS:
            return self
        pruned = self.prune(used)
        self._lean = {used: (fingerprint, pruned)}
        return pruned

    def calculator(self) -> Calculator:
        """Return an ASE calculator of the same numbers."""
        from phonosmith.potentials.calculator import LoadedCalculator

        return LoadedCalculator(self)

    def prune(self, elements: Sequence[str]) -> MacePotential:
        """Return a potential that knows only these elements and predicts the same numbers for them."""
        from phonosmith.potentials.mace.prune import prune_model

        if set(elements) >= set(self.elements):
            return self
        return MacePotential(prune_model(self.model, elements), head=self.head, name=self.name)

    def save_plain(self, path: Path) -> None:
        """Write a plain mace ``.model``."""
        import copy

        from phonosmith.potentials.mace.files import plain_bytes

        write_atomic(Path(path), plain_bytes(copy.deepcopy(self.model)))


def _choose_head(heads: Sequence[str], wanted: str | None, name: str) -> str:
    if wanted is not None:
        if wanted not in heads:
            raise PotentialError(f"{name} has no head {wanted!r}.", f"Its heads are {', '.join(heads)}.")
        return wanted
    if len(heads) == 1:
        return heads[0]
    chosen = [head for head in heads if head.lower() == "default"]
    if not chosen:
        raise PotentialError(
            f"{name} has several heads and none is called 'default'.", f"Choose one of {', '.join(heads)}."
        )
    return chosen[0]


def _weight_sums(model: Any) -> list[float]:
    """Return sums that change when training changes any weight: the guard of a kept pruned copy."""
    import torch

    with torch.no_grad():
        sums = [part for value in model.parameters() for part in (value.sum().double(), value.square().sum().double())]
        buffers = [
            value.double().sum() for value in (model.scale_shift.buffers() if hasattr(model, "scale_shift") else ())
        ]
        found: list[float] = torch.stack(
            [*sums, *buffers, model.atomic_energies_fn.atomic_energies.double().sum()]
        ).tolist()
    return found


def load_mace(
    data: bytes, *, dtype: str = "float64", device: str = "cpu", name: str = "The potential"
) -> MacePotential:
    """Load an artefact of ours in the given precision on the given device."""
    from phonosmith.potentials.mace.files import unpack_model

    model = unpack_model(data, dtype).to(device)
    return MacePotential(model, name=name)


def numpy64(tensor: torch.Tensor) -> Array:
    """Return a tensor's values as a float64 array on the CPU."""
    return np.asarray(tensor.detach().cpu().double().numpy())
