"""Reader of the folder of a VASP calculation: vasprun.xml, with OUTCAR and OSZICAR as its witnesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from phonosmith.core.reading import COMPRESSED, read_bounded
from phonosmith.reference.vasp.outcar import oszicar_witness, outcar_witness
from phonosmith.reference.vasp.run import VaspRun, Witness
from phonosmith.reference.vasp.vasprun import parse_vasprun

_WITNESSES: tuple[tuple[str, Callable[[str], Witness]], ...] = (
    ("OUTCAR", outcar_witness),
    ("OSZICAR", oszicar_witness),
)


def read_folder(folder: Path) -> VaspRun | None:
    """Return the run that lies in a folder, plain or compressed; None where there is no vasprun.xml."""
    data = _content(folder, "vasprun.xml")
    if data is None:
        return None
    run = parse_vasprun(data, "vasprun.xml")
    texts = [(read, _content(folder, name)) for name, read in _WITNESSES]
    others = [read(content.decode(errors="replace")) for read, content in texts if content is not None]
    return replace(run, witnesses=[*run.witnesses, *others])


def _content(folder: Path, name: str) -> bytes | None:
    paths = [folder / f"{name}{ending}" for ending in ("", *COMPRESSED)]
    return next((read_bounded(path) for path in paths if path.is_file()), None)
