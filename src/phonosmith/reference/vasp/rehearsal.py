"""Rehearsal: the very campaign about to be submitted, with the VASP stand-in and invented POTCARs instead of VASP.

It finds configuration errors before core-hours are burnt. Everything it makes is marked and refused as training data.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ase.data import atomic_masses, atomic_numbers
from pydantic import Field

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.document import Document
from phonosmith.reference.vasp.settings import INVENTED_MARK

STANDIN_FILE = "standin.json"
"""Name of the file that tells the stand-in what to do in one folder."""
STANDIN_MODULE = "phonosmith.testing.vasp_standin"


class Rehearsal(Document, frozen=True, extra="forbid"):
    """What the stand-in plays VASP with."""

    calculator: str = Field(
        "morse",
        description="emt, tersoff-si, morse (any element), or the dotted path of a callable giving an ASE calculator",
    )
    calculator_kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of a dotted path")
    fault: str = Field("", description="fault to inject, NAME[:STARTS][@MATCH]; see phonosmith-vasp-standin --help")
    gap: float = Field(1.0, ge=0, description="band gap it reports, eV; 0 is a metal")
    scf_steps: int = Field(8, gt=1, description="electronic steps it pretends")
    step_seconds: float = Field(0.0, ge=0, description="time slept per electronic step, s")

    def command(self) -> str:
        """Return the command that stands for VASP, run by this Python."""
        return shlex.join([sys.executable, "-m", STANDIN_MODULE])

    def write(self, folder: Path, label: str = "") -> None:
        """Tell the stand-in that starts in a folder what to do; ``label`` is what a fault's @MATCH looks at."""
        content = self.model_dump(mode="json") | {"label": label}
        write_atomic(folder / STANDIN_FILE, json.dumps(content, indent=1).encode())


def invented_valence(symbol: str) -> int:
    """Return a plausible number of valence electrons for a POTCAR symbol."""
    number = atomic_numbers[symbol.partition("_")[0]]
    # electrons in the closed shells below the valence, by noble gas
    valence = number - max(core for core in (0, 2, 10, 18, 36, 54, 86) if core < number)
    if valence > 16:
        valence -= 14
    if valence > 12:
        valence -= 10
    return valence + (6 if symbol.endswith(("_sv", "_pv")) else 0)


def invented_potcar(symbol: str) -> str:
    """Return a POTCAR that programs can parse and nobody could compute with: header fields only, no licensed data."""
    element = symbol.partition("_")[0]
    valence = invented_valence(symbol)
    title = f"PAW_PBE {symbol} {INVENTED_MARK}"
    return f"""  {title}
   {valence}.00000000000000
 parameters from PSCTR are:
   VRHFIN ={element}: invented
   LEXCH  = PE
   EATOM  =   100.0000 eV,    7.0000 Ry

   TITEL  = {title}
   LULTRA =        F    use ultrasoft PP ?
   IUNSCR =        1    unscreen: 0-lin 1-nonlin 2-no
   RPACOR =    1.500    partial core radius
   POMASS = {atomic_masses[atomic_numbers[element]]:8.3f}; ZVAL   = {valence:8.3f}    mass and valenz
   RCORE  =    1.900    outmost cutoff radius
   RWIGS  =    2.480; RWIGS  =    1.312    wigner-seitz radius (au A)
   ENMAX  =  300.000; ENMIN  =  200.000 eV
   LCOR   =        T    correct aug charges
   LPAW   =        T    paw PP
   EAUG   =  400.000
   RMAX   =    1.950    core radius for proj-oper
   RAUG   =    1.300    factor for augmentation sphere

END of PSCTR-controll parameters
 local part
  1.0000 2.0000 3.0000
 End of Dataset
"""


def write_invented_potcars(root: Path, symbols: Mapping[str, str], functional: str = "PBE_54") -> Path:
    """Write a POTCAR library with an invented data set for each symbol; return its root."""
    folder = root / f"POT_GGA_PAW_{functional}"
    folder.mkdir(parents=True, exist_ok=True)
    for symbol in sorted(set(symbols.values())):
        write_atomic(folder / f"POTCAR.{symbol}", invented_potcar(symbol).encode())
    return root


@contextmanager
def potcar_library(root: Path) -> Iterator[None]:
    """Let pymatgen read POTCARs from a folder for the length of a block."""
    from pymatgen.core import SETTINGS

    key = "PMG_VASP_PSP_DIR"
    before, variable = SETTINGS.get(key), os.environ.get(key)
    SETTINGS[key] = os.environ[key] = str(root)
    try:
        yield
    finally:
        for settings, value in ((SETTINGS, before), (os.environ, variable)):
            if value is None:
                settings.pop(key, None)
            else:
                settings[key] = value
