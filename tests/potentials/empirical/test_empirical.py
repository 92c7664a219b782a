"""Empirical potentials against ASE, matscipy, finite differences and the figures of the papers."""

import json
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.stress import voigt_6_to_full_3x3_stress

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.base import Potential
from phonosmith.potentials.embedded import DEMO_MATERIALS, lattice_constant, reference_bytes, teacher_bytes
from phonosmith.potentials.empirical.potential import load_empirical
from phonosmith.potentials.empirical.stillinger_weber import StillingerWeber
from phonosmith.potentials.empirical.tersoff import Tersoff

GPA = 160.21766208


@pytest.fixture(scope="module")
def reference():
    return load_empirical(reference_bytes())


@pytest.fixture(scope="module")
def teacher():
    return load_empirical(teacher_bytes())


def disturbed(material, seed=0, rattle=0.08, repeat=2):
    lengths = {"Si": 5.43, "Ge": 5.66, "C": 3.57, "SiC": 4.40}
    atoms = bulk(material, DEMO_MATERIALS[material], a=lengths[material], cubic=True) * (repeat, 1, 1)
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(0, rattle * lengths[material] / 5.43, atoms.positions.shape)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.02, 0.02, (3, 3))), scale_atoms=True)
    return atoms


def five_point(energy, step):
    """Fourth-order derivative at zero."""
    return (-energy(2 * step) + 8 * energy(step) - 8 * energy(-step) + energy(-2 * step)) / (12 * step)


ALL = [(name, material) for name in ("reference", "teacher") for material in DEMO_MATERIALS]


@pytest.mark.parametrize(("name", "material"), ALL)
def test_forces_are_minus_the_gradient(request, name, material):
    # rattles stay away from Tersoff's cutoffs, whose second derivative jumps; 1e-7 is what a five-point rule gives
    potential = request.getfixturevalue(name)
    atoms = disturbed(material, rattle=0.03)
    (found,) = potential.evaluate([atoms])
    direction = np.random.default_rng(1).normal(size=atoms.positions.shape)

    def energy(step):
        moved = atoms.copy()
        moved.positions += step * direction
        return potential.evaluate([moved])[0].energy

    assert five_point(energy, 1e-3) == pytest.approx(-np.sum(found.forces * direction), rel=1e-7)
    assert np.abs(found.forces.sum(axis=0)).max() < 1e-10


@pytest.mark.parametrize(("name", "material"), ALL)
def test_stress_is_the_strain_derivative(request, name, material):
    potential = request.getfixturevalue(name)
    atoms = disturbed(material, seed=3, rattle=0.03)
    (found,) = potential.evaluate([atoms])
    strain = np.random.default_rng(2).normal(size=(3, 3))
    strain = strain + strain.T

    def energy(step):
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ (np.eye(3) + step * strain), scale_atoms=True)
        return potential.evaluate([moved])[0].energy

    expected = np.sum(voigt_6_to_full_3x3_stress(found.stress) * strain) * atoms.get_volume()
    assert five_point(energy, 2e-4) == pytest.approx(expected, rel=1e-7)


TERSOFF = [("reference", "Si"), ("reference", "C"), ("reference", "SiC"), ("teacher", "Ge"), ("teacher", "SiC")]


@pytest.mark.parametrize(("name", "material"), TERSOFF)
def test_tersoff_equals_ase(request, name, material):
    # the same formula summed in another order: differences are rounding
    from ase.calculators.tersoff import Tersoff as AseTersoff
    from ase.calculators.tersoff import TersoffParameters

    potential = request.getfixturevalue(name)
    atoms = disturbed(material, rattle=0.15, seed=5)
    function = potential.parameter_set(set(atoms.get_chemical_symbols()))
    assert isinstance(function, Tersoff)
    n = len(function.elements)
    parameters = {
        tuple(function.elements[index] for index in where): TersoffParameters(
            **{("h" if key == "costheta0" else key): float(values[where]) for key, values in function.table.items()}
        )
        for where in np.ndindex(n, n, n)
    }
    (found,) = potential.evaluate([atoms])
    atoms.calc = AseTersoff(parameters)
    assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-10)
    np.testing.assert_allclose(found.stress, atoms.get_stress(), atol=1e-10)


