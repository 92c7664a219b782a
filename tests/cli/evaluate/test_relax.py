"""``phonosmith relax``: the same minimum from a potential, an engine and the stand-in for VASP, and clear refusals."""

import json

import pytest
from ase.io import write
from pymatgen.core import Structure
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.potentials.embedded import demo_structure


@pytest.fixture
def stretched(tmp_path):
    atoms = demo_structure("Si")
    atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
    write(tmp_path / "Si.cif", atoms)
    return tmp_path / "Si.cif"


def run(*arguments):
    return CliRunner().invoke(app, ["relax", *map(str, arguments)])


def test_potential_and_engine_end_in_one_minimum(stretched, tmp_path):
    """0.01 and 0.5 meV/Å: lengths agree to 1e-4; the command's file holds what it says."""
    plain = run(stretched, "--potential", "embedded-reference", "--out", tmp_path / "a.cif", "--json")
    assert plain.exit_code == 0, plain.output
    engine = ("--engine", "forcefield", "--potential", "embedded-reference")
    protocol = run(stretched, *engine, "--out", tmp_path / "b.vasp", "--json")
    assert protocol.exit_code == 0, protocol.output
    one, other = json.loads(plain.stdout), json.loads(protocol.stdout)
    assert (one["formula"], one["n_atoms"], one["space_group"]) == ("Si", 2, "Fd-3m")
    assert one["volume_before_angstrom3"] / one["volume_angstrom3"] > 1.02
    assert other["volume_angstrom3"] == pytest.approx(one["volume_angstrom3"], rel=3e-4)
    assert one["max_force_ev_per_angstrom"] < 1e-5
    assert other["max_force_ev_per_angstrom"] < 5e-4
    assert (one["engine"], other["engine"]) == (None, "forcefield")
    for found in (one, other):
        assert Structure.from_file(found["out"]).volume == pytest.approx(found["volume_angstrom3"], rel=1e-6)


@pytest.mark.slow
def test_vasp_relaxes_twice(stretched, tmp_path):
    """Rehearsed with the stand-in: the second relaxation has the plane waves of the first one's cell."""
    options = ("--engine", "vasp", "--rehearsal", "--potential", "embedded-reference", "--workdir", tmp_path / "work")
    answer = run(stretched, *options, "--out", tmp_path / "POSCAR_relaxed", "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"relax_1", "relax_2"}
    assert found["rehearsal"]
    plain = json.loads(
        run(stretched, "--potential", "embedded-reference", "--out", tmp_path / "a.cif", "--json").stdout
    )
    assert found["volume_angstrom3"] == pytest.approx(plain["volume_angstrom3"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.cif"], "Nobody is named"),
        (["--out", "x.docx", "--potential", "embedded"], "names no kind of file"),
        (["--out", "x.cif", "--engine", "forcefield"], "needs a potential"),
        (["--out", "x.cif", "--engine", "siesta"], "no engine"),
    ],
)
def test_what_cannot_be_is_said_first(stretched, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = run(stretched, *arguments)
    assert answer.exit_code != 0
    assert words in " ".join(answer.output.split())
    assert not (tmp_path / "x.cif").exists()


def test_a_relaxation_that_is_refused_writes_nothing(stretched, tmp_path):
    """Atoms of silicon feel no force whatever the volume: the stress that is left tells."""
    (tmp_path / "short.yaml").write_text("relax_steps: 1\nrelax_fmax: 0.5\n")
    answer = run(
        stretched, "--engine", "forcefield", "--potential", "embedded-reference", "--out", tmp_path / "x.cif",
        "--protocol", tmp_path / "short.yaml", "--json",
    )  # fmt: skip
    assert answer.exit_code != 0
    assert "refused" in json.loads(answer.stdout)["error"]
    assert not (tmp_path / "x.cif").exists()
