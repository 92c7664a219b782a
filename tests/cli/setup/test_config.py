"""``phonosmith config`` says what holds and where it comes from, and never overwrites a file."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.cli.setup.config import template
from phonosmith.settings import Settings, get_settings

RUNNER = CliRunner()


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "settings" / "phonosmith.yaml"
    monkeypatch.setenv("PHONOSMITH_CONFIG_FILE", str(path))
    return path


def settings():
    answer = RUNNER.invoke(app, ["config", "--json"])
    assert answer.exit_code == 0, answer.stdout
    return {row["name"]: row for row in json.loads(answer.stdout)["settings"]}


def test_every_setting_with_its_source(file, monkeypatch):
    file.parent.mkdir()
    file.write_text("batch_atoms: 99\nverdict_phonon_mae_thz: 0.2\n")
    monkeypatch.setenv("PHONOSMITH_DEVICE", "cpu")
    monkeypatch.setenv("phonosmith_verdict_phonon_mae_thz", "0.3")
    found = settings()
    assert set(found) == set(Settings.model_fields)
    assert (found["batch_atoms"]["value"], found["batch_atoms"]["source"]) == (99, "file")
    assert (found["device"]["value"], found["device"]["source"]) == ("cpu", "environment")
    # the environment wins over the file, in any case of letters
    limit = found["verdict_phonon_mae_thz"]
    assert (limit["value"], limit["source"]) == (0.3, "environment")
    assert (found["stability_threshold_thz"]["value"], found["stability_threshold_thz"]["source"]) == (0.05, "default")
    # folders are shown as they are used
    assert found["artefacts"]["value"] == str(Settings().artefacts_dir)
    assert found["artefacts"]["source"] == "default"
    assert all(row["description"] for row in found.values())


def test_the_template_changes_nothing_and_every_line_can_be_used(file):
    before = {name: row["value"] for name, row in settings().items()}
    answer = RUNNER.invoke(app, ["config", "--init", "--json"])
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["written"]
    assert file.read_text() == template()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert {name: row["value"] for name, row in settings().items()} == before
    names = list(Settings.model_fields)
    lines = [line for line in template().splitlines() if line.startswith(tuple(f"# {name}: " for name in names))]
    assert len(lines) == len(names)
    file.write_text("\n".join(line.removeprefix("# ") for line in lines if not line.startswith("# home")))
    assert yaml.safe_load(file.read_text())["batch_atoms"] == Settings.model_fields["batch_atoms"].default
    get_settings.cache_clear()
    assert {name: row["value"] for name, row in settings().items()} == before


def test_an_existing_file_stays(file):
    file.parent.mkdir()
    file.write_text("batch_atoms: 99\n")
    answer = RUNNER.invoke(app, ["config", "--init", "--json"])
    assert answer.exit_code == 2
    assert "is left as it is" in json.loads(answer.stdout)["error"]
    assert file.read_text() == "batch_atoms: 99\n"
    assert len(list(file.parent.iterdir())) == 1


def test_a_file_written_meanwhile_stays(file, monkeypatch):
    from phonosmith.cli.setup import config

    file.parent.mkdir()
    real = config.os.link

    def late(source, target):
        file.write_text("mine: 1\n")
        real(source, target)

    monkeypatch.setattr(config.os, "link", late)
    answer = RUNNER.invoke(app, ["config", "--init"])
    assert answer.exit_code == 2
    assert file.read_text() == "mine: 1\n"
    assert len(list(file.parent.iterdir())) == 1


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("PHONOSMITH_CONFIG_FILE", str(tmp_path / "plain" / "settings.yaml"))
    answer = RUNNER.invoke(app, ["config", "--init", "--json"])
    assert answer.exit_code == 2
    assert "Cannot" in json.loads(answer.stdout)["error"]


def test_an_invalid_setting_is_named(file, monkeypatch):
    monkeypatch.setenv("PHONOSMITH_BATCH_ATOMS", "-3")
    answer = RUNNER.invoke(app, ["config", "--json"])
    assert answer.exit_code == 2
    assert "PHONOSMITH_BATCH_ATOMS" in json.loads(answer.stdout)["error"]


def test_text(file):
    answer = RUNNER.invoke(app, ["config"], env={"COLUMNS": "160"})
    assert answer.exit_code == 0
    assert "verdict_phonon_mae_thz" in answer.stdout
    assert "'phonosmith config --init' writes it" in answer.stdout.replace("\n", " ")


def test_secrets_are_not_shown(monkeypatch):
    store = {"@module": "maggma.stores.mongolike", "@class": "MongoStore", "password": "hunter2", "host": "db"}
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS_STORE", json.dumps(store))
    for options in (["config"], ["config", "--json"]):
        result = CliRunner().invoke(app, options, env={"COLUMNS": "300"})
        assert result.exit_code == 0, result.output
        assert "hunter2" not in result.output
        assert "***" in result.output
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS_STORE", json.dumps([{"password": "hunter2"}]))
    result = CliRunner().invoke(app, ["config", "--json"])
    assert result.exit_code == 2
    assert "hunter2" not in result.output
