import json

import pytest
from typer.testing import CliRunner

from helpers.synthetic import store_reports, synthetic_reports
from phonosmith.cli.main import app
from phonosmith.engines.store.sqlite import open_embedded_jobstore


def run(*arguments):
    result = CliRunner().invoke(app, ["report", *map(str, arguments), "--json"])
    return result, json.loads(result.stdout)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "store.sqlite"


def test_an_empty_store_gives_a_page_that_says_so(tmp_path, database):
    open_embedded_jobstore(database)
    result, found = run("--store", database, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert found["n_reports"] == 0
    assert "There is no finished material yet." in (tmp_path / "page.html").read_text()


def test_a_half_finished_campaign_names_what_is_missing(tmp_path, database):
    from jobflow import Job

    store = open_embedded_jobstore(database)
    first, second = synthetic_reports(2, strategies=("delta",), elastic=False, campaign="autumn")
    damaged = second.model_copy(update={"material": "Damaged", "key": ""})
    store_reports(store, [first, damaged])
    store.docs_store.update(
        [
            {**document, "output": {**document["output"], "labels": None}}
            for document in store.docs_store.query({"output.material": "Damaged"})
        ]
    )
    for name in (f"sample {first.material.lower()} large", "sample late large", "train late delta"):
        Job(dict, name=name).run(store=store)
    result, found = run("--store", database, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert found["n_reports"] == 1
    assert list(found["unfinished"]) == ["late"]
    assert "train 1 done" in found["unfinished"]["late"]
    assert any("Damaged cannot be read" in problem and "labels" in problem for problem in found["problems"])
    page = (tmp_path / "page.html").read_text()
    assert "Materials without a report yet" in page
    assert "The report of Damaged cannot be read" in page

    _, other = run("--store", database, "--campaign", "winter", "--out", tmp_path / "none.html")
    assert other["n_reports"] == 0


def test_the_newest_report_of_a_material_counts(tmp_path, database):
    store = open_embedded_jobstore(database)
    (old,) = synthetic_reports(1, strategies=("delta",), elastic=False)
    new = old.model_copy(update={"notes": ["the second run"]})
    store_reports(store, [old])
    store_reports(store, [new])
    _, found = run("--store", database, "--out", tmp_path / "page.html")
    assert found["n_reports"] == 1
    assert "the second run" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_figures_and_files_of_a_store_with_its_artefacts(tmp_path, monkeypatch, database):
    from phonosmith.settings import get_settings

    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(tmp_path / "artefacts"))
    get_settings.cache_clear()
    store_reports(open_embedded_jobstore(database), synthetic_reports(1, strategies=("delta",), force_constants=True))
    monkeypatch.delenv("PHONOSMITH_ARTEFACTS")
    get_settings.cache_clear()
    # the artefacts beside the job store are found without being named
    result, found = run("--store", database, "--out", tmp_path / "page.html", "--files")
    assert result.exit_code == 0, result.output
    (folder,) = [path for path in (tmp_path / "files").iterdir() if path.name != "figures"]
    names = {path.name for path in folder.iterdir()}
    assert {"phonopy-reference.yaml", "phonopy-delta.yaml", "phonopy-foundation.yaml", "report.json"} <= names
    from phonosmith.harmonic.files import read_phonopy

    phonon = read_phonopy(folder / "phonopy-reference.yaml")
    assert phonon.force_constants is not None
    for suffix in ("svg", "png"):
        assert (folder / "figures" / f"bands.{suffix}").stat().st_size > 10_000
    # model and labels of a synthetic report were never made: said on the page and here
    assert sum("could not be exported" in problem for problem in found["problems"]) == 3
    assert found["n_files"] == len(names - {"figures"})


def test_what_cannot_be_read_or_written_is_said(tmp_path, database):
    result, found = run("--store", tmp_path / "nowhere.sqlite")
    assert result.exit_code == 2
    assert "--jobflow" in found["advice"]
    open_embedded_jobstore(database)
    result, found = run("--store", database, "--jobflow")
    assert result.exit_code == 2
    result, found = run("--store", database, "--out", tmp_path / "page.txt")
    assert result.exit_code == 2
    assert "HTML" in found["error"]
    result, found = run("--store", database, "--artefacts", tmp_path / "nowhere", "--out", tmp_path / "a.html")
    assert result.exit_code == 2
    assert "--artefacts" in found["advice"]
