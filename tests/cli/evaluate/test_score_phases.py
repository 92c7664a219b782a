"""The score-phases command: keys, numbers, exit codes."""

import json

import pytest
from typer.testing import CliRunner

from phonosmith.cli.main import app

runner = CliRunner()
REFERENCE = """
GeTe: {initial: [Fm-3m, 2], final: [[R3m, 2], [Pmmn, 4], [P4/nmm, 4], [Fm-3m, 2]]}
B: {initial: [P1, 1], final: []}
"""
CANDIDATE = "GeTe: {initial: [Fm-3m, 2], final: [[R3m, 2], [Pmmn, 4]]}\nC: {initial: [P1, 1], final: []}\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "dft.yaml").write_text(REFERENCE)
    (tmp_path / "ml.yaml").write_text(CANDIDATE)
    return [str(tmp_path / name) for name in ("dft.yaml", "ml.yaml")]


def test_json(files):
    done = runner.invoke(app, ["score-phases", *files, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["precision"], found["recall"]) == (1.0, pytest.approx(2 / 3))
    assert found["f1"] == pytest.approx(0.8)
    assert found["per_material"]["GeTe"]["false_negatives"] == ["P4/nmm 4"]
    assert (found["only_in_reference"], found["only_in_candidate"]) == (["B"], ["C"])
    assert "Only in the reference, not scored: B" in done.stderr


def test_table(files):
    done = runner.invoke(app, ["score-phases", *files])
    assert done.exit_code == 0
    assert "precision 1.00 (mean of 1), recall 0.67 (mean of 1), F1 0.80" in done.stdout


def test_bad_input_is_exit_code_2(files, tmp_path):
    (tmp_path / "ml.yaml").write_text("GeTe: {initial: [Fm-3m, 2]}")
    done = runner.invoke(app, ["score-phases", *files, "--json"])
    assert done.exit_code == 2
    assert "ml.yaml: GeTe.final: Field required" in json.loads(done.stdout)["error"]
    (tmp_path / "ml.yaml").write_text("Other: {initial: [Fm-3m, 2], final: []}")
    assert runner.invoke(app, ["score-phases", *files]).exit_code == 2
