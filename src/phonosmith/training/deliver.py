"""Hand a trained model over: a plain file, the artefact store, a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phonosmith.core.artefacts import default_artefacts, write_atomic
from phonosmith.core.hashing import digest_bytes
from phonosmith.potentials.documents import PotentialRef
from phonosmith.training.finetune import TrainingResult

MODEL_NAME = "model.model"
NEQUIX_NAME = "model.nqx"
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
    document = result.document
    inputs = document.manifest.inputs if document.manifest else {}
    parents = [inputs[key] for key in ("train", "valid", "replay") if key in inputs]
    if foundation is not None:
        parents.insert(0, foundation.sha256)
    document.model = _register_model(result.model, document.name, parents)
    lines = "".join(json.dumps(line) + "\n" for line in document.history)
    document.log = default_artefacts().put_bytes(lines.encode(), kind="metrics", suffix=".jsonl")
    return result


def _register_model(model: Any, name: str, parents: list[str]) -> PotentialRef:
    if _is_nequix(model):
        from phonosmith.potentials.nequix.backend import write_weights
        from phonosmith.potentials.nequix.potential import register_nequix

        return register_nequix(write_weights(model.weights), name, parents)
    from phonosmith.potentials.mace.files import register_model

    return register_model(model, name=name, parents=parents)


def _is_nequix(model: Any) -> bool:
    return getattr(model, "architecture", "mace") == "nequix"


def write(result: TrainingResult, folder: str | Path) -> tuple[Path, Path]:
    """Write the model (``model.model``, or ``model.nqx`` of a Nequix) and ``training.json``; return both paths.

    The model is a plain file of its architecture that loads without us. A MACE file is a pickle; this one was made
    here, so its digest goes on the user's trust list and it can be named as a potential at once.
    """
    import copy

    target = Path(folder)
    model_path, document_path = target / MODEL_NAME, target / DOCUMENT_NAME
    if _is_nequix(result.model):
        model_path = target / NEQUIX_NAME
        result.model.save_plain(model_path)
    else:
        from phonosmith.potentials.foreign import trust_digest
        from phonosmith.potentials.mace.files import plain_bytes

        data = plain_bytes(copy.deepcopy(result.model))
        write_atomic(model_path, data)
        trust_digest(digest_bytes(data), f"trained here: {model_path}")
    write_atomic(document_path, (result.document.model_dump_json(indent=2) + "\n").encode())
    return model_path, document_path
