"""The qha and kappa commands: keys, independent numbers, refusals before work."""

import json

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from phonosmith.cli.main import app

runner = CliRunner()


@pytest.fixture
def silicon(tmp_path):
    file = tmp_path / "Si.cif"
    Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.45), ["Si"], [[0, 0, 0]]).to(filename=str(file))
    return file


@pytest.mark.slow
def test_qha_is_phonopys_on_a_loop_over_volumes(silicon, tmp_path):
    command = ["qha", str(silicon), "--potential", "embedded-reference", "--supercell", "2 2 2", "--mesh", "8"]
    done = runner.invoke(app, [*command, "--temperature", "100,305", "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [point["temperature"] for point in found["temperatures"]] == [100, 305]
    assert set(found["temperatures"][0]) == {"temperature", "volume_angstrom3", "thermal_expansion_per_k"} | {
        "bulk_modulus_gpa", "heat_capacity_p", "gruneisen",
    }  # fmt: skip
    assert (tmp_path / "qha.json").is_file()

    # independent: phonopy's displacements, force constants, thermal properties and QHA, an ASE calculator in a loop
    from phonopy import Phonopy, PhonopyQHA
    from phonopy.structure.atoms import PhonopyAtoms

    from phonosmith.evaluation.relax import relax_atoms
    from phonosmith.harmonic.model import atoms_of
    from phonosmith.potentials.calculator import PotentialCalculator
    from phonosmith.potentials.registry import load, resolve

    potential = load(resolve("embedded-reference"))
    calculator = PotentialCalculator(resolve("embedded-reference"))
    relaxed = relax_atoms(Structure.from_file(silicon).to_ase_atoms(msonable=False), potential).atoms
    volumes, energies, free, heat, entropy = [], [], [], [], []
    for factor in (0.96, 0.98, 1.0, 1.02, 1.04, 1.06):
        cell = PhonopyAtoms(
            symbols=relaxed.get_chemical_symbols(),
            cell=relaxed.cell.array * factor ** (1 / 3),
            scaled_positions=relaxed.get_scaled_positions(),
        )
        phonon = Phonopy(cell, np.diag([2, 2, 2]), symprec=1e-4, log_level=0)
        phonon.generate_displacements(distance=0.01)
        forces = []
        for moved in phonon.supercells_with_displacements:
            frame = atoms_of(moved)
            frame.calc = calculator
            forces.append(frame.get_forces())
        phonon.forces = np.array(forces)
        phonon.produce_force_constants()
        phonon.symmetrize_force_constants()
        phonon.run_mesh([8, 8, 8])
        phonon.run_thermal_properties(t_step=10, t_max=340, t_min=0)
        thermal = phonon.thermal_properties
        still = atoms_of(phonon.primitive)
        still.calc = calculator
        volumes.append(phonon.primitive.volume)
        energies.append(still.get_potential_energy())
        free.append(thermal.free_energy)
        heat.append(thermal.heat_capacity)
        entropy.append(thermal.entropy)
    qha = PhonopyQHA(
        volumes=np.array(volumes),
        electronic_energies=np.array(energies),
        temperatures=np.arange(0, 341, 10.0),
        free_energy=np.transpose(free),
        cv=np.transpose(heat),
        entropy=np.transpose(entropy),
        eos="birch_murnaghan",
    )
    cold, warm = found["temperatures"]
    # symfc against symmetrised finite differences of the same forces: they differ in anharmonic terms of 0.01 Å
    assert cold["volume_angstrom3"] == pytest.approx(qha.volume_temperature[10], rel=1e-5)
    assert cold["heat_capacity_p"] == pytest.approx(qha.heat_capacity_P_polyfit[10], rel=2e-3)
    assert warm["bulk_modulus_gpa"] == pytest.approx(np.mean(qha.bulk_modulus_temperature[30:32]), rel=2e-3)
    expansion = np.array(qha.thermal_expansion)
    assert warm["thermal_expansion_per_k"] == pytest.approx(expansion[30:32].mean(), abs=0.02 * np.abs(expansion).max())


@pytest.mark.slow
def test_kappa_against_a_reference(silicon, tmp_path):
    pytest.importorskip("phono3py")
    from phonosmith.evaluation.thermal.kappa import read_phono3py, third_order_phonon
    from phonosmith.potentials.registry import load, resolve

    atoms = Structure.from_file(silicon).to_ase_atoms(msonable=False)
    reference = third_order_phonon(atoms, load(resolve("embedded-reference")), np.diag([1, 1, 1]))
    file = tmp_path / "phono3py_params.yaml"
    reference.save(file, settings={"force_sets": True})
    assert np.allclose(read_phono3py(file).fc3, reference.fc3, atol=1e-6)

    def run(*options):
        done = runner.invoke(app, ["kappa", str(silicon), "--mesh", "5", *options, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    same = run("--potential", "embedded-reference", "--against", str(file), "--no-relax")
    # force constants agree to 1e-13; rounding of the written cell lets the tetrahedron method split its boxes along
    # another of four equal diagonals, which on this coarse mesh moves single modes by some per cent
    assert same["srme"] == pytest.approx(0, abs=0.02)
    assert same["kappa_w_per_m_k"] == pytest.approx(same["reference_kappa_w_per_m_k"], rel=5e-3)
    soft = run("--potential", "embedded", "--against", str(file), "--temperature", "500")
    assert 0.01 < soft["srme"] <= 2
    assert soft["srme"] >= abs(soft["sre"]) - 1e-9
    assert soft["supercell_matrix"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["qha", "--temperature", "0,300"], "no temperatures"),
        (["qha", "--temperature", "hot"], "no temperatures"),
        (["qha", "--supercell", "2 2 2", "--min-length", "10"], "exclude each other"),
        (["kappa", "--temperature", "-3"], "cannot be"),
        (["kappa", "--against", "x.yaml", "--supercell", "2 2 2"], "the reference's"),
    ],
)
def test_refusals(silicon, command, reason):
    name, *options = command
    done = runner.invoke(app, [name, str(silicon), "--potential", "embedded", *options, "--json"])
    assert done.exit_code == 2, done.output
    assert reason in json.loads(done.stdout)["error"]


def test_a_reference_of_another_crystal_is_refused(silicon, shared):
    pytest.importorskip("phono3py")
    salt = silicon.with_name("NaCl.cif")
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(
        filename=str(salt)
    )
    yaml = shared / "data" / "phono3py" / "phono3py_disp.yaml"
    command = ["kappa", str(salt), "--potential", "embedded", "--against", str(yaml), "--json"]
    done = runner.invoke(app, command)
    assert done.exit_code == 2, done.output
    assert "without forces" in json.loads(done.stdout)["error"]
