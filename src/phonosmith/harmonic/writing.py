"""Phonons in files other programs write and read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import MismatchError

if TYPE_CHECKING:
    from phonopy import Phonopy

    from phonosmith.evaluation.phonons.documents import PhononDoc
    from phonosmith.harmonic.model import HarmonicModel


def attach_plain_force_sets(phonon: Phonopy, source: Path) -> None:
    """Take a file named just FORCE_SETS beside a phonopy file of any name, where it can belong to no other.

    The reader of phonopy files takes only companions of the same name. A folder with a single phonopy file leaves no
    doubt, and the forces must still fit supercell and displacements.
    """
    from phonopy.file_IO import parse_FORCE_SETS_from_strings

    from phonosmith.core.reading import COMPRESSED, read_bounded
    from phonosmith.harmonic.files import displacements_and_forces

    endings = ("", *COMPRESSED)
    file = next((found for end in endings if (found := source.with_name(f"FORCE_SETS{end}")).is_file()), None)
    rivals = [path for path in source.parent.iterdir() if path.name.endswith(tuple(f".yaml{end}" for end in endings))]
    if file is None or len(rivals) > 1:
        return
    count = len(phonon.supercell)
    try:
        found = parse_FORCE_SETS_from_strings(read_bounded(file).decode(), natom=count)
        moved = displacements_and_forces(found, count)[0]
    except Exception as error:
        raise MismatchError(
            f"{file} does not fit a supercell of {count} atoms: {error}.", "Give the FORCE_SETS of this supercell."
        ) from error
    if phonon.dataset is not None:
        planned = displacements_and_forces(phonon.dataset, count)[0]
        if planned.shape != moved.shape or np.abs(planned - moved).max() > 1e-4:
            raise MismatchError(
                f"{file} and {source} name different displacements.", "They belong to different calculations."
            )
    phonon.dataset = found


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
