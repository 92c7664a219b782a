"""What every tutorial needs: a folder to work in, the command line called from Python, pictures of files."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def new_folder() -> Path:
    """Return an empty folder for a tutorial, with the models it keeps in it unless PHONOSMITH_HOME says where."""
    folder = Path(tempfile.mkdtemp(prefix="phonosmith-"))
    os.environ.setdefault("PHONOSMITH_HOME", str(folder / "home"))
    return folder


def phonosmith(line: str, *, answer: bool = False) -> Any:
    """Run a command as in a terminal: print what it says or, with ``answer``, return the object of its ``--json``."""
    # plain text: notebooks ask for the colours of a terminal
    outside = {
        key: value
        for key, value in os.environ.items()
        if key not in ("FORCE_COLOR", "CLICOLOR_FORCE")
    }
    command = [
        sys.executable,
        "-m",
        "phonosmith.cli.main",
        *shlex.split(line),
        *(["--json"] if answer else []),
    ]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=outside | {"COLUMNS": "100"},
    )
    if answer:
        return json.loads(done.stdout)
    print(done.stdout.rstrip())
    return None


def picture(path: Path) -> Any:
    """Return the picture of a file for a notebook to show, its path where this is no notebook."""
    try:
        from IPython.display import Image
    except ImportError:
        return path
    return Image(filename=str(path))