def test_parameters_and_energies_equal_matscipy(reference, teacher):
    # another group's transcription of the same papers, in another notation
    from matscipy.calculators.manybody import Manybody
    from matscipy.calculators.manybody.explicit_forms import StillingerWeber as MatscipyStillingerWeber
    from matscipy.calculators.manybody.explicit_forms import TersoffBrenner
    from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si
    from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import (
        Erhart_PRB_71_035211_SiC,
        Tersoff_PRB_39_5566_Si_C,
    )

    # matscipy keeps carbon's B of Tersoff's 1988 letter, 346.74 eV; the table of 1989 prints 346.7
    tersoff = {**Tersoff_PRB_39_5566_Si_C, "B": [346.7, np.sqrt(346.7 * 471.18), 471.18]}
    cases = [
        (reference, "SiC", TersoffBrenner(Erhart_PRB_71_035211_SiC)),
        (reference, "C", TersoffBrenner(Erhart_PRB_71_035211_SiC)),
        (teacher, "SiC", TersoffBrenner(tersoff)),
        (teacher, "Si", MatscipyStillingerWeber(Stillinger_Weber_PRB_31_5262_Si)),
    ]
    for potential, material, form in cases:
        atoms = disturbed(material, rattle=0.03)
        (found,) = potential.evaluate([atoms])
        atoms.calc = Manybody(**form)
        # 1e-8: matscipy writes cos θ0 of Stillinger and Weber with twelve digits
        assert found.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-8)
        np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(found.stress, atoms.get_stress(), atol=1e-8)


PUBLISHED = [
    # potential, material, a (Å), cohesive energy (eV/atom): the tables of the papers, to their last digit
    ("reference", "Si", 5.429, 4.63),
    ("reference", "C", 3.566, 7.373),
    ("reference", "SiC", 4.359, 6.34),
    ("reference", "Ge", 5.654, 3.86),
    ("teacher", "Si", 5.431, 4.336),
    ("teacher", "Ge", 5.657, 3.85),
    ("teacher", "C", 3.566, 7.37),
    ("teacher", "SiC", 4.32, 6.165),
]


@pytest.mark.parametrize(("name", "material", "a", "cohesion"), PUBLISHED)
def test_lattice_constant_and_cohesive_energy_of_the_papers(request, name, material, a, cohesion):
    potential = request.getfixturevalue(name)
    found = lattice_constant(potential, material)
    (result,) = potential.evaluate([bulk(material, DEMO_MATERIALS[material], a=found)])
    assert found == pytest.approx(a, abs=1.5e-3)
    assert -result.energy / 2 == pytest.approx(cohesion, abs=6e-3)


