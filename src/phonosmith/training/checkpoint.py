"""Checkpoints that are whole or absent, and a metrics log that follows them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import ArtefactError, ConfigurationError

CHECKPOINT_NAME = "checkpoint.pt"
METRICS_NAME = "metrics.jsonl"
FORMAT = 1


def save_checkpoint(folder: Path, identity: str, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; ``identity`` is the digest of all that decides the outcome."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "identity": identity, **content}, buffer)
    write_atomic(folder / CHECKPOINT_NAME, buffer.getvalue())


def on_host(content: Any) -> Any:
    """Return the content of a checkpoint with copies of its tensors on the CPU."""
    if torch.is_tensor(content):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: on_host(value) for key, value in content.items()}
    if isinstance(content, list):
        return [on_host(value) for value in content]
    return content


def load_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the checkpoint of a folder, None when there is none (no code is run on loading).

    ArtefactError when it is damaged, ConfigurationError when it belongs to another unfinished training.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ArtefactError(
            f"The checkpoint {path} cannot be read: {error}.", "Delete it to start the training again."
        ) from error
    if content.get("format") == FORMAT and content.get("identity") == identity:
        return content
    if content.get("state", {}).get("finished"):
        # nothing is lost: that training is done, this one replaces it
        return None
    raise ConfigurationError(
        f"The checkpoint {path} belongs to another unfinished training (other data, foundation, strategy or seed).",
        "Use another folder, or delete the checkpoint to start again.",
    )


def metrics_lines(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a history as JSON lines, one per epoch."""
    return "".join(json.dumps(line) + "\n" for line in history).encode()


def log_epoch(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Add the last epoch to the log; the first one of a new training replaces what an earlier one left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / METRICS_NAME).open("ab" if len(history) > 1 else "wb") as stream:
        stream.write(metrics_lines(history[-1:]))
