"""Import nequix and JAX quietly, read ``.nqx`` files, and compile each architecture once per process.

A ``.nqx`` file is one line of JSON and plain arrays: reading it runs no code, so it needs no trust.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from phonosmith.core.errors import PotentialError

log = logging.getLogger(__name__)

ARCHITECTURE_KEYS = (
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
SMALLEST_KEPT_COMPILATION = 1.0
"""Compilations that took longer are kept on disk for the next process, s."""


def nequix_installed() -> bool:
    """Tell whether nequix's JAX backend is there, without importing it."""
    return all(importlib.util.find_spec(name) for name in ("jax", "nequix", "equinox", "e3nn_jax", "jraph", "optax"))


def import_nequix() -> None:
    """Import nequix's JAX backend; compiled programs are kept under PHONOSMITH_HOME unless JAX was told a place.

    Raises
    ------
    PotentialError
        When it is not installed.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import jax
            import nequix.model  # noqa: F401
        except ImportError as error:
            raise PotentialError(
                f"Nequix potentials need the JAX backend of nequix, which cannot be imported: {error}.",
                "Run tools/install_nequix.sh in this environment (CPU wheels only).",
            ) from error
    _keep_compilations(jax)


@lru_cache(maxsize=1)
def _keep_compilations(jax: Any) -> None:
    from phonosmith.settings import get_settings

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    jax.config.update("jax_compilation_cache_dir", str(get_settings().home.expanduser() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SMALLEST_KEPT_COMPILATION)


@contextlib.contextmanager
def precision(dtype: str, device: str = "cpu") -> Iterator[None]:
    """Compute in float32 or float64 on a device inside the block, whatever JAX is set to outside."""
    import jax

    with jax.enable_x64(dtype == "float64"), jax.default_device(jax_device(device)):
        yield


def jax_device(device: str) -> Any:
    """Return JAX's device for ``cpu`` or ``cuda``; without a GPU build of JAX the CPU, saying so."""
    import jax

    if device.startswith("cuda"):
        try:
            return jax.devices("gpu")[0]
        except RuntimeError:
            log.warning("JAX is installed without GPU support: Nequix is evaluated on the CPU")
    return jax.devices("cpu")[0]


def is_nequix_file(data: bytes) -> bool:
    """Tell whether bytes are those of a ``.nqx`` file: a JSON line naming the architecture, then arrays."""
    if data[:1] != b"{":
        return False
    try:
        header = json.loads(data[: data.find(b"\n") + 1] or b"null")
    except ValueError:
        return False
    return isinstance(header, dict) and "hidden_irreps" in header and "atomic_numbers" in header


@dataclass(frozen=True)
class NequixWeights:
    """Content of a ``.nqx`` file.

    Attributes
    ----------
    config
        Header: architecture, elements and the settings it was trained with.
    leaves
        Arrays in the model's order (float32, on the host or a device).
    """

    config: dict[str, Any]
    leaves: list[Any]


@dataclass(frozen=True)
class Skeleton:
    """A Nequix model without its weights.

    Attributes
    ----------
    tree
        How arrays are put into it.
    names
        Of every array, in order.
    shapes
        Of every array, in order.
    like
        The model with shapes in place of arrays.
    """

    tree: Any
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    like: Any

    def model(self, leaves: Sequence[Any]) -> Any:
        """Return the nequix module with these arrays."""
        import jax

        return jax.tree_util.tree_unflatten(self.tree, leaves)


def architecture_key(config: dict[str, Any]) -> str:
    """Return what two files have in common when one compiled program serves both."""
    kept = {key: config[key] for key in ARCHITECTURE_KEYS}
    return json.dumps([kept, len(config["atomic_numbers"])], sort_keys=True)


@lru_cache(maxsize=16)
def skeleton(key: str) -> Skeleton:
    """Return the model of an architecture key, built without computing anything."""
    import equinox as eqx
    import jax
    from nequix.model import Nequix

    settings, n_species = json.loads(key)
    with precision("float32"):
        like = eqx.filter_eval_shape(Nequix, jax.random.key(0), n_species=n_species, **settings)
    paths, tree = jax.tree_util.tree_flatten_with_path(like)
    names = tuple(jax.tree_util.keystr(path) for path, _ in paths)
    return Skeleton(tree, names, tuple(tuple(leaf.shape) for _, leaf in paths), like)


def read_weights(data: bytes, name: str = "The file") -> NequixWeights:
    """Read the content of a ``.nqx`` file.

    Raises
    ------
    PotentialError
        When it is damaged or of an unknown architecture.
    """
    import_nequix()
    import equinox as eqx
    import jax

    end = data.find(b"\n") + 1
    try:
        config = json.loads(data[:end])
        found = skeleton(architecture_key(config))
        with precision("float32"):
            model = eqx.tree_deserialise_leaves(io.BytesIO(data[end:]), found.like)
    except (KeyError, TypeError, ValueError, EOFError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise PotentialError(
            f"{name} is not a readable Nequix model ({reason}).", "Fetch it again and compare its sha256."
        ) from error
    return NequixWeights(config, jax.tree_util.tree_leaves(model))


def write_weights(weights: NequixWeights) -> bytes:
    """Return the ``.nqx`` file of weights, as ``NequixCalculator`` reads it (float32)."""
    import equinox as eqx
    import jax.numpy as jnp

    found = skeleton(architecture_key(weights.config))
    buffer = io.BytesIO()
    buffer.write((json.dumps(weights.config) + "\n").encode())
    with precision("float32"):
        leaves = [jnp.asarray(leaf, dtype=jnp.float32) for leaf in weights.leaves]
        eqx.tree_serialise_leaves(buffer, found.model(leaves))
    return buffer.getvalue()