def elastic_constants(potential, material):
    """C11, C12, C44 with inner relaxation by Newton's method, GPa."""
    cell = bulk(material, DEMO_MATERIALS[material], a=lattice_constant(potential, material))
    hessian = potential.hessian_columns(cell, range(6))[3:, 3:]

    def stress(strain):
        moved = cell.copy()
        moved.set_cell(cell.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        for _ in range(4):
            moved.positions[1] += np.linalg.solve(hessian, potential.evaluate([moved])[0].forces[1])
        return potential.evaluate([moved])[0].stress

    size = 1e-3
    axial, shear = np.diag([size, 0, 0]), np.zeros((3, 3))
    shear[1, 2] = shear[2, 1] = size / 2
    along, across = ((stress(strain) - stress(-strain)) / (2 * size) * GPA for strain in (axial, shear))
    return along[0], along[1], across[3]


@pytest.mark.parametrize(
    ("name", "material", "expected", "tolerance"),
    [
        # Cowley, Phys. Rev. Lett. 60, 2379 (1988): 151.4, 76.4, 56.4 GPa
        ("teacher", "Si", (151.4, 76.4, 56.4), 0.2),
        # Tersoff (1989), table: 1.38, 0.44, 0.66 Mbar
        ("teacher", "Ge", (138, 44, 66), 1.5),
        # Erhart and Albe (2005): 382, 145, 240 GPa
        ("reference", "SiC", (382, 145, 240), 2.5),
    ],
)
def test_elastic_constants_of_the_papers(request, name, material, expected, tolerance):
    found = elastic_constants(request.getfixturevalue(name), material)
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_protocol_batches_and_supercells(reference):
    assert isinstance(reference, Potential)
    assert reference.elements == ("C", "Si", "Ge")
    frames = [disturbed("SiC", 1), disturbed("Ge", 2), disturbed("C", 3), disturbed("SiC", 4), disturbed("Ge", 5)]
    together = reference.evaluate(frames)
    for atoms, found in zip(frames, together, strict=True):
        (alone,) = reference.evaluate([atoms])
        assert found.energy == pytest.approx(alone.energy, rel=1e-13)
        np.testing.assert_allclose(found.forces, alone.forces, atol=1e-11)
        np.testing.assert_allclose(found.stress, alone.stress, atol=1e-12)
    # a two-atom cell sees its own images: it must equal its supercell
    cell = bulk("Si", a=5.5)
    cell.positions[1] += (0.05, -0.03, 0.02)
    small, large = reference.evaluate([cell, cell * (3, 3, 3)])
    assert large.energy == pytest.approx(27 * small.energy, rel=1e-13)
    np.testing.assert_allclose(large.forces[:2], small.forces, atol=1e-11)
    np.testing.assert_allclose(large.stress, small.stress, atol=1e-12)
    assert reference.evaluate([]) == []


def test_rotation_and_order_of_atoms_change_nothing(teacher):
    atoms = disturbed("SiC", 7)
    turned = atoms.copy()
    turned.rotate(37.0, (1, 2, 3), rotate_cell=True)
    order = np.random.default_rng(0).permutation(len(atoms))
    plain, rotated, shuffled = teacher.evaluate([atoms, turned, atoms[order]])
    assert rotated.energy == pytest.approx(plain.energy, rel=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rotated.forces, axis=1), np.linalg.norm(plain.forces, axis=1), atol=1e-10)
    np.testing.assert_allclose(shuffled.forces, plain.forces[order], atol=1e-10)


@pytest.mark.parametrize("material", ["SiC", "Ge"])
def test_hessian_equals_second_differences_of_energy(reference, material):
    atoms = disturbed(material, rattle=0.02, repeat=1)
    columns = reference.hessian_columns(atoms, range(3 * len(atoms)))
    assert columns.shape == (24, 24)
    # analytic forces, fourth order: symmetric to 1e-6 of the largest element and free of a net force
    assert np.abs(columns - columns.T).max() < 1e-6 * np.abs(columns).max()
    assert np.abs(columns.reshape(24, 8, 3).sum(axis=1)).max() < 1e-8
    direction = np.random.default_rng(3).normal(size=24)

    def energy(step):
        moved = atoms.copy()
        moved.positions += step * direction.reshape(-1, 3)
        return reference.evaluate([moved])[0].energy

    h = 1e-3
    curvature = (energy(h) - 2 * energy(0) + energy(-h)) / h**2
    assert direction @ columns @ direction == pytest.approx(curvature, rel=1e-5)


def test_calculator_gives_the_same_numbers_and_survives_pickling(reference):
    atoms = disturbed("SiC", 2)
    (found,) = reference.evaluate([atoms])
    atoms.calc = pickle.loads(pickle.dumps(reference.calculator()))
    assert atoms.get_potential_energy() == found.energy
    assert atoms.get_potential_energy(force_consistent=True) == found.energy
    np.testing.assert_array_equal(atoms.get_forces(), found.forces)
    np.testing.assert_array_equal(atoms.get_stress(), found.stress)
    atoms.positions[0, 0] += 0.1
    assert atoms.get_potential_energy() != found.energy


