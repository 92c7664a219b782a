"""Every fault through stand-in, custodian, emmet and gate: none becomes a label, a transient one is overcome."""

from pathlib import Path

import pytest

from helpers import forged_sets
from helpers.fault_table import CASES, LABEL, markdown, outcome, output_rows, run_case, set_rows
from phonosmith.testing.standin_faults import FAULTS

FAST = {
    "crash static",
    "nan static",
    "wrongcell static",
    "wrongorder static",
    "walltime static",
    "brmix:1 static",
    "exitcode:1 static x2",
}


def params():
    return [pytest.param(case, id=case.name, marks=() if case.name in FAST else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", params())
def test_outcome_of_a_fault(case, tmp_path):
    record = run_case(case, tmp_path)
    assert case.expected in outcome(record).split(", ")
    assert record.rehearsal or not record.accepted
    if case.fault == "brmix:1":  # the first fix of a fresh handler, whatever ran before in this process
        assert record.corrections[0].tags == ["IMIX"]
    if case.expected == LABEL:
        assert record.energy < 0
        assert case.attempts == 1 or record.attempts == 2
        assert case.attempts > 1 or not case.fault or record.corrections
    else:
        assert record.reasons
        assert all(reason.message for reason in record.reasons)


def test_the_fast_cases_exist():
    assert {case.name for case in CASES} >= FAST


def test_every_fault_of_the_standin_has_a_case():
    covered = {case.fault.partition(":")[0] for case in CASES}
    assert covered >= set(FAULTS) - {"scf-fast"}


def test_the_page_says_what_was_refused():
    from phonosmith.reference.documents import Frame, Reason, refused
    from phonosmith.reference.protocol import ReferenceProtocol

    asked = Frame(symbols=["H"], positions=[(0, 0, 0)], cell=[(3, 0, 0), (0, 3, 0), (0, 0, 3)])
    record = refused(asked, ReferenceProtocol(), "static", "vasp", Reason(code="cell", message="off | by 1"))
    page = markdown([(CASES[0], record)], [])
    assert "| refused | cell: off / by 1 |" in page


PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
QUICK = ("nothing", "forces of other atoms (rolled", "yz and xy", "energy 19 meV")


def test_the_page_lists_every_case_and_its_outcome():
    lines = PAGE.read_text().splitlines()
    for row in output_rows():
        assert row in lines
    for case in CASES:
        (line,) = (
            [
                line
                for line in lines
                if line.startswith(f"| {case.fault or 'none'} |") and f"| {case.calculation} |" in line
            ]
            if not case.wall_time
            else [line for line in lines if "wall-time handler" in line]
        )
        assert ("**label**" in line) if case.expected == LABEL else (f"{case.expected}: " in line)


def test_some_forged_sets_come_out_as_the_page_says():
    kinds = [kind for kind in forged_sets.KINDS if kind.name.startswith(QUICK)]
    assert len(kinds) == len(QUICK)
    assert set(set_rows(kinds)) <= set(PAGE.read_text().splitlines())


@pytest.mark.slow
def test_every_forged_set_comes_out_as_the_page_says():
    assert set(set_rows()) <= set(PAGE.read_text().splitlines())


def test_every_way_to_pass_is_explained():
    """What the audit cannot see in a set has its reason on the page."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and "| passed |" in line and line.count("|") == 9:
            with_foundation = line.split("|")[2:7:2]
            assert all("passed" not in cell for cell in with_foundation) or not line.endswith("| - |")
