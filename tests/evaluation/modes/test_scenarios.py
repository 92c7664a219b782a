"""Scenarios: each of the published four, and wave vectors that symmetry makes equal."""

import pytest
from ase.build import bulk

from phonosmith.core.errors import MismatchError
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Pathway, Phase, TransitionDoc
from phonosmith.evaluation.modes.phases import phase_of
from phonosmith.evaluation.modes.scenarios import classify

INITIAL = phase_of(bulk("GeTe", "rocksalt", 6.0))


def pathway(symbol, number, count, energy, **changes):
    final = Phase(
        space_group=symbol, space_group_number=number, n_atoms_primitive=count, energy_difference_ev_per_atom=energy
    )
    start = GridMinimum(amplitudes=[1.0], energy_ev_per_atom=-0.001)
    return Pathway(**{"start": start, "displaced": final, "final": final, "converged": True, "n_steps": 9, **changes})


POLAR, LAYERED, BACK, NEAR = (
    pathway("R3m", 160, 2, -0.0196),
    pathway("P4/nmm", 129, 4, -0.0005),
    pathway("Fm-3m", 225, 2, 1e-7),
    pathway("Fm-3m", 225, 2, -1.5e-5),
)


def mode(q, *pathways, **changes):
    return FollowedMode(
        q=q, frequency_thz=-1.0, multiplicity=1, band_indices=[0], exact=True, pathways=list(pathways), **changes
    )


def document(*modes, initial=INITIAL, phases=()):
    return TransitionDoc(
        formula="GeTe", method="m", initial=initial, modes=list(modes), phases=list(phases), manifest=Manifest()
    )


def scenarios(reference, candidate):
    judged = classify(reference, candidate)
    return [[one.scenario for one in mode.pathways] for mode in judged.modes]


def test_the_four_scenarios():
    reference = document(mode([0, 0, 0], POLAR), mode([0.5, 0, 0.5], single_minimum=True, fit_r2=0.99))
    candidate = document(mode([0, 0, 0], POLAR, LAYERED), mode([0.5, 0, 0.5], BACK, NEAR))
    before = candidate.model_copy(deep=True)
    assert scenarios(reference, candidate) == [["same", "different"], ["artefact", "displaced"]]
    assert candidate == before


@pytest.mark.parametrize("q", [[0.5, 0.5, 0], [0, 0.5, 0.5], [-0.5, 0, 0.5], [1.5, 1, -0.5]])
def test_arms_of_the_star_are_one_wave_vector(q):
    reference = document(mode([0.5, 0, 0.5], LAYERED))
    assert scenarios(reference, document(mode(q, LAYERED))) == [["same"]]


@pytest.mark.parametrize("q", [[0.5, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.49], [0, 0, 0]])
def test_other_wave_vectors_are_not(q):
    reference = document(mode([0.5, 0, 0.5], LAYERED))
    assert scenarios(reference, document(mode(q, LAYERED))) == [["different"]]


def test_general_wave_vectors_turn_with_the_crystal():
    # rotations of the rocksalt crystal taken from pymatgen, in Cartesian axes, instead of spglib's
    import numpy as np
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    crystal = Structure.from_dict(INITIAL.structure)
    q = np.array([0.1, 0.25, 0.4])
    reference = document(mode(q.tolist(), LAYERED))
    lattice = crystal.lattice.reciprocal_lattice
    for operation in SpacegroupAnalyzer(crystal).get_symmetry_operations(cartesian=True)[::7]:
        turned = lattice.get_fractional_coords(operation.rotation_matrix @ lattice.get_cartesian_coords(q))
        assert scenarios(reference, document(mode(turned.tolist(), LAYERED))) == [["same"]]


def test_notes_say_what_the_label_hides():
    reference = document(
        mode([0.5, 0, 0.5], LAYERED), mode([0.5, 0.5, 0.5], skipped="1200 atoms"), phases=[LAYERED.final]
    )
    candidate = document(
        mode([0, 0, 0], LAYERED), mode([0.1, 0, 0], POLAR), mode([0.5, 0.5, 0.5], POLAR), mode([0.5, 0, 0.5], POLAR)
    )
    judged = classify(reference, candidate)
    found = [(one.scenario, one.note) for m in judged.modes for one in m.pathways]
    assert found == [
        ("different", "the reference reaches this phase along another mode"),
        ("different", "the reference has no imaginary mode there"),
        (None, "the reference did not follow its mode there"),
        ("different", ""),
    ]
    assert classify(reference, judged) == judged


def test_failed_relaxations_are_not_judged():
    failed = [
        POLAR.model_copy(update={"final": None, "note": "diverged"}),
        POLAR.model_copy(update={"converged": False}),
    ]
    assert scenarios(document(mode([0, 0, 0], POLAR)), document(mode([0, 0, 0], *failed))) == [[None, None]]
    # nor do failures of the reference count as its phases
    assert scenarios(document(mode([0, 0, 0], *failed)), document(mode([0, 0, 0], POLAR))) == [["different"]]


def test_names_make_up_for_cells_that_are_not_known():
    bare = INITIAL.model_copy(update={"structure": None})
    reference = document(mode([0.5, 0, 0.5], LAYERED, label="X"), initial=bare)
    assert scenarios(reference, document(mode([0.5, 0.5, 0], LAYERED, label="X"), initial=bare)) == [["same"]]
    assert scenarios(reference, document(mode([0.5, 0.5, 0], LAYERED), initial=bare)) == [["different"]]


def test_stable_sides():
    assert scenarios(document(), document(mode([0, 0, 0], POLAR))) == [["different"]]
    assert scenarios(document(mode([0, 0, 0], POLAR)), document()) == []


def test_documents_of_different_crystals_are_refused():
    other = document(initial=INITIAL.model_copy(update={"n_atoms_primitive": 4}))
    with pytest.raises(MismatchError, match=r"GeTe \(Fm-3m, 2\) and of GeTe \(Fm-3m, 4\)"):
        classify(document(), other)
