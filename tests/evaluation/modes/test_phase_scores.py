"""Precision and recall of phases: the published figures from the published tables, and sets counted by hand."""

import pytest
import yaml

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.modes.documents import Phase, TransitionDoc
from phonosmith.evaluation.modes.scores import (
    MaterialPhases,
    NamedPhase,
    _numbers,
    read_phase_file,
    score_phases,
    space_group_number,
)


def phases(initial, *final):
    def named(symbol, count):
        return NamedPhase(space_group=symbol, number=space_group_number(symbol), n_atoms=count)

    return MaterialPhases(initial=named(*initial), final=[named(*one) for one in final])


def test_published_tables_give_the_published_scores(shared, tmp_path):
    tables = yaml.safe_load((shared / "reference/grandel2026_tables.yaml").read_text())
    sides = []
    for table in ("table6_dft_phases", "table9_equitrain_phases"):
        (tmp_path / table).write_text(yaml.safe_dump(tables[table]))
        sides.append(read_phase_file(tmp_path / table))
    found = score_phases(*sides)
    assert (found.n_precision, found.n_recall) == (7, 8)
    printed = tables["table4_new_phases"]["equitrain"]
    # printed with two digits
    assert found.precision == pytest.approx(printed["precision"], abs=0.005)
    assert found.recall == pytest.approx(printed["recall"], abs=0.005)
    assert found.f1 == pytest.approx(printed["f1"], abs=0.005)
    # mp-2612 by eye: R3m 2 and Pmmn 4 found, P4/nmm 4 missed, the initial phase counted nowhere
    germanium = found.per_material["mp-2612"]
    assert germanium.true_positives == ["R3m 2", "Pmmn 4"]
    assert germanium.false_negatives == ["P4/nmm 4"]
    assert (germanium.precision, germanium.recall) == (1.0, pytest.approx(2 / 3))


def test_counted_by_hand():
    start = ("Fm-3m", 2)
    reference = {
        "a": phases(start, ("R3m", 2), ("R3m", 2), ("Pmmn", 4), start),
        "b": phases(start, ("R3m", 2)),
        "c": phases(start, start),
        "d": phases(start),
        "e": phases(start, ("R3m", 2)),
    }
    candidate = {
        "a": phases(start, ("R3m", 2), ("R3m", 4), ("Cm", 2)),
        "b": phases(start),
        "c": phases(start, ("R3m", 2)),
        "d": phases(start, start),
        "f": phases(start),
    }
    found = score_phases(reference, candidate)
    a = found.per_material["a"]
    assert (a.true_positives, a.false_positives, a.false_negatives) == (["R3m 2"], ["R3m 4", "Cm 2"], ["Pmmn 4"])
    assert (a.precision, a.recall, a.f1) == pytest.approx((1 / 3, 1 / 2, 0.4))
    # b has no candidate phases, c no reference phases, d neither
    assert (found.per_material["b"].precision, found.per_material["b"].recall) == (None, 0.0)
    assert (found.per_material["c"].precision, found.per_material["c"].recall) == (0.0, None)
    assert (found.per_material["d"].precision, found.per_material["d"].f1) == (None, None)
    assert (found.n_precision, found.n_recall) == (2, 2)
    assert found.precision == pytest.approx((1 / 3 + 0) / 2)
    assert found.recall == pytest.approx((1 / 2 + 0) / 2)
    assert found.f1 == pytest.approx(2 * (1 / 6) * (1 / 4) / (1 / 6 + 1 / 4))
    assert (found.only_in_reference, found.only_in_candidate) == (["e"], ["f"])


def test_nothing_found_scores_zero_or_nothing():
    start = ("Fm-3m", 2)
    missed = score_phases({"a": phases(start, ("R3m", 2))}, {"a": phases(start, ("Cm", 2))})
    assert (missed.precision, missed.recall, missed.f1) == (0, 0, 0)
    stable = score_phases({"a": phases(start)}, {"a": phases(start)})
    assert (stable.precision, stable.recall, stable.f1) == (None, None, None)


def test_sides_that_do_not_belong_together():
    one = {"a": phases(("Fm-3m", 2))}
    with pytest.raises(MismatchError, match="No material is in both: a and b"):
        score_phases(one, {"b": one["a"]})
    with pytest.raises(MismatchError, match="Material a: The reference started from Fm-3m 2"):
        score_phases(one, {"a": phases(("Fm-3m", 4))})


