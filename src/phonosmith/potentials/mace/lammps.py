"""Files for LAMMPS, made by mace's own wrappers."""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

import torch

from phonosmith.potentials.e3nn_eager import default_dtype

if TYPE_CHECKING:
    from phonosmith.potentials.backend import LammpsStyle


def lammps_bytes(model: Any, style: LammpsStyle) -> bytes:
    """Return the file of a single-head model that a LAMMPS pair style reads, in the model's precision."""
    from e3nn.util import jit
    from mace.calculators import LAMMPS_MACE
    from mace.calculators.lammps_mliap_mace import LAMMPS_MLIAP_MACE

    frozen = copy.deepcopy(model).cpu().requires_grad_(False)
    buffer = io.BytesIO()
    with default_dtype(frozen.r_max.dtype):
        if style == "mliap":
            frozen.lammps_mliap = True
            torch.save(LAMMPS_MLIAP_MACE(frozen), buffer)
        else:
            torch.jit.save(jit.compile(LAMMPS_MACE(frozen)), buffer)
    return buffer.getvalue()
