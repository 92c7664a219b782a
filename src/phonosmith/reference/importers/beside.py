"""VASP outputs in the folder of a phonopy file."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms

from phonosmith.reference.importers.archives import is_archive, iter_entries
from phonosmith.reference.importers.frames import frames_of
from phonosmith.reference.vasp.vasprun import parse_vasprun


def calculations_beside(folder: Path) -> list[Atoms]:
    """Return the converged frames of every vasprun.xml in a folder, its subfolders and the archives directly in it."""
    frames: list[Atoms] = []
    archives = sorted(path for path in folder.iterdir() if path.is_file() and is_archive(path))
    for source in (folder, *archives):
        for entry in iter_entries(source, lambda name: name.endswith(".xml") and "vasprun" in name):
            if entry.data is not None:
                frames += frames_of(parse_vasprun(entry.data, entry.name), entry.name, steps="last")[0]
    return frames
