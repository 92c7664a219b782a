"""SevenNet checkpoints, and our artefact of them: weights and an architecture description.

A checkpoint is a pickle of plain values and arrays, read by torch's loader that runs no code. The description holds the
settings sevenn builds the module from; constants follow from it and are not kept.
"""

from __future__ import annotations

import io
import pickle
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.container import fill, pack, read_header, read_tensors
from phonosmith.potentials.e3nn_eager import default_dtype, e3nn_version, import_e3nn, require_signs
from phonosmith.potentials.foreign import unreadable

Settings = dict[str, Any]
_MODEL_KEYS = (
    "chemical_species",
    "shift",
    "scale",
    "version",
    "use_modality",
    "use_modal_wise_shift",
    "use_modal_wise_scale",
    "readout_as_fcn",
    "readout_fcn_hidden_neurons",
    "readout_fcn_activation",
)
"""Settings beyond sevenn's own list of model settings that its constructor reads."""
_CHANNEL = "phonosmith_channel"
"""Setting of ours: which modality of a model with several is evaluated."""


def import_sevenn() -> None:
    """Import sevenn quietly; a PotentialError says how to install it."""
    import_e3nn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import sevenn.checkpoint  # noqa: F401
        except ImportError as error:
            raise PotentialError(
                f"SevenNet potentials need the package sevenn, which cannot be imported: {error}.",
                "Run tools/install_architectures.sh in this environment.",
            ) from error


def read_checkpoint(data: bytes, source: str) -> Any:
    """Return the module of a checkpoint in float32; one that only code could read is a PotentialError."""
    import_sevenn()
    from sevenn.checkpoint import SevenNetCheckpoint

    rebuild = np.zeros(1).__reduce__()[0]  # what pickles of arrays call
    arrays = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    plain = [np.ndarray, np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType]
    try:
        with torch.serialization.safe_globals([*arrays, *plain]):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        kept = {"config": _without_arrays(content["config"]), "model_state_dict": content["model_state_dict"]}
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "checkpoint.pth"
            torch.save(kept, path)
            checkpoint = SevenNetCheckpoint(path)
            settings, model = checkpoint.config, checkpoint.build_model()
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, EOFError) as error:
        raise unreadable(f"{source} is not a readable SevenNet checkpoint", error) from error
    return build_model(_model_settings(settings, source), weights(model), torch.float32)


def _without_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_arrays(one) for key, one in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _model_settings(settings: Settings, source: str) -> Settings:
    """Return what sevenn's constructor reads, one shift and scale per element, one channel chosen."""
    import sevenn
    from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG as MODEL

    kept = {key: value for key, value in settings.items() if key in (*MODEL, *_MODEL_KEYS) or key.startswith("_")}
    channels = list(settings.get("_modal_map") or {})
    channel = settings.get(_CHANNEL) or ("PBE" if "PBE" in channels else next(iter(channels), None))
    if len(channels) > 1 and channel not in ("PBE", settings.get(_CHANNEL)):
        raise PotentialError(
            f"{source} has the modalities {', '.join(channels)}, and which one to use is not known.",
            "Use a model of one modality, or 7net-mf-0 (its PBE channel).",
        )
    count = len(settings["_type_map"])
    for key in ("shift", "scale"):
        if isinstance(kept[key], float) or len(kept[key]) == 1:
            kept[key] = [float(np.ravel(kept[key])[0])] * count
    types = {str(number): place for number, place in settings["_type_map"].items()}
    return kept | {_CHANNEL: channel, "version": sevenn.__version__, "_type_map": types}


def _sevenns(settings: Settings) -> Settings:
    """Return settings as sevenn has them: JSON turned atomic numbers into text."""
    return settings | {"_type_map": {int(number): place for number, place in settings["_type_map"].items()}}


def build_model(settings: Settings, saved: Mapping[str, torch.Tensor] | None, dtype: torch.dtype) -> Any:
    """Return sevenn's module in a precision, with random weights where none are given."""
    import_sevenn()
    from sevenn.model_build import build_E3_equivariant_model

    with default_dtype(dtype), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = build_E3_equivariant_model(_sevenns(settings)).to(dtype)
    model.settings = settings
    model.set_is_batch_data(True)
    if saved is not None:
        cast = {name: value.to(dtype) for name, value in saved.items()}
        fill(weights(model), cast, "sevenn", "Install the sevenn version of tools/install_architectures.sh.")
    return model


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that do not follow from the description."""
    return {name: value.detach() for name, value in model.named_parameters() if value.numel()}


def _irreps(settings: Settings) -> list[str]:
    manual = settings.get("irreps_manual") or []
    return ["1x1e"] if not (manual or settings.get("is_parity")) else [str(one) for one in manual]


def pack_model(model: Any, probe_energies: Sequence[float]) -> bytes:
    """Return the artefact of a module."""
    types = model.settings["_type_map"]
    header = {
        "architecture": "sevennet",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "atomic_numbers": [int(number) for number in sorted(types, key=types.__getitem__)],
        "cutoff": float(model.cutoff),
        "description": model.settings,
        "e3nn": e3nn_version(),
        "probe_energies": [round(energy, 6) for energy in probe_energies],
    }
    return pack({name: value.cpu().contiguous().clone() for name, value in weights(model).items()}, header)


def unpack_model(data: bytes, dtype: str | None = None, name: str = "The model") -> Any:
    """Return the module of an artefact, by default in the precision it was saved in."""
    header = read_header(data, name)
    settings = header["description"]
    require_signs(_irreps(settings), header["e3nn"], name)
    return build_model(settings, read_tensors(data), getattr(torch, dtype or header["dtype"]))


def checkpoint_bytes(model: Any) -> bytes:
    """Return the checkpoint (float32) that ``SevenNetCalculator`` and sevenn's own training read."""
    content = {
        "config": _sevenns(model.settings),
        "model_state_dict": build_model(model.settings, weights(model), torch.float32).state_dict(),
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
        "epoch": 0,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
