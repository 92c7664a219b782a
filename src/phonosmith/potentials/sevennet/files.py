"""SevenNet checkpoints, and our artefact of them: weights and an architecture description.

A checkpoint is a pickle of plain values and arrays, read by torch's loader that runs no code. The description holds the
settings sevenn builds the module from; constants follow from it and are not kept.
"""

from __future__ import annotations

import io
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.container import pack, read_header, read_tensors
from phonosmith.potentials.e3nn_eager import e3nn_version, import_e3nn, require_signs
from phonosmith.potentials.probes import probe_frames

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
    """Import sevenn quietly.

    Raises
    ------
    PotentialError
        When it is not installed.
    """
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
    """Return the module of a checkpoint in float32.

    Raises
    ------
    PotentialError
        When it cannot be read without running code, or is no SevenNet model.
    """
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
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise PotentialError(
            f"{source} is not a readable SevenNet checkpoint ({reason}).", "Fetch it again and compare its sha256."
        ) from error
    model.settings = _model_settings(settings, source)
    return build_model(model.settings, _weights(model), torch.float32)


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
    return kept | {_CHANNEL: channel, "version": sevenn.__version__, "_type_map": _numbered(settings["_type_map"])}


def _numbered(type_map: dict[Any, int]) -> dict[str, int]:
    return {str(number): place for number, place in type_map.items()}


def build_model(settings: Settings, weights: dict[str, torch.Tensor] | None, dtype: torch.dtype) -> Any:
    """Return sevenn's module in a precision, with random weights where none are given."""
    import_sevenn()
    from sevenn.model_build import build_E3_equivariant_model

    types = {int(number): place for number, place in settings["_type_map"].items()}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: Any = build_E3_equivariant_model(settings | {"_type_map": types}).to(dtype)
    finally:
        torch.set_default_dtype(before)
    model.settings = settings
    model.set_is_batch_data(True)
    if weights is not None:
        expected = _weights(model)
        odd = [
            name
            for name in sorted(set(expected) | set(weights))
            if name not in expected or name not in weights or expected[name].numel() != weights[name].numel()
        ]
        if odd:
            raise PotentialError(
                f"The installed sevenn builds other tensors than this model has: {', '.join(odd[:4])}.",
                "Install the sevenn version of tools/install_architectures.sh.",
            )
        with torch.no_grad():
            for name, value in expected.items():
                value.copy_(weights[name].reshape(value.shape))
    return model


def _weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that do not follow from the description."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {name: value for name, value in tensors.items() if value.numel()}


def _irreps(settings: Settings) -> list[str]:
    manual = settings.get("irreps_manual") or []
    return ["1x1e"] if not (manual or settings.get("is_parity")) else [str(one) for one in manual]


def pack_model(model: Any) -> bytes:
    """Return the artefact of a module."""
    weights = {name: value.cpu().contiguous().clone() for name, value in _weights(model).items()}
    types = model.settings["_type_map"]
    numbers = sorted((int(number) for number in types), key=lambda number: types[str(number)])
    header = {
        "architecture": "sevennet",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "atomic_numbers": numbers,
        "cutoff": float(model.cutoff),
        "description": model.settings,
        "e3nn": e3nn_version(),
        "probe_energies": [round(energy, 6) for energy in _probe(build_model(model.settings, weights, torch.float64))],
    }
    return pack(weights, header)


def unpack_model(data: bytes, dtype: str | None = None, name: str = "The model") -> Any:
    """Return the module of an artefact, by default in the precision it was saved in."""
    header = read_header(data, name)
    settings = header["description"]
    require_signs(_irreps(settings), header["e3nn"], name)
    return build_model(settings, read_tensors(data), getattr(torch, dtype or header["dtype"]))


def _probe(model: Any) -> list[float]:
    from phonosmith.potentials.sevennet.backend import SevenNetBackend

    potential = SevenNetBackend().potential(model)
    frames = probe_frames(potential.z_table, potential.r_max)
    return [evaluation.energy for evaluation in potential.evaluate(frames, stress=False)]


def verify_model(data: bytes) -> float:
    """Return how far this installation's probe energies are from the saved ones, eV."""
    saved = read_header(data)["probe_energies"]
    return float(np.max(np.abs(np.array(_probe(unpack_model(data, "float64"))) - saved)))


def checkpoint_bytes(model: Any) -> bytes:
    """Return the checkpoint (float32) that ``SevenNetCalculator`` and sevenn's own training read."""
    single = build_model(model.settings, _weights(model), torch.float32)
    types = {int(number): place for number, place in model.settings["_type_map"].items()}
    content = {
        "config": model.settings | {"_type_map": types},
        "model_state_dict": single.state_dict(),
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
        "epoch": 0,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
