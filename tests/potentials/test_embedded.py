"""The shipped foundation is what its model card says: a small, stable, honestly wrong potential."""

import importlib.util
import json
import re
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from phonosmith.core.errors import InputError
from phonosmith.potentials.base import Potential
from phonosmith.potentials.embedded import (
    DEMO_MATERIALS,
    demo_structure,
    foundation_bytes,
    lattice_constant,
    reference_bytes,
    reference_lattice_constant,
    teacher_bytes,
)
from phonosmith.potentials.empirical.potential import load_empirical

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tool():
    """The script that made the foundation."""
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location("make_embedded_foundation", TOOLS / "make_embedded_foundation.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(TOOLS))
        sys.modules.pop("make_embedded_foundation", None)
        sys.modules.pop("embedded_figures", None)


@pytest.fixture(scope="module")
def foundation():
    from phonosmith.potentials.architecture import architecture

    return architecture("mace").load(foundation_bytes(), dtype="float64", device="cpu", name="embedded")


@pytest.fixture(scope="module")
def reference():
    return load_empirical(reference_bytes())


@pytest.mark.parametrize(("name", "a"), [("Si", 5.429), ("Ge", 5.654), ("C", 3.566), ("SiC", 4.359)])
def test_demo_structures_are_at_rest_in_the_reference(reference, name, a):
    atoms, conventional = demo_structure(name), demo_structure(name, cubic=True)
    assert (len(atoms), len(conventional)) == (2, 8)
    assert reference_lattice_constant(name) == pytest.approx(a, abs=1e-3)
    for found in reference.evaluate([atoms, conventional]):
        # eV/Å³: 1e-10 is 2e-8 GPa, the accuracy of the root search
        assert np.abs(found.stress).max() < 1e-10
        assert np.abs(found.forces).max() < 1e-10


def test_unknown_demo_material_names_the_known_ones():
    with pytest.raises(InputError, match="NaCl") as caught:
        demo_structure("NaCl")
    assert "SiC" in caught.value.advice


def test_foundation_is_small_and_covers_the_demo_materials(foundation):
    assert len(foundation_bytes()) < 1_000_000
    assert isinstance(foundation, Potential)
    assert foundation.elements == ("C", "Si", "Ge")
    for name in DEMO_MATERIALS:
        assert set(demo_structure(name).get_chemical_symbols()) <= set(foundation.elements)


def test_foundation_is_smooth_under_volume_change_and_rattles(foundation, reference):
    rng = np.random.default_rng(0)
    for name in DEMO_MATERIALS:
        cell = demo_structure(name, cubic=True)
        frames, volumes = [], np.linspace(0.95, 1.05, 11)
        for volume in volumes:
            scaled = cell.copy()
            scaled.set_cell(cell.cell.array * volume ** (1 / 3), scale_atoms=True)
            frames.append(scaled)
        energies = np.array([found.energy for found in foundation.evaluate(frames, stress=False)]) / len(cell)
        # one minimum and positive curvature of E(V) all along: no wiggle of the learned surface
        assert np.all(np.diff(energies, 2) > 0)
        rattled = [cell.copy() for _ in range(4)]
        for atoms in rattled:
            # in SiC larger rattles reach the Si-Si cutoff of the reference (see the model card's limits)
            rattle = 0.05 if name == "SiC" else 0.1
            atoms.positions += rng.normal(0, rattle * cell.cell[0, 0] / 5.43, atoms.positions.shape)
        found = np.concatenate([item.forces for item in foundation.evaluate(rattled)])
        truth = np.concatenate([item.forces for item in reference.evaluate(rattled)])
        # strongly correlated with another parameterisation of the same bond, hence physical; not equal to it
        assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.98


def card_rows():
    """Figures of the model card by (material, potential)."""
    text = (files("phonosmith.potentials.embedded") / "README.md").read_text(encoding="utf-8")
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 12 and cells[0] in DEMO_MATERIALS:
            rows[cells[0], cells[1]] = [float(cell) for cell in cells[2:]]
    return rows


@pytest.mark.parametrize("material", list(DEMO_MATERIALS))
def test_model_card_prints_what_the_file_gives(tool, foundation, reference, material):
    figures = sys.modules["embedded_figures"]
    rows = card_rows()
    a_reference = lattice_constant(reference, material)
    truth, _ = figures.frequencies(reference, material, a_reference)
    a = figures.equilibrium(foundation, material, a_reference)
    values, weights = figures.frequencies(foundation, material, a)
    card = rows[material, "foundation"]
    # the card rounds to these digits; another library version moves the last one
    assert a == pytest.approx(card[0], abs=2e-4)
    assert values.max() == pytest.approx(card[3], abs=0.011)
    assert 100 * (values.max() / truth.max() - 1) == pytest.approx(card[4], abs=0.11)
    mae = np.average(np.abs(values - truth).mean(axis=1), weights=weights)
    assert mae == pytest.approx(card[6], abs=2e-3)
    # dynamically stable: only the acoustic modes at Γ are at zero
    assert values.min() > -1e-3
    assert np.sort(values.ravel())[3] > 0.1


def test_softening_of_silicon_and_germanium_is_that_of_foundations():
    # universal foundations are some 7 % soft; the card promises -4 to -12 % here, inherited from the teachers
    rows = card_rows()
    for material in ("Si", "Ge", "C"):
        assert -12.0 < rows[material, "foundation"][4] < -4.0
        teacher, foundation = rows[material, "teacher"], rows[material, "foundation"]
        assert abs(teacher[4] - foundation[4]) < 2.5


def test_frames_are_reproducible_and_labelled_by_the_teacher(tool):
    teacher = load_empirical(teacher_bytes())
    counts = {"supercell": 2, "cubic": 1, "prototype": 3}
    first, second = (tool.make_frames(teacher, counts, np.random.default_rng(5)) for _ in range(2))
    assert len(first) == 6 * len(DEMO_MATERIALS)
    for one, other in zip(first, second, strict=True):
        assert one.energy == other.energy
        np.testing.assert_array_equal(one.atoms.positions, other.atoms.positions)
        (again,) = teacher.evaluate([one.atoms])
        np.testing.assert_allclose(one.forces, again.forces, atol=1e-10)
        if one.material == "SiC":
            silicon = one.atoms[one.atoms.symbols == "Si"].repeat(2)
            distances = silicon.get_all_distances(mic=True)
            assert distances[distances > 0.1].min() >= 3.0
    energies = tool.atomic_energies(first)
    counted = np.array([[np.sum(frame.atoms.numbers == z) for z in tool.NUMBERS] for frame in first])
    residual = counted @ energies - [frame.energy for frame in first]
    # least squares: the residual is orthogonal to the compositions
    np.testing.assert_allclose(counted.T @ residual, 0, atol=1e-8)


def test_card_and_parameter_files_say_they_are_not_dft():
    card = (files("phonosmith.potentials.embedded") / "README.md").read_text(encoding="utf-8")
    assert "not DFT" in card
    for data in (reference_bytes(), teacher_bytes()):
        content = json.loads(data)
        assert "not DFT" in content["note"]
        assert all(re.search(r"\(\d{4}\)", one["citation"]) for one in content["sets"])


@pytest.mark.slow
def test_training_is_reproducible_and_learns(tool):
    import torch

    teacher = load_empirical(teacher_bytes())
    frames = tool.make_frames(teacher, {"supercell": 0, "cubic": 8, "prototype": 0}, np.random.default_rng(1))
    frames = [frame for frame in frames if frame.material == "Si"]
    before = torch.get_default_dtype()
    try:
        states, errors = [], []
        for epochs in (20, 20, 0):
            torch.set_default_dtype(torch.float32)
            model = tool.build_model(tool.atomic_energies(frames), 30.0, seed=2)
            tool.train(model, frames, epochs, seed=3, batch_size=1)
            states.append(model.state_dict())
            errors.append(tool.errors(model, frames)["Si"]["forces_mev_per_angstrom"])
    finally:
        torch.set_default_dtype(before)
    # two processes agree bit for bit; within one, TorchScript optimises after its first calls and moves the last bits
    assert all(torch.allclose(states[0][key], states[1][key], rtol=1e-3, atol=1e-4) for key in states[0])
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    assert errors[0] < 0.9 * errors[2]


def test_bulk_prototypes_of_the_tool_have_the_right_bond_length(tool):
    (wurtzite,) = tool.prototypes("SiC", 4.36)
    distances = wurtzite.get_all_distances(mic=True)
    assert distances[distances > 0.1].min() == pytest.approx(4.36 * np.sqrt(3) / 4, rel=1e-3)
    for atoms in tool.prototypes("Si", 5.43):
        assert set(atoms.get_chemical_symbols()) == {"Si"}
        nearest = (atoms * (2, 2, 2)).get_all_distances(mic=True)
        assert 2.2 < nearest[nearest > 0.1].min() < 2.75
