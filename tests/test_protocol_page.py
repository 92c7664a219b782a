"""docs/protocol.md says what the defaults are: it has to be true."""

import re
from pathlib import Path

import yaml

from phonosmith.evaluation.mechanics.eos import VOLUME_FACTORS
from phonosmith.flows.settings import MaterialSettings
from phonosmith.reference.protocol import ReferenceProtocol

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/protocol.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
][1:]


def test_every_module_named_exists():
    named = {name for row in ROWS for name in re.findall(r"`([\w/]+\.py)`", row[3])}
    assert named
    assert all((ROOT / "src/phonosmith" / name).is_file() for name in named)


def test_every_default_named_is_the_default():
    """Settings in bold (``ediff: 1e-8``) are looked up where they belong: protocol, campaign, sampling, modes."""
    settings, protocol = MaterialSettings(), ReferenceProtocol()
    fields = settings.model_dump() | protocol.model_dump()
    fields |= {f"sampling.{name}": value for name, value in settings.sampling.model_dump().items()}
    fields |= {f"follow.{name}": value for name, value in settings.follow.model_dump().items()}
    fields |= {f"follow.grid.{name}": value for name, value in settings.follow.grid.model_dump().items()}
    fields |= {"n_train": settings.sizes, "cells": [settings.sampling.cell]}
    # in a row that names the section once, the next setting belongs to it as well
    fields |= {
        "energy_fraction": settings.sampling.energy_fraction,
        "energy_tolerance": settings.sampling.energy_tolerance,
    }
    told = [
        item for row in ROWS for bold in re.findall(r"\*\*(.*?)\*\*", row[1]) for item in re.findall(r"`([^`]+)`", bold)
    ]
    checked = 0
    for name, value in (item.split(": ", 1) for item in told if ": " in item):
        known, wanted = fields[name], yaml.safe_load(re.sub(r"(\d)e-", r"\1.0e-", value))
        assert (list(known) if isinstance(known, tuple) else known) == wanted, name
        checked += 1
    assert checked > 20


def test_the_volumes_are_those_published():
    assert VOLUME_FACTORS == (0.95, 0.96, 0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.04, 1.05)
