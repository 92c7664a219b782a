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
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

from phonosmith.core.errors import InputError, PotentialError
from phonosmith.core.reading import load_json
from phonosmith.potentials.container import store_file
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.e3nn_eager import e3nn_version, import_e3nn, require_signs
from phonosmith.potentials.foreign import unreadable

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
    """Return nequix's torch module class; without JAX, the package itself, which needs it, is left out."""
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


Leaf = tuple[torch.Tensor, tuple[int, ...]]
"""View of weights of a module and the shape they have in the file."""


def _matrices(linear: Any) -> list[Leaf]:
    """Return the matrices of an e3nn linear layer, in the order of their names in the file."""
    ends = np.cumsum([int(np.prod(path.path_shape)) for path in linear.instructions])[:-1]
    parts = torch.tensor_split(linear.weight.detach(), ends.tolist())
    paths = sorted(zip(linear.instructions, parts, strict=True), key=lambda one: f"w[{one[0].i_in},{one[0].i_out}] ")
    return [(part, tuple(path.path_shape)) for path, part in paths]


def _leaves(model: Any) -> list[Leaf]:
    """Return a model's weights in the order of the file."""

    def plain(parts: Iterable[torch.Tensor]) -> list[Leaf]:
        return [(part.detach(), tuple(part.shape)) for part in parts]

    leaves = plain([model.reference_energies])
    for layer in model.layers:
        leaves += plain(part.weights for part in layer.radial_mlp.layers)
        leaves += [*_matrices(layer.linear_1), *_matrices(layer.linear_2), *_matrices(layer.skip)]
        if layer.layer_norm is not None:
            leaves += plain(layer.layer_norm.affine_weight)
    return leaves + _matrices(model.readout)


def read_model(data: bytes, name: str = "The file") -> Any:
    """Return the module of a ``.nqx`` file in float32; one that is damaged or unknown is a PotentialError."""
    end = data.find(b"\n") + 1
    import_nequix()
    try:
        config = load_json(data[:end], name)
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
    except (InputError, KeyError, TypeError, ValueError, EOFError, RuntimeError, AssertionError) as error:
        raise unreadable(f"{name} is not a readable Nequix model", error) from error
    return model


def write_model(model: Any) -> bytes:
    """Return the ``.nqx`` file of a module, as ``NequixCalculator`` reads it (float32)."""
    numbers, energies = model.config["atomic_numbers"], model.reference_energies.tolist()
    config = model.config | {
        "atom_energies": {str(number): value for number, value in zip(numbers, energies, strict=True)},
        "e3nn": e3nn_version(),
    }
    buffer = io.BytesIO((json.dumps(config) + "\n").encode())
    buffer.seek(0, io.SEEK_END)
    for view, shape in _leaves(model):
        np.save(buffer, view.cpu().float().numpy().reshape(shape))
    return buffer.getvalue()


def keep(data: bytes, name: str, parents: Sequence[str] = ()) -> PotentialRef:
    """Put a ``.nqx`` file into the artefact store and return its reference."""
    config = read_model(data, name).config
    return store_file(data, ".nqx", config | {"architecture": "nequix"}, name, parents)
