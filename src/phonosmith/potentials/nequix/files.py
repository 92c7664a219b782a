"""``.nqx`` files and nequix's torch module, without JAX.

A file is one line of JSON and the leaves of nequix's JAX model as numpy arrays, in the order of its fields: atomic
energies, then per layer the radial network, the first and second linear layer, the skip connection and the layer norm,
then the readout. Matrices of a linear layer come in the order of their names.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.e3nn_eager import e3nn_version, import_e3nn, require_signs

SETTINGS = (
    "hidden_irreps",
    "lmax",
    "cutoff",
    "n_layers",
    "radial_basis_size",
    "radial_mlp_size",
    "radial_mlp_layers",
    "radial_polynomial_p",
    "mlp_init_scale",
    "index_weights",
    "layer_norm",
    "shift",
    "scale",
    "avg_n_neighbors",
)
"""Header entries that, with the number of elements, decide what the weights mean."""


def import_nequix() -> Any:
    """Return nequix's torch module class; the package itself, which needs JAX, is left out where JAX is not installed.

    Raises
    ------
    PotentialError
        When it is not installed.
    """
    import_e3nn()
    spec = importlib.util.find_spec("nequix") if "nequix" not in sys.modules else None
    if spec is not None and importlib.util.find_spec("jax") is None:
        package = ModuleType("nequix")
        package.__path__ = list(spec.submodule_search_locations or ())
        package.__spec__ = spec
        sys.modules["nequix"] = package
    try:
        from nequix.torch_impl.model import NequixTorch
    except ImportError as error:
        raise PotentialError(
            f"Nequix potentials need the torch part of nequix, which cannot be imported: {error}.",
            "Run tools/install_architectures.sh in this environment.",
        ) from error
    return NequixTorch


def build_model(config: dict[str, Any]) -> Any:
    """Return nequix's module with random weights; its ``config`` is the file's header.

    Atomic energies are kept beside it, in ``reference_energies``: added inside, they would cost digits in float32.
    """
    settings = {key: config[key] for key in SETTINGS}
    model = import_nequix()(n_species=len(config["atomic_numbers"]), **settings)
    model.config = config
    model.register_buffer("reference_energies", torch.zeros(len(config["atomic_numbers"])))
    return model


def _matrices(linear: Any) -> list[tuple[slice, tuple[int, ...]]]:
    """Return where an e3nn linear layer keeps its matrices and their shapes, in the order of the file."""
    places, start = {}, 0
    for path in linear.instructions:
        size = int(np.prod(path.path_shape))
        places[f"w[{path.i_in},{path.i_out}] "] = slice(start, start + size), tuple(path.path_shape)
        start += size
    return [places[key] for key in sorted(places)]


def _leaves(model: Any) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
    """Return views of a model's weights with the shapes they have in the file, in its order."""

    def linear(layer: Any) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
        return [(layer.weight.detach()[place], shape) for place, shape in _matrices(layer)]

    views = [(model.reference_energies, tuple(model.reference_energies.shape))]
    for layer in model.layers:
        views += [(part.weights.detach(), tuple(part.weights.shape)) for part in layer.radial_mlp.layers]
        views += [*linear(layer.linear_1), *linear(layer.linear_2), *linear(layer.skip)]
        if layer.layer_norm is not None:
            views += [(part.detach(), tuple(part.shape)) for part in layer.layer_norm.affine_weight]
    return [*views, *linear(model.readout)]


def read_model(data: bytes, name: str = "The file") -> Any:
    """Return the module of a ``.nqx`` file in float32.

    Raises
    ------
    PotentialError
        When it is damaged or of an unknown architecture.
    """
    end = data.find(b"\n") + 1
    import_nequix()
    try:
        config = json.loads(data[:end])
        require_signs([config["hidden_irreps"]], config.get("e3nn", e3nn_version()), name)
        model = build_model(config)
        stream = io.BytesIO(data[end:])
        for view, shape in _leaves(model):
            array = np.load(stream, allow_pickle=False)
            if array.shape != shape:
                raise ValueError(f"an array of shape {array.shape} where {shape} is expected")  # noqa: TRY301
            view.copy_(torch.as_tensor(array).reshape(view.shape))
        if stream.read().strip():
            raise ValueError("it holds more arrays than the architecture has")  # noqa: TRY301
    except (KeyError, TypeError, ValueError, EOFError, RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise PotentialError(
            f"{name} is not a readable Nequix model ({reason}).", "Fetch it again and compare its sha256."
        ) from error
    return model


def write_model(model: Any) -> bytes:
    """Return the ``.nqx`` file of a module, as ``NequixCalculator`` reads it (float32)."""
    numbers, energies = model.config["atomic_numbers"], model.reference_energies.tolist()
    config = model.config | {
        "atom_energies": {str(number): value for number, value in zip(numbers, energies, strict=True)},
        "e3nn": e3nn_version(),
    }
    buffer = io.BytesIO()
    buffer.write((json.dumps(config) + "\n").encode())
    for view, shape in _leaves(model):
        np.save(buffer, view.cpu().float().numpy().reshape(shape))
    return buffer.getvalue()
