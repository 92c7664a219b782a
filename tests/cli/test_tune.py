import json
import re

import pytest
import typer
from typer.testing import CliRunner

from phonosmith.cli.main import app


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_a_dry_run_says_what_it_costs_and_starts_nothing(tmp_path):
    options = ["--foundation", "embedded", "--reference", "embedded-reference", "--out", tmp_path / "si"]
    result = invoke("tune", "embedded:Si", *options, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["cost"]["n_labels"] == 14
    assert found["jobs"] >= 8
    assert not (tmp_path / "si").exists()


def test_without_vasp_the_command_ends_with_what_to_submit(tmp_path):
    options = ["--foundation", "embedded", "--reference", "vasp", "--out", tmp_path / "si", "--json"]
    result = invoke("tune", "embedded:Si", *options)
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert "VASP command" in answer["error"]
    assert str(tmp_path / "si" / "campaign.yaml") in answer["advice"]
    assert (tmp_path / "si" / "campaign.yaml").is_file()


def examples():
    """Return every command with the example in its help."""

    def walk(command, path):
        if not hasattr(command, "commands"):
            yield path, " ".join((command.help or "").split())
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*path, name])

    return {" ".join(path): text for path, text in walk(typer.main.get_command(app), [])}


def test_every_command_has_an_example_of_itself():
    for name, text in examples().items():
        assert re.search(rf"Example: phonosmith.*\b{name}\b", text), name


@pytest.mark.parametrize("name", ["config", "models list", "models show"])
def test_cheap_examples_run_as_they_are_printed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = re.search(r"Example: phonosmith (.*)", examples()[name])[1].split()
    result = invoke(*words)
    assert result.exit_code == 0, result.output
