"""Import mace so that it neither prints on standard output nor warns about its own files."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings

from phonosmith.potentials.e3nn_eager import import_e3nn


def import_mace() -> None:
    """Import mace quietly, e3nn's TorchScript off; call it before any other import of them.

    mace prints a line about an absent accelerator when imported, which would spoil ``--json``.
    """
    import_e3nn()
    if "mace.modules" in sys.modules:
        return
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mace.modules
        import mace.tools.scripts_utils  # noqa: F401
