from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from phonosmith.core.errors import ConvergenceError, MismatchError, PotentialError
from phonosmith.core.hashing import digest_atoms
from phonosmith.potentials.ase_potential import AsePotential
from phonosmith.sampling.documents import SamplingDoc, SamplingSettings
from phonosmith.sampling.figure import energy_ladder, energy_ladder_svg
from phonosmith.sampling.fire import Trajectory
from phonosmith.sampling.ladder import shortest_distance
from phonosmith.sampling.protocol import (
    _usable,
    perfect_supercell,
    regenerate,
    sample_configurations,
)
from phonosmith.structures.extxyz import format_frames, parse_frames
from phonosmith.structures.supercell import sampling_supercell

# eight atoms: the calculator in pure Python is the cost of these tests
SMALL = SamplingSettings(supercell_matrix=[[2, 0, 0], [0, 1, 0], [0, 0, 1]], max_steps=300, fmax=1e-3)


def alloy() -> Structure:
    return Structure(
        Lattice.cubic(3.75), ["Au", "Cu", "Cu", "Cu"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    )


def metal() -> AsePotential:
    return AsePotential(EMT, ("Cu", "Au"))


@pytest.fixture(scope="module")
def sampled():
    return sample_configurations(alloy(), metal(), SMALL, seed=5)


def test_twenty_configurations_four_and_sixteen(sampled):
    document = sampled.document
    assert (document.n_train, document.n_valid) == (16, 4)
    assert document.converged == [True] * 5
    assert {atoms.info["volume_factor"] for atoms in sampled.valid} == {1.0}
    assert [atoms.info["volume_factor"] for atoms in sampled.train[:4]] == [0.95, 1.05, 0.975, 1.025]
    assert [atoms.info["layer"] for atoms in sampled.train] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert [atoms.info["position"] for atoms in sampled.train] == list(range(16))
    assert len(set(document.train_digests + document.valid_digests)) == 20


def test_numbers_are_what_was_asked(sampled):
    """As published, the volume of each distorted lattice is scaled."""
    perfect = alloy().volume * sampled.document.supercell.n_atoms / 4
    distorted = {one.volume_factor: one.strain_volume_factor for one in sampled.document.configurations}
    assert max(abs(factor - 1) for factor in distorted.values()) > 1e-3
    for atoms in (*sampled.train, *sampled.valid):
        factor = atoms.info["volume_factor"]
        assert atoms.get_volume() / perfect == pytest.approx(factor * distorted[factor], rel=1e-9)
    for record in sampled.document.configurations:
        assert record.mean_displacement == pytest.approx(0.1, rel=0.1)
        assert record.volume / perfect == pytest.approx(record.volume_factor * record.strain_volume_factor, rel=1e-9)
        assert record.scale**3 == pytest.approx(record.volume_factor, rel=1e-9)
        assert np.abs(np.array([*record.length_factors, *record.angle_factors]) - 1).max() <= 0.02


def test_frames_are_the_starts_and_descend(sampled):
    for start, record in zip(sampled.starts, sampled.document.configurations, strict=True):
        assert record.frames[0].digest == digest_atoms(start.atoms) == record.start_digest
        fractions = [frame.energy_fraction for frame in record.frames]
        assert fractions == pytest.approx([0.0, 0.3, 0.6, 0.9], abs=0.05)
        for frame in record.frames:
            if frame.between == 0:
                assert frame.energy == record.energies[frame.step]
            else:
                assert record.energies[frame.step] >= frame.energy >= record.energies[frame.step + 1]


def test_first_steps_of_fire_that_overshoot_are_filled(sampled):
    """Steps alone miss rungs by more than 0.05 of the drop here; the configurations between lie on the way."""
    alone = sample_configurations(
        alloy(), metal(), SMALL.model_copy(update={"energy_tolerance": 1.0}), seed=5
    ).document.configurations
    wanted = np.linspace(0, 0.9, 4)
    missed = [np.abs(np.array([one.energy_fraction for one in record.frames]) - wanted).max() for record in alone]
    assert max(missed) > 0.05
    between = [
        (start, trajectory, frame)
        for start, trajectory, record in zip(
            sampled.starts, sampled.trajectories, sampled.document.configurations, strict=True
        )
        for frame in record.frames
        if frame.between
    ]
    assert between
    everything = {digest_atoms(atoms): atoms for atoms in (*sampled.train, *sampled.valid)}
    for _, trajectory, frame in between:
        first, second = (trajectory.frames[frame.step + offset].positions for offset in (0, 1))
        line = (1 - frame.between) * first + frame.between * second
        np.testing.assert_allclose(everything[frame.digest].positions, line, atol=1e-7)


def test_volumes_over_the_unstrained_supercell_are_a_choice():
    settings = SMALL.model_copy(update={"max_steps": 0, "volume_of": "supercell"})
    document = sample_configurations(alloy(), metal(), settings, seed=5).document
    perfect = alloy().volume * document.supercell.n_atoms / 4
    for record in document.configurations:
        assert record.volume / perfect == pytest.approx(record.volume_factor, rel=1e-9)


def test_recorded_energies_are_the_potentials(sampled):
    found = metal().evaluate(sampled.train)
    assert [item.energy for item in found] == pytest.approx(
        [a.info["foundation_energy"] for a in sampled.train], abs=1e-6
    )
    # nothing that a training code could mistake for a label
    assert all("energy" not in atoms.info and atoms.calc is None for atoms in sampled.train)


def test_regeneration_from_the_documents_json_is_identical(sampled):
    document = SamplingDoc.model_validate_json(sampled.document.model_dump_json())
    again = regenerate(document, metal())
    assert again.document.train_digests == sampled.document.train_digests
    assert again.document.valid_digests == sampled.document.valid_digests
    assert format_frames(again.train) == format_frames(sampled.train)


def test_regeneration_notices_other_draws(sampled):
    quick = SMALL.model_copy(update={"max_steps": 0})
    changed = sampled.document.model_copy(update={"seed": 6, "settings": quick})
    with pytest.raises(MismatchError, match="starting configurations differ"):
        regenerate(changed, metal())


def test_files_keep_every_digit(sampled):
    back = parse_frames(format_frames(sampled.train), "sampled")
    assert [digest_atoms(atoms) for atoms in back] == sampled.document.train_digests
    assert back[3].info["volume_factor"] == 1.025


def test_input_cell_does_not_matter(sampled):
    doubled = alloy() * (1, 1, 2)
    other = sample_configurations(doubled, metal(), SMALL.model_copy(update={"max_steps": 0}), seed=5)
    assert [item.start_digest for item in other.document.configurations] == [
        item.start_digest for item in sampled.document.configurations
    ]
    assert any("not primitive" in note for note in other.document.warnings)


def test_supercell_is_grouped_by_element_and_exact():
    choice = sampling_supercell(alloy(), "large")
    atoms = perfect_supercell(alloy(), choice)
    assert len(atoms) == choice.n_atoms
    symbols = atoms.get_chemical_symbols()
    assert symbols == sorted(symbols, reverse=True)
    assert shortest_distance(atoms) == pytest.approx(3.75 / np.sqrt(2), abs=1e-6)


def test_relaxations_cut_short_are_not_used():
    """Where their end is unknown the ladder is, too: with three times two steps none is, and that is said."""
    settings = SMALL.model_copy(update={"max_steps": 2, "max_rounds": 3})
    with pytest.raises(ConvergenceError, match="No validation configuration of Cu3Au"):
        sample_configurations(alloy(), metal(), settings, seed=5)


def test_a_relaxation_whose_energy_has_settled_counts_although_forces_have_not():
    settings = SMALL.model_copy(update={"max_steps": 60, "max_rounds": 2, "fmax": 1e-12})
    found = sample_configurations(alloy(), metal(), settings, seed=5).document
    loose = sample_configurations(alloy(), metal(), SMALL, seed=5).document
    assert not any(found.converged)
    assert (found.n_train, found.n_valid) == (16, 4)
    for one, other in zip(found.configurations, loose.configurations, strict=True):
        fractions = [[frame.energy_fraction for frame in record.frames] for record in (one, other)]
        assert fractions[0] == pytest.approx(fractions[1], abs=0.05)


def test_step_cap_is_recorded_and_frames_are_used_where_asked():
    settings = SMALL.model_copy(update={"max_steps": 2, "max_rounds": 3, "unconverged": "use"})
    result = sample_configurations(alloy(), metal(), settings, seed=5)
    assert result.document.converged == [False] * 5
    assert (result.document.n_train, result.document.n_valid) == (16, 4)
    assert any(
        "not converged after 6 steps" in note and "its frames are used" in note for note in result.document.warnings
    )


def test_one_atom_cell_gives_the_strained_starts_alone():
    copper = Structure.from_spacegroup(225, Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    result = sample_configurations(copper, metal(), SamplingSettings(cell="primitive"), seed=1)
    assert (result.document.n_train, result.document.n_valid) == (4, 1)
    text = " | ".join(result.document.warnings)
    assert "one atom cannot be rattled" in text
    assert "starts converged" in text


def test_unphysical_frames_are_left_out_with_a_reason(sampled):
    limit = 0.9 * min(trajectory.max_forces[0] for trajectory in sampled.trajectories)
    settings = SMALL.model_copy(update={"max_force": limit, "max_steps": 100})
    result = sample_configurations(alloy(), metal(), settings, seed=5)
    largest = max(
        np.linalg.norm(item.forces, axis=1).max() for item in metal().evaluate([*result.train, *result.valid])
    )
    assert largest <= limit + 1e-5
    assert any("unphysical steps left out" in note for note in result.document.warnings)


def test_steps_with_close_atoms_or_large_or_broken_forces_are_unphysical(sampled):
    frame = sampled.train[0]
    close = frame.copy()
    close.positions[1] = close.positions[0] + [1.0, 0.0, 0.0]
    forces = [1.0, 31.0, 1.0, float("nan")]
    trajectory = Trajectory(frames=[frame, frame, close, frame], energies=[0.0] * 4, fmax=forces, max_forces=forces)
    assert _usable(trajectory, SMALL, 1.5) == [True, False, False, False]


def test_near_duplicates_are_dropped_or_flagged():
    settings = SMALL.model_copy(update={"duplicate_tolerance": 0.05, "max_steps": 100})
    dropped = sample_configurations(alloy(), metal(), settings, seed=5)
    flagged = sample_configurations(alloy(), metal(), settings.model_copy(update={"duplicates": "flag"}), seed=5)
    assert flagged.document.n_train == 16
    reasons = [frame.reason for item in flagged.document.configurations for frame in item.frames]
    assert sum("0.05 Å" in reason for reason in reasons) > 0
    # another step is taken where there is one: what is left has no near-duplicate, and the count says what was lost
    frames = [*dropped.train, *dropped.valid]
    for one in frames:
        for other in frames:
            if one is not other and one.info["volume_factor"] == other.info["volume_factor"]:
                assert np.linalg.norm(one.positions - other.positions, axis=1).max() > 0.05
    lost = [frame for item in dropped.document.configurations for frame in item.frames if frame.split == "dropped"]
    assert len(frames) + len(lost) == sum(len(item.frames) for item in dropped.document.configurations)


def test_unknown_element_is_refused_before_any_evaluation():
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(PotentialError, match="does not know Cl, Na"):
        sample_configurations(salt, metal(), SMALL)


def test_settings_must_hold_a_validation_volume():
    with pytest.raises(ValueError, match="validation set"):
        SamplingSettings(volume_factors=[0.95, 1.05])
    with pytest.raises(ValueError, match="differ"):
        SamplingSettings(volume_factors=[1.0, 0.95, 0.95])


def test_own_matrix_replaces_the_rule():
    settings = SamplingSettings(supercell_matrix=[[1, 0, 0], [0, 1, 0], [0, 0, 2]], max_steps=0)
    document = sample_configurations(alloy(), metal(), settings).document
    assert document.supercell.n_atoms == 8
    with pytest.raises(ValidationError, match="three independent rows"):
        SamplingSettings(supercell_matrix=[[0, 0, 0]] * 3)


def test_energy_ladder_figure(sampled):
    axes = energy_ladder(sampled.document).axes[0]
    assert len(axes.get_legend().get_texts()) == 5
    marked = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(marked) == 20
    lowest = min(min(line.get_ydata()) for line in axes.lines)
    assert lowest == pytest.approx(0.0)
    assert energy_ladder_svg(sampled.document) == energy_ladder_svg(sampled.document)


MATERIALS = ("Si", "NaCl", "GeTe", "K3Sb", "SnSe", "Bi2Te3", "MgB2", "CuO")
# the table has no monoclinic crystal: tenorite
MONOCLINIC = {
    "spacegroup": 15,
    "cellpar": [4.684, 3.423, 5.129, 90.0, 99.5, 90.0],
    "sites": [["Cu", "c", [0.25, 0.25, 0.0]], ["O", "e", [0.0, 0.418, 0.25]]],
    "rebuilds_with_ase_setting": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MATERIALS)
def test_protocol_on_real_crystals(shared, name):
    # a pair potential whose well sits at the nearest-neighbour distance stands for a foundation here: the protocol's
    # counts, volumes, order and regeneration do not depend on how good the energies are
    import json

    from ase.spacegroup import crystal
    from pymatgen.io.ase import AseAtomsAdaptor

    entry = {"CuO": MONOCLINIC, **json.loads((shared / "data/prototypes.json").read_text())}[name]
    atoms = crystal(
        [site[0] for site in entry["sites"]],
        [site[2] for site in entry["sites"]],
        spacegroup=entry["spacegroup"],
        cellpar=entry["cellpar"],
        setting=entry["rebuilds_with_ase_setting"],
    )
    nearest = shortest_distance(atoms)

    def morse() -> MorsePotential:
        return MorsePotential(epsilon=0.3, r0=nearest, rho0=4.0, rcut1=1.5, rcut2=1.9)

    potential = AsePotential(morse, sorted(set(atoms.get_chemical_symbols())))
    # such a potential does not hold every crystal, so that not every relaxation ends
    how = {"max_steps": 40, "max_rounds": 1, "fmax": 1e-2, "unconverged": "use", "volume_of": "supercell"}
    settings = SamplingSettings(cell="small", **how)
    result = sample_configurations(AseAtomsAdaptor.get_structure(atoms), potential, settings, seed=2)
    document = result.document
    assert (document.n_train, document.n_valid) == (16, 4)
    assert [frame.info["layer"] for frame in result.train] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    perfect = atoms.get_volume() / len(atoms) * document.supercell.n_atoms
    for record in document.configurations:
        assert record.mean_displacement == pytest.approx(0.1, rel=0.1)
        assert record.volume / perfect == pytest.approx(record.volume_factor, rel=1e-8)
    again = regenerate(SamplingDoc.model_validate_json(document.model_dump_json()), potential)
    assert again.document.train_digests == document.train_digests
    assert again.document.valid_digests == document.valid_digests
