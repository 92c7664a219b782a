"""Hand a trained model over: a plain file, the artefact store, a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phonosmith.core.artefacts import default_artefacts, write_atomic
from phonosmith.training.finetune import TrainingResult

MODEL_NAME = "model.model"
DOCUMENT_NAME = "training.json"


def register(result: TrainingResult, foundation: Any = None) -> TrainingResult:
    """Put model and metrics log into the artefact store and note their references in the document.

    Parameters
    ----------
    result
        Of :func:`~phonosmith.training.finetune.fine_tune`.
    foundation
        PotentialRef of the foundation, recorded as parent with the datasets.
    """
    from phonosmith.potentials.modelfile import register_model

    document = result.document
    inputs = document.manifest.inputs if document.manifest else {}
    parents = [inputs[key] for key in ("train", "valid", "replay") if key in inputs]
    if foundation is not None:
        parents.insert(0, foundation.sha256)
    document.model = register_model(result.model, name=document.name, parents=parents)
    lines = "".join(json.dumps(line) + "\n" for line in document.history)
    document.log = default_artefacts().put_bytes(lines.encode(), kind="metrics", suffix=".jsonl")
    return result


def write(result: TrainingResult, folder: str | Path) -> tuple[Path, Path]:
    """Write ``model.model`` (plain MACE, loads without us) and ``training.json``; return both paths."""
    import copy

    from phonosmith.potentials.modelfile import plain_bytes

    target = Path(folder)
    model_path, document_path = target / MODEL_NAME, target / DOCUMENT_NAME
    write_atomic(model_path, plain_bytes(copy.deepcopy(result.model)))
    write_atomic(document_path, (result.document.model_dump_json(indent=2) + "\n").encode())
    return model_path, document_path