def test_settings_and_spellings_of_a_symbol_are_one_group():
    assert {space_group_number(s) for s in ("P2_1/c", "P21/c", "P2_1/a", "P 1 2_1/c 1")} == {14}
    assert {space_group_number(s) for s in ("Pnma", "Pbnm", "Pmnb")} == {62}
    assert (space_group_number("Cmca"), space_group_number("Cmce"), space_group_number("P2bar")) == (64, 64, None)
    # against pymatgen's own table, in every symbol both know
    from pymatgen.symmetry.groups import SYMM_DATA

    for symbol, number in ((s, d["int_number"]) for s, d in SYMM_DATA["space_group_encoding"].items()):
        assert space_group_number(symbol.split(":")[0]) in (number, None)
    assert len(set(_numbers().values())) == 230


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no materials"),
        ("GeTe: [Fm-3m, 2]", "phases.yaml: GeTe: Input should be a valid dictionary"),
        ("GeTe: {initial: [Fm-3m, 2]}", "phases.yaml: GeTe.final: Field required"),
        (
            "GeTe: {initial: [Fm-3m, 2], finals: [], final: []}",
            "phases.yaml: GeTe.finals: Extra inputs are not permitted",
        ),
        ("GeTe: {initial: [Fm-3m, 2], final: }", "phases.yaml: GeTe.final: Input should be a valid list"),
        ("GeTe: {initial: [Fm-3m], final: []}", r"phases.yaml: GeTe.initial: \['Fm-3m'\] is not"),
        ("GeTe: {initial: [Fm-3m, 2], final: [[R3m, 2], [R3x, 2]]}", "GeTe.final.2: 'R3x' is no space group"),
        ("GeTe: {initial: [Fm-3m, 2], final: [[R3m, 0]]}", "GeTe.final.1: 0 is no number of atoms"),
        ("GeTe: {initial: [Fm-3m, 2], final: [[R3m, yes]]}", "True is no number"),
        ("A: {initial: [P1, 1], final: []}\nA: {initial: [P1, 1], final: []}", "A is given twice"),
        ("? [a]\n: b", "no text"),
        ("NO: {initial: [P1, 1], final: []}", "no text"),
        ("GeTe: {initial: [Fm-3m, 2", "no valid YAML"),
    ],
)
def test_bad_files_are_named(text, words, tmp_path):
    (tmp_path / "phases.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_phase_file(tmp_path / "phases.yaml")
    assert "phases.yaml" in caught.value.message
    with pytest.raises(InputError, match="cannot be read"):
        read_phase_file(tmp_path / "none.yaml")


def document():
    def phase(symbol, number, count, energy=0.0):
        return Phase(
            space_group=symbol, space_group_number=number, n_atoms_primitive=count, energy_difference_ev_per_atom=energy
        )

    return TransitionDoc(
        formula="GeTe",
        method="m",
        initial=phase("Fm-3m", 225, 2),
        modes=[],
        phases=[phase("R3m", 160, 2, -0.02), phase("P4/nmm", 129, 4, -0.001)],
        manifest=Manifest(),
    )


def test_transition_documents_are_read_as_yaml_of_the_same_phases_is(tmp_path):
    content = "{initial: [Fm-3m, 2], final: [[R3m, 2], [P4/nmm, 4]]}"
    (tmp_path / "found.yaml").write_text(f"mp-2612: {content}\n1: {content}\n")
    expected = phases(("Fm-3m", 2), ("R3m", 2), ("P4/nmm", 4))
    assert read_phase_file(tmp_path / "found.yaml") == {"mp-2612": expected, "1": expected}
    (tmp_path / "one.json").write_text(document().model_dump_json())
    assert read_phase_file(tmp_path / "one.json") == {"GeTe": expected}
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_phase_file(tmp_path / "one.json")
    (tmp_path / "one.json").write_text('{"formula": "GeTe", "initial": 1, "modes": [], "phases": []}')
    with pytest.raises(InputError, match=r"one.json: .*initial: Input should be a valid dictionary"):
        read_phase_file(tmp_path / "one.json")
