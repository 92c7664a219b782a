"""Every fault through stand-in, custodian, emmet and gate: none becomes a label, a transient one is overcome."""

import pytest

from helpers.fault_table import CASES, LABEL, markdown, outcome, run_case
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
    page = markdown([(CASES[0], record)])
    assert "| refused | cell: off / by 1 |" in page
