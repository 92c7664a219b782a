import json

import pytest
from ase.io import write
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.potentials.embedded import demo_structure


@pytest.fixture
def silicon(tmp_path):
    atoms = demo_structure("Si")
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
    write(tmp_path / "Si.cif", atoms)
    return str(tmp_path / "Si.cif")


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_eos_and_elastic_agree_and_are_written(silicon, tmp_path):
    eos = run("eos", silicon, "--potential", "embedded-reference", "--json", "--out", str(tmp_path / "out"))
    assert eos.exit_code == 0, eos.output
    elastic = run("elastic", silicon, "--potential", "embedded-reference", "--json", "--out", str(tmp_path / "out"))
    assert elastic.exit_code == 0, elastic.output
    found, tensor = json.loads(eos.stdout), json.loads(elastic.stdout)
    assert found["fit"]["bulk_modulus"] == pytest.approx(tensor["fit"]["moduli"]["bulk_vrh"], rel=0.01)
    # the 1 % stretched input was relaxed first: the scan is centred on the minimum
    assert found["fit"]["volume"] == pytest.approx(found["volumes"][5], rel=1e-3)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"eos.json", "elastic.json"}
    assert tensor["slack"]["kappa"] > 0


def test_words_without_json(silicon):
    text = run("eos", silicon, "--potential", "embedded-reference").output
    assert "B0 = " in text
    assert "Å³" in text


def test_an_element_the_potential_does_not_know(tmp_path):
    from ase.build import bulk

    write(tmp_path / "Au.cif", bulk("Au"))
    result = run("elastic", str(tmp_path / "Au.cif"), "--potential", "embedded-reference", "--json")
    assert result.exit_code == 2
    assert "Au" in json.loads(result.stdout)["error"]


def test_a_figure_of_two_methods(silicon, tmp_path):
    for name, *more in (
        ("embedded-reference", "--out", str(tmp_path / "reference")),
        ("embedded", "--figure", str(tmp_path / "eos.svg"), "--against", str(tmp_path / "reference" / "eos.json")),
    ):
        result = run("eos", silicon, "--potential", name, *more)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "eos.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--figure", "eos.txt"], "no image format"),
        (["--against", "x.json"], "--against is for the figure"),
        (["--figure", "eos.png", "--against", "no-such.json"], "no-such.json does not exist"),
    ],
)
def test_options_of_the_figure_are_checked_before_anything_runs(silicon, options, message):
    result = run("eos", silicon, "--potential", "embedded-reference", "--json", *options)
    assert result.exit_code == 2
    assert message in json.loads(result.stdout)["error"]


def test_a_tensor_that_cannot_be_trusted_is_refused_but_kept(silicon, tmp_path, monkeypatch):
    from phonosmith.evaluation.mechanics import elastic

    monkeypatch.setattr(elastic, "fit_residual", lambda *_: 0.05)
    result = run("elastic", silicon, "--potential", "embedded-reference", "--json", "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "cannot be trusted" in json.loads(result.stdout)["error"]
    assert not json.loads((tmp_path / "out" / "elastic.json").read_text())["fit"]["reliable"]
