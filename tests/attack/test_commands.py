"""Commands given what cannot be meant: exit code 2 with one JSON object that says what and how to go on, never more."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.harmonic.files import phonopy_yaml


def refused(*arguments: object) -> str:
    """Run a command that must be refused and return message and advice."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 2, (result.output, result.exception)
    answer = json.loads(result.stdout)
    assert answer["advice"]
    return f"{answer['error']} {answer['advice']}"


@pytest.fixture(scope="module")
def silicon():
    """Return phonopy's object of silicon with forces of an empirical potential."""
    from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
    from phonosmith.potentials.embedded import read_crystal
    from phonosmith.potentials.registry import load

    return harmonic_from_potential(
        read_crystal("embedded:Si"), load("embedded-reference"), np.diag([2, 2, 2]).tolist()
    ).phonon


def written(folder: Path, phonon, *, stretch=(1.0, 1.0, 1.0), factor=1.0, mass=None) -> Path:
    """Write a phonopy.yaml of the crystal stretched along Cartesian axes, with scaled forces and other masses."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = phonon.unitcell
    masses = cell.masses if mass is None else [mass] * len(cell)
    moved = PhonopyAtoms(
        cell.symbols, cell=cell.cell * np.array(stretch), scaled_positions=cell.scaled_positions, masses=masses
    )
    changed = Phonopy(moved, phonon.supercell_matrix, primitive_matrix=phonon.primitive_matrix)
    changed.dataset = phonon.dataset
    changed.forces = factor * phonon.forces
    path = folder / "phonopy.yaml"
    folder.mkdir(exist_ok=True)
    path.write_text(phonopy_yaml(changed))
    return path


def test_force_constants_of_no_crystal_make_no_training_set_and_no_verdict(silicon, tmp_path):
    good = written(tmp_path / "good", silicon)
    zero = written(tmp_path / "zero", silicon, factor=0.0)
    negative = written(tmp_path / "negative", silicon, factor=-1.0)
    out = tmp_path / "out"
    assert "all force constants are zero" in refused("compare", good, zero)
    assert "all force constants are zero" in refused("compare", zero, good)
    assert "all force constants are zero" in refused("from-phonons", zero, "--out", out)
    words = refused("from-phonons", negative, "--out", out, "--min-length", 5)
    assert "these are no force constants of a crystal" in words
    assert "sign of the forces" in words
    assert not out.exists()


def test_a_few_soft_modes_are_said_and_labelled(silicon, tmp_path):
    from phonosmith.harmonic.curvature import hessian_matrix
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.harmonic.oracle import in_supercell, stability_notes

    model = load_harmonic(written(tmp_path, silicon))
    phonon = in_supercell(model, np.diag([2, 2, 2]).tolist())
    assert stability_notes(phonon, "here") == ()
    energies, modes = np.linalg.eigh(hessian_matrix(np.asarray(phonon.force_constants)))
    # one mode turned over: the number in the note is known
    hessian = hessian_matrix(np.asarray(phonon.force_constants)) - (energies[-1] + 1.0) * np.outer(*[modes[:, -1]] * 2)
    n = len(phonon.supercell)
    phonon.force_constants = hessian.reshape(n, 3, n, 3).swapaxes(1, 2)
    (note,) = stability_notes(phonon, "here")
    assert f"1 of {3 * n} modes" in note


def test_compare_says_what_makes_two_calculations_different(silicon, tmp_path):
    good = written(tmp_path / "good", silicon)
    assert "Masses differ: Si has 28.085" in refused("compare", good, written(tmp_path / "heavy", silicon, mass=30.0))
    for name, stretch, expected in (
        ("large", (1.1187, 1.1187, 1.1187), "the candidate's volume is 40.0% larger, lattice vector"),
        ("long", (1.0, 1.0, 1.12), "longer"),
        ("same", (1.003, 1.0, 1.0), None),
    ):
        other = written(tmp_path / name, silicon, stretch=stretch)
        result = CliRunner().invoke(app, ["compare", str(good), str(other), "--mesh", "4", "--json"])
        assert result.exit_code == 0, result.output
        notes = [note for note in json.loads(result.stdout)["notes"] if "another state of the crystal" in note]
        assert (expected is None and not notes) or expected in notes[0]


@pytest.mark.parametrize(
    "options",
    [
        ("--mesh", 0),
        ("--mesh", 100_000_000),
        ("--temperature", -1),
        ("--temperature", "nan"),
        ("--force-constants", "guess"),
    ],
)
def test_compare_refuses_numbers_that_cannot_be(silicon, tmp_path, options):
    good = written(tmp_path, silicon)
    refused("compare", good, good, *options)


@pytest.mark.parametrize(
    "options",
    [
        ("--displacement", "nan"),
        ("--displacement", -0.01),
        ("--displacement", 1e9),
        ("--seed", -1),
        ("--train", 100_000_000),
        ("--min-length", 1e6),
        ("--min-length", "inf"),
        ("--shapes", "round"),
    ],
)
def test_from_phonons_refuses_numbers_that_cannot_be(silicon, tmp_path, options):
    refused("from-phonons", written(tmp_path, silicon), "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


POSCAR = "x\n1.0\n{a} 0 0\n0 {a} 0\n0 0 {a}\n{symbols}\n1 1\nDirect\n0 0 0\n{x} 0.5 0.5\n"


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"x": "nan"}, (), "site 2 (Cl)"),
        ({"a": "1e6"}, (), "no crystal"),
        ({"symbols": "Og Cl"}, (), "electrons of Og"),
        ({}, ("--min-length", 1e6), "too many to choose from"),
        ({}, ("--min-length", "inf"), ""),
        ({}, ("--kspacing", "nan"), ""),
        ({}, ("--max-atoms", -5), ""),
        ({}, ("--n-frames", 0), ""),
    ],
)
def test_plan_refuses_what_cannot_be_planned(tmp_path, change, options, words):
    path = tmp_path / "POSCAR"
    path.write_text(POSCAR.format(**{"a": 5, "symbols": "Na Cl", "x": 0.5} | change))
    assert words in refused("plan", path, *options)


def test_supercells_are_of_the_cell_in_the_file_and_of_a_size_that_can_be(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text(POSCAR.format(a=5.4, symbols="Si Si", x=0.5))
    ask = ("phonons", path, "--potential", "embedded-reference", "--no-relax", "--out", tmp_path / "out")
    assert "atoms is more than" in refused(*ask, "--supercell", "1000x1000x1000")
    for wrong in ("2x2", "2,5x2x2", "0x1x1", "two"):
        assert "is no supercell" in refused(*ask, "--supercell", wrong)
