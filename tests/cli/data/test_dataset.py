"""The commands import and audit: keys of the contract, exit codes, one JSON object, advice."""

import copy
import json
import tarfile

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.structures.extxyz import read_frames, write_frames
from phonosmith.structures.labels import label_frame

runner = CliRunner()


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    made = []
    for _ in range(20):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, 0.03, (4, 3))
        copy = atoms.copy()
        copy.calc = EMT()
        made.append(
            label_frame(
                atoms,
                energy=copy.get_potential_energy(),
                forces=copy.get_forces(),
                stress=copy.get_stress(),
                functional="PBE",
                settings="aaaaaaaaaaaa",
            )
        )
    return made


def invoke(*arguments):
    done = runner.invoke(app, [str(argument) for argument in arguments])
    return done, (json.loads(done.stdout) if "--json" in arguments else None)


def test_import_reports_every_source(tmp_path, frames):
    first = write_frames(tmp_path / "a.xyz", frames[:12])
    second = tmp_path / "b.tar.gz"
    write_frames(tmp_path / "inner.xyz", frames[12:])
    with tarfile.open(second, "w:gz") as tar:
        tar.add(tmp_path / "inner.xyz", "x/inner.xyz")
        link = tarfile.TarInfo("x/vasprun.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    done, found = invoke("import", first, second, "--out", tmp_path / "out.xyz", "--json")
    assert done.exit_code == 0, done.output
    assert {"n_frames", "n_refused", "sources", "dataset"} <= found.keys()
    assert (found["n_frames"], found["n_refused"]) == (20, 1)
    for source, count in zip(found["sources"], (12, 8), strict=True):
        assert {"kind", "n_frames", "n_refused", "refused", "functional"} <= source.keys()
        assert (source["kind"], source["n_frames"], source["functional"]) == ("extxyz", count, "PBE")
    assert found["sources"][1]["refused"][0]["reason"].startswith("a link to '/etc/passwd'")
    assert len(read_frames(tmp_path / "out.xyz", require=("energy", "forces", "stress"))) == 20


def test_import_without_any_frame_fails_and_writes_nothing(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    done, found = invoke("import", tmp_path / "x.json", "--out", tmp_path / "o.xyz", "--json")
    assert done.exit_code == 2
    assert found["n_frames"] == 0
    assert "no labelled configuration" in found["sources"][0]["refused"][0]["reason"]
    assert not (tmp_path / "o.xyz").exists()
    done, _ = invoke("import", tmp_path / "x.json", "--out", tmp_path / "o.xyz")
    assert done.exit_code == 2
    assert "Nothing was imported" in done.output
    (tmp_path / "empty").mkdir()
    _, found = invoke("import", tmp_path / "empty", "--out", tmp_path / "o.xyz", "--json")
    assert "nothing in it is vasprun.xml" in found["sources"][0]["notes"][0]


def test_a_missing_path_is_noticed_before_the_others_are_read(tmp_path, frames, monkeypatch):
    from phonosmith.reference.importers import collect

    def read(*arguments, **options):
        raise AssertionError("a source was read")

    monkeypatch.setattr(collect, "import_source", read)
    path = write_frames(tmp_path / "a.xyz", frames)
    done, found = invoke("import", path, tmp_path / "absent", "--out", tmp_path / "o.xyz", "--json")
    assert done.exit_code == 2
    assert "absent does not exist" in found["error"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["import", "absent", "--out", "o.xyz", "--json"], "absent does not exist"),
        (["import", "--out", "o.xyz", "--json"], "nothing to import"),
        (["import", ".", "--expect", "a=%", "--out", "o.xyz", "--json"], "not a chemical formula"),
        (["import", ".", "--out", ".", "--json"], "Cannot write .: it is a folder"),
        (["audit", "absent.xyz", "--json"], "absent.xyz does not exist"),
    ],
)
def test_bad_input_is_explained_on_both_channels(arguments, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done, found = invoke(*arguments)
    assert done.exit_code == 2
    assert word in found["error"]
    assert found["advice"]


def test_audit_verdicts(tmp_path, frames):
    path = write_frames(tmp_path / "good.xyz", frames)
    done, found = invoke("audit", path, "--json")
    assert (done.exit_code, found["verdict"], found["findings"]) == (0, "pass", [])
    path = write_frames(tmp_path / "twice.xyz", [*frames, frames[3]])
    kept = tmp_path / "kept.xyz"
    done, found = invoke("audit", path, "--out", kept, "--json")
    assert (done.exit_code, found["verdict"], found["excluded"]) == (0, "pass_with_exclusions", [20])
    assert found["findings"][0]["check"] == "duplicate"
    assert len(read_frames(kept)) == 20
    for index, atoms in enumerate(mixed := read_frames(path)[:20]):
        atoms.info["functional"] = "PBEsol" if index % 2 else "PBE"
    path = write_frames(tmp_path / "mixed.xyz", mixed)
    done, found = invoke("audit", path, "--json")
    assert (done.exit_code, found["verdict"]) == (0, "refuse")
    assert "PBEsol (10)" in found["reasons"][0]
    done, _ = invoke("audit", path)
    assert "refuse" in done.output
    assert "functional" in done.output


def test_every_frame_of_a_rehearsal_counts_as_refused(tmp_path, frames):
    played = copy.deepcopy(frames[:5])
    for atoms in played[:3]:
        atoms.info.update(rehearsal=True, source="si")
    write_frames(tmp_path / "played.xyz", played)
    _, found = invoke("import", tmp_path / "played.xyz", "--out", tmp_path / "o.xyz", "--json")
    assert (found["n_frames"], found["n_refused"]) == (2, 3)
    assert "rehearsal" in found["sources"][0]["refused"][0]["reason"]


def test_a_refused_set_is_not_written(tmp_path, frames):
    for index, atoms in enumerate(made := [a.copy() for a in frames]):
        atoms.calc = frames[index].calc
        atoms.info["functional"] = "PBEsol" if index % 2 else "PBE"
    path = write_frames(tmp_path / "mixed.xyz", made)
    done, found = invoke("audit", path, "--out", tmp_path / "kept.xyz", "--json")
    assert done.exit_code == 2
    assert found["verdict"] == "refuse"
    assert not (tmp_path / "kept.xyz").exists()
    done, found = invoke("audit", path, "--majority", "0.3", "--json")
    assert done.exit_code == 2
    assert "--majority" in found["error"]


def test_tables_name_what_happened(tmp_path, frames):
    path = write_frames(tmp_path / "a.xyz", frames)
    done, _ = invoke("import", path, "--out", tmp_path / "o.xyz")
    assert done.exit_code == 0
    assert "20 frames ->" in " ".join(done.output.split())
    done, _ = invoke("audit", path)
    assert "20 of 20 frames remain" in " ".join(done.output.split())


@pytest.mark.slow
def test_published_phonon_file_of_the_wrong_material(shared, tmp_path):
    path = shared / "data" / "vasp_pbe_phonons" / "dft" / "mp-2201.phonopy.yaml.xz"
    done, found = invoke("import", path, "--expect", "mp-2201=PbSe", "--out", tmp_path / "o.xyz", "--json")
    assert done.exit_code == 2
    assert "its composition GeSb is not the expected PbSe of mp-2201" in found["sources"][0]["refused"][0]["reason"]
    done, found = invoke(
        "import",
        path.with_name("mp-9935.phonopy.yaml.xz"),
        "--functional",
        "PBE",
        "--out",
        tmp_path / "o.xyz",
        "--json",
    )
    assert done.exit_code == 0
    assert found["sources"][0]["functional"] == "PBE"


def test_the_foundation_shows_forces_with_turned_axes(tmp_path):
    """Labels of the embedded reference against the embedded foundation: softness passes, exchanged axes do not."""
    from phonosmith.potentials.registry import load, resolve

    cells = []
    for seed in range(8):
        atoms = bulk("Si", cubic=True, a=5.45)
        atoms.rattle(0.06, seed=seed)
        cells.append(atoms)
    told = load(resolve("embedded-reference")).evaluate(cells, stress=True)
    provenance = {"functional": "PBE", "settings": "aaaaaaaaaaaa"}
    made = [
        label_frame(atoms, energy=one.energy, forces=one.forces, stress=one.stress, **provenance)
        for atoms, one in zip(cells, told, strict=True)
    ]
    path = write_frames(tmp_path / "sound.xyz", made)
    _, found = invoke("audit", path, "--foundation", "embedded", "--json")
    assert (found["verdict"], found["excluded"]) == ("pass", [])
    made[2] = label_frame(
        cells[2], energy=told[2].energy, forces=told[2].forces[:, [1, 0, 2]], stress=told[2].stress, **provenance
    )
    _, found = invoke("audit", write_frames(tmp_path / "turned.xyz", made), "--foundation", "embedded", "--json")
    assert (found["verdict"], found["excluded"]) == ("pass_with_exclusions", [2])
