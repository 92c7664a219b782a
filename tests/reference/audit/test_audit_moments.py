"""The audit on sets of several magnetic states: iron-like cells whose moments are scaled, turned or gone."""

import numpy as np
import pytest
from ase.build import bulk

from phonosmith.reference.audit.moments import moment_findings
from phonosmith.reference.datasets.documents import AuditOptions
from phonosmith.reference.datasets.moments import (
    changed_sites,
    is_magnetic,
    magnetic_note,
    mean_moments,
    net_moment,
    turned_sites,
)
from phonosmith.structures.labels import Moments, label_frame

UP = np.full(16, 2.2)
CHECKERED = np.tile([2.2, -2.2], 8)


def iron(seed, pattern=UP, scatter=0.1, spin=True, total=None, tell_sites=True):
    """A rattled and strained cell; moments vary by a tenth, as those of real frames do."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Fe", cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.01, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    sites = None if pattern is None else np.asarray(pattern) * (1 + rng.uniform(-scatter, scatter, 16))
    if total is None and sites is not None:
        total = float(sites.sum())
    moments = Moments(total, sites if tell_sites else None)
    return label_frame(atoms, energy=-8.0 * 16, forces=rng.normal(0, 1, (16, 3)), moments=moments, spin=spin)


def found(frames):
    """Checks with their severity and frames, without the sentences on what magnetism means."""
    said = moment_findings(frames, AuditOptions())
    return {f.check: (f.severity, f.frames) for f in said if f.check != "magnetic_labels"}


@pytest.mark.parametrize("pattern", [UP, CHECKERED, -UP, 4 * CHECKERED])
def test_one_state_passes(pattern):
    assert found([iron(seed, pattern) for seed in range(10)]) == {}


def test_states_turned_as_a_whole_are_the_same():
    frames = [iron(seed, sign * CHECKERED) for seed, sign in enumerate([1, -1] * 5)]
    assert found(frames) == {}
    assert found([iron(seed, sign * UP) for seed, sign in enumerate([1, -1] * 5)]) == {}


@pytest.mark.parametrize(("n_odd", "severity"), [(1, "exclude"), (4, "refuse")])
@pytest.mark.parametrize("usual", [UP, CHECKERED])
def test_atoms_that_turned_are_found(usual, n_odd, severity):
    turned = np.array(usual)
    turned[[2, 5]] *= -1
    frames = [iron(seed, turned if seed < n_odd else usual) for seed in range(10)]
    assert found(frames)["moment_flip"] == (severity, list(range(n_odd)))


def test_one_atom_that_lost_its_moment_is_found():
    low = UP.copy()
    low[7] = 0.1
    assert found([iron(seed, low if seed == 3 else UP) for seed in range(10)]) == {"moment_flip": ("exclude", [3])}


def test_vanished_moments_are_another_magnetism():
    frames = [iron(seed, 0.01 * UP if seed == 9 else UP) for seed in range(10)]
    assert found(frames) == {"magnetism": ("exclude", [9])}


@pytest.mark.parametrize(("n_without", "severity"), [(1, "exclude"), (5, "refuse")])
def test_labels_with_and_without_spin_are_not_mixed(n_without, severity):
    frames = [iron(seed, None if seed < n_without else UP, spin=seed >= n_without) for seed in range(10)]
    said, odd = found(frames)["magnetism"]
    assert said == severity
    assert odd in (list(range(n_without)), list(range(n_without, 10)))
    assert len(odd) == min(n_without, 10 - n_without)


def test_no_magnetism_with_spin_and_without_is_the_same():
    assert found([iron(seed, 0.01 * UP if seed % 2 else None, spin=bool(seed % 2)) for seed in range(10)]) == {}


def test_another_spin_state_shows_without_equal_cells():
    """High spin among low spin in a supercell that no other frame has."""
    frames = [iron(seed) for seed in range(9)]
    low = label_frame(
        bulk("Fe", cubic=True), energy=-16.0, forces=np.zeros((2, 3)), moments=Moments(1.4, np.full(2, 0.7))
    )
    assert found([*frames, low]) == {"moment_size": ("exclude", [9])}


def test_totals_alone_tell_order():
    """Ferromagnetic and antiferromagnetic frames of one size of moments, without moments of atoms."""
    frames = [iron(seed, total=3.0 if seed == 4 else 35.0, tell_sites=False) for seed in range(10)]
    said = found(frames)
    assert said["moment_size"] == ("exclude", [4])
    assert said["moments_unknown"] == ("warn", list(range(10)))


def test_the_audit_says_what_a_potential_does_not_know():
    frames = [iron(seed) for seed in range(3)]
    note = magnetic_note(frames)
    assert "3 of 3 labels are magnetic (Fe 2.18 μB, 2.18 μB per atom in total)" in note
    assert "holds for this magnetic state alone" in note
    assert [f.message for f in moment_findings(frames, AuditOptions())] == [note]
    assert magnetic_note([iron(0, None, spin=False)]) is None


def test_numbers():
    assert turned_sites(np.array([2.0, 2, -2, 0.1]), np.array([1.0, 1.5, 2, -0.1])).tolist() == [2]
    assert turned_sites(np.array([2.0, 2, -2, 0.1]), np.array([-1.0, -1.5, 2, 0.1])).tolist() == []
    assert changed_sites(np.array([4.0, 3.0, 0.2]), np.array([1.9, -2.0, 0.0])).tolist() == [0]
    frame = iron(0, CHECKERED, scatter=0.0)
    assert mean_moments(frame) == {"Fe": pytest.approx(2.2)}
    assert net_moment(frame) == pytest.approx(0.0, abs=1e-12)
    assert is_magnetic(frame)
    assert is_magnetic(bulk("Fe")) is None
