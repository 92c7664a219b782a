"""Import mace so that it neither prints on standard output nor warns about its own files."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings


def import_mace() -> None:
    """Import mace and e3nn quietly, in the order they need; call it before any other import of them.

    mace prints a line about an absent accelerator when imported, which would spoil ``--json``; e3nn on its own cannot
    read its constants under torch 2.6 and newer unless mace was imported first.
    """
    if "mace.modules" in sys.modules:
        return
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mace.modules
        import mace.tools.scripts_utils  # noqa: F401
