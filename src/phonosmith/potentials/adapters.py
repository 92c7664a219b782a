"""One loader per architecture; a new architecture is added by ``register_adapter`` and nothing else.

A loader takes the artefact's bytes and the keywords ``dtype``, ``device`` and ``name`` and returns a ``Potential``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from phonosmith.core.errors import PotentialError

if TYPE_CHECKING:
    from phonosmith.potentials.base import Potential

Loader = Callable[..., "Potential"]


def _mace(data: bytes, *, dtype: str, device: str, name: str) -> Potential:
    from phonosmith.potentials.mace.potential import load_mace

    return load_mace(data, dtype=dtype, device=device, name=name)


def _empirical(data: bytes, *, dtype: str, device: str, name: str) -> Potential:  # noqa: ARG001
    # numpy in float64 on the CPU whatever is asked: nothing is gained elsewhere
    module = importlib.import_module("phonosmith.potentials.empirical.potential")
    potential: Potential = module.load_empirical(data)
    return potential


def _nequix(data: bytes, *, dtype: str, device: str, name: str) -> Potential:
    from phonosmith.potentials.nequix.potential import load_nequix

    return load_nequix(data, dtype=dtype, device=device, name=name)


_ADAPTERS: dict[str, Loader] = {"mace": _mace, "empirical": _empirical, "nequix": _nequix}


def register_adapter(architecture: str, loader: Loader) -> None:
    """Add a loader, e.g. ``register_adapter("mine", load_mine)``; an existing name is refused."""
    if architecture in _ADAPTERS:
        raise PotentialError(f"There is already an adapter for {architecture}.", "Choose another architecture name.")
    _ADAPTERS[architecture] = loader


def adapter(architecture: str) -> Loader:
    """Return the loader of an architecture.

    Raises
    ------
    PotentialError
        When no adapter for it is registered.
    """
    if architecture not in _ADAPTERS:
        raise PotentialError(
            f"No adapter for architecture {architecture!r} is installed (known: {', '.join(sorted(_ADAPTERS))}).",
            "Install the extra that brings it or call phonosmith.potentials.adapters.register_adapter.",
        )
    return _ADAPTERS[architecture]
