"""Write phonons to files other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.core.artefacts import write_atomic

if TYPE_CHECKING:
    from phonosmith.evaluation.harmonic import HarmonicModel
    from phonosmith.evaluation.phonon_documents import PhononDoc


def phonopy_yaml(model: HarmonicModel) -> str:
    """Return phonopy.yaml with displacements and forces (with force constants where forces are not known)."""
    has_forces = model.phonon.dataset is not None
    settings = {"force_sets": True, "displacements": True, "force_constants": not has_forces}
    return str(model.phonon.to_phonopy_yaml(settings=settings))


def write_phonons(model: HarmonicModel, document: PhononDoc, folder: str | Path) -> dict[str, Path]:
    """Write ``phonopy.yaml`` and ``phonons.json`` (the document) to a folder, and return their paths by name."""
    target = Path(folder)
    files = {"phonopy": target / "phonopy.yaml", "document": target / "phonons.json"}
    write_atomic(files["phonopy"], (phonopy_yaml(model).rstrip("\n") + "\n").encode())
    write_atomic(files["document"], (document.model_dump_json(indent=1) + "\n").encode())
    return files
