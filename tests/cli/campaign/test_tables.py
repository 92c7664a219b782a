"""``phonosmith tables`` writes what the store holds, and explains what it cannot use."""

import io
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from helpers.synthetic import store_reports, synthetic_reports
from helpers.synthetic_targets import target
from phonosmith.cli.main import app
from phonosmith.engines.store.sqlite import open_embedded_jobstore

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def store_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "store.sqlite"
    store_reports(open_embedded_jobstore(path), synthetic_reports(5, ("transfer", "delta"), sizes=(5, 10)))
    return path


def test_json_and_files(store_file, tmp_path):
    out = tmp_path / "tables"
    answer = RUNNER.invoke(app, ["tables", "--store", str(store_file), "--out", str(out), "--json"])
    assert answer.exit_code == 0
    found = json.loads(answer.stdout)
    assert (found["n_materials"], found["n_potentials"]) == (5, 25)
    assert found["compared"] == {"foundation": "embedded", "training_set": "10", "cell": "large"}
    rows = {
        row["strategy"]: row for row in found["tables"]["table1_phonon_mae"]["rows"] if row["source"] == "this store"
    }
    assert [rows["delta"]["median"], rows["delta"]["iqr"]] == pytest.approx(target("phonon_mae_thz", "delta", 10))
    assert rows["delta"]["n"] == 5
    assert found["calibration"] is None
    assert {str(path) for path in out.iterdir()} == set(found["files"])
    data = pd.read_csv(out / "table1_phonon_mae.csv")
    assert data.query("strategy == 'delta' and source == 'this store'")["median"].iloc[0] == rows["delta"]["median"]
    assert "another data set" in (out / "tables.md").read_text()


def test_text_names_units_and_the_other_data_set(store_file):
    answer = RUNNER.invoke(app, ["tables", "--store", str(store_file)], env={"COLUMNS": "200"})
    assert answer.exit_code == 0
    assert "0.054 (0.036)" in answer.stdout
    assert "median (IQR), THz" in answer.stdout
    assert "published, arXiv:2604.01017 (53 other materials, another data set)" in answer.stdout
    plain = RUNNER.invoke(app, ["tables", "--store", str(store_file), "--no-published"], env={"COLUMNS": "200"})
    assert "published" not in plain.stdout


def test_one_table_as_csv(store_file):
    answer = RUNNER.invoke(app, ["tables", "--store", str(store_file), "--number", "1", "--format", "csv"])
    assert answer.exit_code == 0
    data = pd.read_csv(io.StringIO(answer.stdout))
    assert data.query("strategy == 'delta' and source == 'this store'")["median"].iloc[0] == pytest.approx(
        target("phonon_mae_thz", "delta", 10)[0]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--number", "6"], "nothing for table 6"), (["--format", "xlsx"], "Choose csv, md or tex")],
)
def test_tables_that_cannot_be_had_are_explained(store_file, arguments, words):
    answer = RUNNER.invoke(app, ["tables", "--store", str(store_file), *arguments])
    assert answer.exit_code == 2
    assert words in " ".join(answer.output.split())


def test_a_folder_stands_for_the_store_in_it(store_file):
    answer = RUNNER.invoke(app, ["tables", "--store", str(store_file.parent), "--n-train", "5", "--json"])
    assert json.loads(answer.stdout)["compared"]["training_set"] == "5"


def test_nothing_yet(tmp_path):
    path = tmp_path / "store.sqlite"
    open_embedded_jobstore(path)
    answer = RUNNER.invoke(app, ["tables", "--store", str(path), "--out", str(tmp_path / "out"), "--json"])
    assert answer.exit_code == 0
    found = json.loads(answer.stdout)
    assert found["tables"] == {}
    assert found["files"] == []
    assert found["notes"] == ["the store holds no report of a material yet"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--store", "nowhere.sqlite"], "There is no job store nowhere.sqlite"),
        (["--store", "text.sqlite"], "text.sqlite is no SQLite file"),
        (["--store", "text.sqlite", "--jobflow"], "name two stores"),
        (["--write-calibration"], "--write-calibration writes files"),
        (["--cell", "huge"], "No result has cell 'huge'"),
        (["--foundation", "MACE"], "No result has foundation 'MACE'"),
    ],
)
def test_bad_input_is_explained(store_file, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.sqlite").write_text("not a database, but long enough")
    named = [] if "--store" in arguments else ["--store", str(store_file)]
    answer = RUNNER.invoke(app, ["tables", *named, *arguments, "--json"])
    assert answer.exit_code == 2
    assert words in json.loads(answer.stdout)["error"]
    # reading makes no store
    assert not (tmp_path / "nowhere.sqlite").exists()


def test_a_memory_store_is_refused(tmp_path, monkeypatch):
    (tmp_path / "jobflow.yaml").write_text("{}")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    answer = RUNNER.invoke(app, ["tables", "--jobflow", "--json"])
    assert answer.exit_code == 2
    assert "in memory" in json.loads(answer.stdout)["error"]


def test_the_store_of_jobflow_is_read(store_file, tmp_path, monkeypatch):
    config = {"JOB_STORE": open_embedded_jobstore(store_file).as_dict()}
    (tmp_path / "jobflow.yaml").write_text(json.dumps(config))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    answer = RUNNER.invoke(app, ["tables", "--jobflow", "--json"])
    assert json.loads(answer.stdout)["n_materials"] == 5


def test_calibration_of_plan(tmp_path):
    reports = synthetic_reports(1, ("delta",))
    reports[0].rehearsal, reports[0].reference = False, "vasp PBE"
    path, out = tmp_path / "store.sqlite", tmp_path / "out"
    store_reports(open_embedded_jobstore(path), reports)
    answer = RUNNER.invoke(app, ["tables", "--store", str(path), "--out", str(out), "--write-calibration", "--json"])
    found = json.loads(answer.stdout)
    assert found["calibration"]["n_calculations"] == 1
    assert found["calibration"]["over_default"] > 0
    (entry,) = json.loads((out / "calibration" / "calibration.json").read_text())
    assert entry["core_hours"] == pytest.approx(270)
    assert (out / "calibration" / entry["structure"]).is_file()
