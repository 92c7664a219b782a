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


def save_checkpoint(folder: Path, identity: str, content: Mapping[str, Any]) -> Path:
    """Write a checkpoint atomically; ``identity`` is the digest of all that decides the outcome."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "identity": identity, **content}, buffer)
    path = folder / CHECKPOINT_NAME
    write_atomic(path, buffer.getvalue())
    return path


def load_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the checkpoint of a folder, None when there is none (no code is run on loading).

    Raises
    ------
    ArtefactError
        When the file is damaged.
    ConfigurationError
        When it belongs to an unfinished training with other data, foundation, strategy or seed.
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
    if content.get("format") != FORMAT or content.get("identity") != identity:
        if content.get("state", {}).get("finished"):
            # nothing is lost: that training is done, this one replaces it
            return None
        raise ConfigurationError(
            f"The checkpoint {path} belongs to another unfinished training (other data, foundation, strategy or seed).",
            "Use another folder, or delete the checkpoint to start again.",
        )
    return content


class MetricsLog:
    """One JSON object per epoch, readable while training runs.

    Parameters
    ----------
    folder
        Where ``metrics.jsonl`` goes; None writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = folder / METRICS_NAME if folder is not None else None
        self._begun = False

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line; the first one of a new training replaces what an earlier one left."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a" if self._begun else "w", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._begun = True

    def rewrite(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace the log by the history of a checkpoint: epochs after it will be trained again."""
        if self.path is None:
            return
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomic(self.path, text.encode())
        self._begun = True
