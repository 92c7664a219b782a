"""Import mace so that it neither prints on standard output nor warns about its own files."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from typing import Any

_SETTLED: set[str] = set()
"""Devices on which the scripted functions of this process ran often enough to be optimised."""


def import_mace() -> None:
    """Import mace and e3nn quietly, in the order they need; call it before any other import of them.

    mace prints a line about an absent accelerator when imported, which would spoil ``--json``; e3nn on its own cannot
    read its constants under torch 2.6 and newer unless mace was imported first.
    """
    if "mace.modules" in sys.modules:
        return
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mace.modules
        import mace.tools.scripts_utils  # noqa: F401


def settle(model: Any) -> None:
    """Make a model's first evaluation in a process equal to all later ones, to the last bit.

    e3nn's spherical harmonics are one TorchScript function per process, which torch runs unoptimised once and optimised
    from then on; the two differ in the last bit of forces.
    """
    import torch

    device = str(next(model.parameters()).device)
    if device in _SETTLED:
        return
    _SETTLED.add(device)
    vectors = torch.tensor([[1.0, 2.0, 3.0], [0.4, 0.1, -2.0]], dtype=torch.float64, device=device, requires_grad=True)
    for _ in range(2):
        torch.autograd.grad(model.spherical_harmonics(vectors).sum(), vectors)
