"""A small Nequix with random weights: enough to test everything but accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "hidden_irreps": "8x0e + 4x1o",
    "lmax": 1,
    "cutoff": 4.0,
    "n_layers": 2,
    "radial_basis_size": 4,
    "radial_mlp_size": 8,
    "radial_mlp_layers": 1,
    "radial_polynomial_p": 6.0,
    "mlp_init_scale": 4.0,
    "index_weights": False,
    "layer_norm": True,
    "shift": 0.1,
    "scale": 0.8,
    "avg_n_neighbors": 16.0,
}


def write_tiny_nequix(
    path: Path, seed: int = 0, numbers: Sequence[int] = (14, 32), energies: Sequence[float] = (-1.0, -2.0)
) -> Path:
    """Write a random model for some elements with their atomic energies (eV) and return its path."""
    import torch

    from phonosmith.potentials.nequix.files import build_model, write_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model({**SETTINGS, "atomic_numbers": list(numbers)})
    model.reference_energies.copy_(torch.tensor(energies))
    path.write_bytes(write_model(model))
    return path
