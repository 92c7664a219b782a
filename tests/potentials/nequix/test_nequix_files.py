"""``.nqx`` files without JAX, against what nequix's JAX model gives for a file that it wrote itself.

``tiny.nqx`` was written by nequix 0.4.5 (random weights, Si and Ge); ``tiny.json`` holds energy (eV), forces (eV/Å),
stress (eV/Å³) and Hessian columns 0, 4, 11 and 23 (eV/Å²) of ``crystal()`` by its ``NequixCalculator``, float32.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.architecture import architecture
from phonosmith.potentials.registry import load, plain_bytes, resolve

MP1_ENERGY = -38.550186
"""Of ``crystal()`` with nequix-mp-1 by ``NequixCalculator`` (JAX), eV."""
TINY = Path(__file__).with_name("tiny.nqx")
pytestmark = pytest.mark.skipif(
    not architecture("nequix").installed(), reason="nequix is not installed (tools/install_architectures.sh)"
)


def crystal():
    atoms = bulk("Si", cubic=True)
    atoms.numbers[::2] = 32
    atoms.rattle(0.08, seed=8)
    return atoms


def test_energy_forces_stress_and_hessian_are_those_of_jax():
    """1e-5 as nequix computes in float32."""
    theirs = json.loads(TINY.with_suffix(".json").read_text())
    potential = load(str(TINY), dtype="float32")
    here = potential.evaluate([crystal()])[0]
    assert here.energy == pytest.approx(theirs["energy"], abs=1e-5 * 8)
    np.testing.assert_allclose(here.forces, theirs["forces"], atol=1e-5)
    np.testing.assert_allclose(here.stress, theirs["stress"], atol=1e-5)
    rows = potential.hessian_columns(crystal(), [0, 4, 11, 23])
    np.testing.assert_allclose(rows, theirs["columns"], atol=1e-5)


def test_arrays_are_written_as_they_were_read(tmp_path):
    """The header gains entries, the arrays keep every bit."""
    data = TINY.read_bytes()
    written = plain_bytes(resolve(str(TINY)))
    assert written == data, "the artefact is the file itself"
    path = tmp_path / "again.nqx"
    load(str(TINY), dtype="float32").save_plain(path)
    again = path.read_bytes()
    assert again.split(b"\n", 1)[1].strip() == data.split(b"\n", 1)[1].strip()
    assert json.loads(again.split(b"\n", 1)[0]).items() >= json.loads(data.split(b"\n", 1)[0]).items()


def test_molecule_without_a_cell_has_no_stress():
    atoms = molecule("Si2H6")
    atoms = atoms[[atom.index for atom in atoms if atom.symbol == "Si"]]
    here = load(str(TINY)).evaluate([atoms])[0]
    assert np.abs(here.forces).max() > 0
    assert not here.stress.any()


def test_slab_keeps_its_periodic_images():
    """A slab equals the periodic crystal with a vacuum wider than the range of two layers; 1e-9 in float64."""
    slab = crystal()
    slab.center(vacuum=9.0, axis=2)
    everywhere = slab.copy()
    slab.pbc = (True, True, False)
    one, other = load(str(TINY)).evaluate([slab, everywhere])
    np.testing.assert_allclose(one.forces, other.forces, atol=1e-9)
    assert not one.stress.any()
    assert other.stress.any()


def test_damaged_file(tmp_path):
    data = TINY.read_bytes()
    cut = tmp_path / "cut.nqx"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(PotentialError, match="not a readable Nequix model"):
        resolve(str(cut))
    cut.write_bytes(data.rstrip() + data[-1000:])
    with pytest.raises(PotentialError, match="more arrays"):
        resolve(str(cut))
    header = json.loads(data[: data.find(b"\n")])
    del header["lmax"]
    cut.write_bytes(json.dumps(header).encode() + data[data.find(b"\n") :])
    with pytest.raises(PotentialError, match="lmax"):
        resolve(str(cut))


def test_identity_is_that_of_the_file():
    ref = resolve(str(TINY))
    assert (ref.architecture, ref.elements, ref.cutoff) == ("nequix", ["Si", "Ge"], 4.0)
    assert resolve(ref.sha256[:10]).sha256 == ref.sha256


def test_a_published_name_without_network_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(PotentialError, match="cannot be downloaded") as error:
        resolve("nequix-mp-1")
    assert str(tmp_path) in error.value.advice
    assert "https://github.com/atomicarchitects" in error.value.advice


@pytest.mark.slow
def test_published_model_by_name(shared, tmp_path, monkeypatch):
    """A copy in nequix's cache is found by name; energy by nequix's JAX model, float32."""
    path = shared / "models" / "nequix" / "nequix-mp-1.nqx"
    if not path.is_file():
        pytest.skip("no published Nequix weights present")
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = tmp_path / ".cache" / "nequix" / "models"
    cache.mkdir(parents=True)
    (cache / path.name).symlink_to(path)
    here = load(resolve("nequix-mp-1"), dtype="float32").evaluate([crystal()])[0]
    assert here.energy == pytest.approx(MP1_ENERGY, abs=1e-4)


def test_phonons_from_the_command_line(tmp_path):
    """``phonosmith phonons`` takes a .nqx file like any other potential."""
    from typer.testing import CliRunner

    from phonosmith.cli.main import app

    path = tmp_path / "si.vasp"
    bulk("Si").write(path)
    arguments = ["phonons", str(path), "--potential", str(TINY), "--supercell", "2 2 2", "--no-relax", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["formula"] == "Si"
    assert told["potential"]["architecture"] == "nequix"
