"""A pytest fixture: a VASP that is none."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS
from phonosmith.reference.vasp.rehearsal import STANDIN_MODULE, potcar_library, write_invented_potcars


@pytest.fixture
def vasp_standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Set up invented POTCARs and yield a function that returns ``run_vasp_kwargs`` for any atomate2 VASP Maker.

    Keyword arguments of the function become the stand-in's settings, e.g. ``calculator="emt"``, ``fault="scf"``.
    """
    root = write_invented_potcars(tmp_path / "potcars", PBE_54_SYMBOLS)
    command = shlex.join([sys.executable, "-m", STANDIN_MODULE])

    def kwargs(**settings: Any) -> dict[str, Any]:
        for key, value in settings.items():
            monkeypatch.setenv(f"PHONOSMITH_STANDIN_{key.upper()}", str(value))
        return {
            "vasp_cmd": command,
            "vasp_gamma_cmd": command,
            "custodian_kwargs": {"polling_time_step": 0.05, "monitor_freq": 2},
        }

    with potcar_library(root):
        yield kwargs
