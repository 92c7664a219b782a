"""docs/protocol.md says what the defaults are: it has to be true."""

import re
from pathlib import Path

import yaml

from phonosmith.evaluation.mechanics.eos import VOLUME_FACTORS
from phonosmith.flows.settings import MaterialSettings
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.training.spec import make_spec

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")


def rows(text):
    """Return the cells of tables, whose heads and rules are left out."""
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


PAPER, CODE = (rows(part) for part in PAGE.split("Of phonon fine-tuning"))
ROWS = PAPER + CODE


def test_every_table_has_a_head():
    heads = [table.splitlines()[0] for table in re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.MULTILINE)]
    assert [head.split("|")[1].strip() for head in heads] == ["the paper says", "the code does"]


def settings_in(cell):
    return [item.split("=") for item in re.findall(r"`(\w+=\w+)`", cell)]


def test_settings_of_phonon_fine_tuning_are_those_of_its_strategies():
    pft, both = (make_spec(name).model_dump(mode="json") for name in ("pft", "delta+pft"))
    alone = make_spec("pft", replay="none", curvature_mode="alone", curvature_energy_weight=20.0).model_dump(
        mode="json"
    )
    checked = 0
    for theirs, ours, other, _ in CODE:
        known = alone if "Without co-training" in theirs else pft
        for spec, cell in ((known, ours), (both, other if "delta+pft" in other else "")):
            for name, value in settings_in(cell):
                assert str(spec[name]).removesuffix(".0") == value, name
                checked += 1
    assert checked == 7
    weights = [pft[f"{name}_weight"] for name in ("energy", "forces", "stress")]
    assert (weights, pft["huber_delta"]) == ([500, 200, 50], 0.1)
    assert (pft["lr"], pft["weight_decay"], pft["decay"], pft["clip_norm"], pft["ema"]) == (
        1e-4,
        1e-3,
        "linear",
        100,
        0.999,
    )


def test_settings_of_fine_tuning_are_those_of_the_paper():
    spec = make_spec("transfer")
    assert (spec.energy_weight, spec.forces_weight, spec.stress_weight, spec.huber_delta) == (10, 100, 1000, 0.01)
    assert (spec.lr, spec.weight_decay, spec.decay) == (0.01, 5e-3, "all")
    assert (make_spec("multihead").head_start, make_spec("multihead").replay_size) == ("fresh", 100)
    assert [make_spec(f"f{number}").freeze_stem for number in range(1, 6)] == [1, 2, 3, 4, 5]
    # every other choice named is one there is
    for name, value in (pair for _, _, other, _ in PAPER for pair in settings_in(other)):
        assert getattr(
            make_spec("multihead" if "head" in name or "replay" in name else "transfer", **{name: value}), name
        )


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
