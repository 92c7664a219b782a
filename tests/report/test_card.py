import json

import pytest
from typer.testing import CliRunner

from helpers.synthetic import store_reports, synthetic_reports
from phonosmith.cli.main import app
from phonosmith.core.errors import InputError
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.potentials.registry import resolve
from phonosmith.report.card import Evidence, find_evidence, model_card, read_training


def test_what_is_not_known_is_said():
    card = model_card(resolve("embedded"), Evidence())
    assert card.startswith("# embedded\n")
    assert "Not judged" in card
    assert "no training document" in card
    assert resolve("embedded").sha256 in card
    assert "It knows no magnetic moments" in card


def test_the_verdict_comes_from_the_store(tmp_path):
    (report,) = synthetic_reports(1)
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    store_reports(store, [report])
    judged = report.strategies[-1]
    evidence = find_evidence(store, judged.potential)
    card = model_card(judged.potential, evidence)
    assert (
        f"phonon MAE {judged.phonons.mae_thz:.3f} THz, foundation {report.foundation.phonons.mae_thz:.3f} THz" in card
    )
    assert ("**not fit**" in card) == (not judged.verdict.fit)
    for reason in judged.verdict.reasons:
        assert reason in card
    assert f"{report.labels.train.n_frames} training and {report.labels.valid.n_frames} validation labels" in card
    # a reference that is no DFT is called so
    pretended = report.model_copy(update={"reference": "embedded-reference"})
    assert "not DFT" in model_card(judged.potential, Evidence(material=pretended))
    real = report.model_copy(update={"reference": "vasp PBE", "rehearsal": False})
    assert "not DFT" not in model_card(judged.potential, Evidence(material=real))
    assert "stand-in" in model_card(judged.potential, Evidence(material=real.model_copy(update={"rehearsal": True})))


def test_bad_files(tmp_path):
    file = tmp_path / "training.json"
    file.write_text('{"name": 3}')
    with pytest.raises(InputError, match="no training document"):
        read_training(file)
    done = CliRunner().invoke(app, ["models", "card", "embedded", "--training", str(file), "--json"])
    assert done.exit_code == 2
    assert "training.json" in json.loads(done.stdout)["error"]


def test_the_command_writes_a_file(tmp_path):
    out = tmp_path / "card.md"
    done = CliRunner().invoke(app, ["models", "card", "embedded", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["card"] == out.read_text()
    assert found["judged"] is False