def test_isolated_atoms_and_molecules(reference):
    alone = Atoms("Si", cell=[20] * 3, pbc=True)
    pair = Atoms("Si2", positions=[(0, 0, 0), (0, 0, 2.232)], cell=[20] * 3, pbc=True)
    first, second = reference.evaluate([alone, pair])
    assert first.energy == 0
    # Erhart and Albe's D0 is the dimer's binding energy at r0
    assert second.energy == pytest.approx(-3.24, rel=1e-12)
    assert np.abs(second.forces).max() < 1e-10
    molecule = Atoms("Si3", positions=[(0, 0, 0), (0, 0, 2.3), (0, 2.3, 0)])
    (free,) = reference.evaluate([molecule])
    boxed = molecule.copy()
    boxed.set_cell([20] * 3)
    boxed.pbc = True
    assert free.energy == pytest.approx(reference.evaluate([boxed])[0].energy, rel=1e-12)
    np.testing.assert_array_equal(free.stress, np.zeros(6))


def test_combinations_nobody_published_are_refused(reference):
    with pytest.raises(PotentialError, match=r"Ge and Si together"):
        reference.evaluate([bulk("SiGe", "zincblende", a=5.5)])
    with pytest.raises(PotentialError, match="does not know Al"):
        reference.evaluate([bulk("Al")])
    twice = bulk("Si", a=5.43)
    twice.positions[1] = twice.positions[0]
    with pytest.raises(PotentialError, match="on top of each other"):
        reference.evaluate([twice])


def change(edit):
    content = json.loads(reference_bytes())
    edit(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not json", "not valid JSON"),
        (b"[]", "lacks"),
        (b"\xff\xfe", "not valid JSON"),
        (change(lambda c: c.update(version=2)), "version 2"),
        (change(lambda c: c.update(sets=[])), "missing or empty"),
        (change(lambda c: c["sets"][0].update(form="morse")), "unknown form 'morse'"),
        (change(lambda c: c["sets"][0].update(elements=["Xx"])), "chemical symbols"),
        (change(lambda c: c["sets"][0]["parameters"]["C-C"].pop("D0")), "'D0' is missing"),
        (change(lambda c: c["sets"][0]["parameters"].pop("Si-C")), "pair C-Si"),
        (change(lambda c: c["sets"][0]["parameters"]["C-C"].update(S="two")), "not a number"),
        (change(lambda c: c["sets"][1]["parameters"]["Ge-Ge-Ge"].pop("sigma")), "lacks sigma"),
        (change(lambda c: c["sets"][1]["parameters"].clear()), "triplet Ge-Ge-Ge"),
        (change(lambda c: c["sets"][1].update(parameters=3)), "names and numbers"),
    ],
)
def test_bad_files_say_what_is_wrong(data, message):
    with pytest.raises(PotentialError, match=message) as caught:
        load_empirical(data)
    assert caught.value.advice


def test_plain_file_loads_again(reference, tmp_path):
    reference.save_plain(tmp_path / "own.json")
    again = load_empirical((tmp_path / "own.json").read_bytes())
    atoms = disturbed("SiC")
    assert again.evaluate([atoms])[0].energy == reference.evaluate([atoms])[0].energy
    assert reference.prune(["Si"]) is reference


def test_stillinger_weber_of_two_elements_with_equal_parameters_is_one_element(teacher):
    one = teacher.parameter_set({"Si"})
    values = {key: float(table[0, 0, 0]) for key, table in one.table.items()}
    elements = ("Si", "Ge")
    triplets = {f"{i}-{j}-{k}": values for i in elements for j in elements for k in elements}
    two = StillingerWeber.from_triplets(elements, triplets)
    from phonosmith.potentials.empirical.bonds import find_bonds

    atoms = disturbed("Si", 9)
    mixed = atoms.copy()
    mixed.symbols[::3] = "Ge"
    single = one.evaluate(find_bonds([atoms], ("Si",), one.cutoff))
    double = two.evaluate(find_bonds([mixed], elements, two.cutoff))
    assert double.energies[0] == pytest.approx(single.energies[0], rel=1e-13)
    np.testing.assert_allclose(double.forces, single.forces, atol=1e-12)
    uneven = {**triplets, "Si-Si-Ge": {**values, "lambda": 20.0}}
    with pytest.raises(PotentialError, match="i-j-k"):
        StillingerWeber.from_triplets(elements, uneven)
