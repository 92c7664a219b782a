"""References in the arguments of jobs are found where jobflow finds them, and renamed like their JSON."""

import json

import pytest
from jobflow import Flow, OutputReference, job
from jobflow.core.reference import find_and_get_references
from jobflow.utils.find import contains_flow_or_job
from monty.json import MontyEncoder
from pymatgen.core import Lattice, Structure

from phonosmith.core.references import UUID, holds_job, references_in, rename, renamed_in
from phonosmith.reference.documents import Frame
from phonosmith.reference.jobs import LabelMaker


@job
def add(a, b):
    return a + b


FIRST = add(1, 2)
CRYSTAL = Structure(Lattice.cubic(3.0), ["Cu"], [[0, 0, 0]])
FRAME = Frame(symbols=["Cu"], positions=[(0, 0, 0)], cell=[(3, 0, 0), (0, 3, 0), (0, 0, 3)])
VALUES = {
    "scalars": [1, 2.5, "text", None, True],
    "output": FIRST.output,
    "deep": {"a": [FIRST.output.energy, (FIRST.output[3].forces, 2)], "b": CRYSTAL},
    "as JSON": {"x": json.loads(json.dumps(FIRST.output.energy, cls=MontyEncoder))},
    "in a document": FRAME.model_copy(update={"info": {"energy": FIRST.output.energy}}),
    "in a maker": LabelMaker(minimum={"train": FIRST.output}),
    "a job": [CRYSTAL, {"inner": FIRST}],
    "a flow": Flow([add(3, 4)]),
    "a plain uuid": [FIRST.uuid, f"job {FIRST.uuid}"],
    "documents": [FRAME, CRYSTAL],
}


@pytest.mark.parametrize("name", VALUES)
def test_the_same_is_found_and_renamed_as_in_json(name):
    value = VALUES[name]
    assert holds_job(value) == contains_flow_or_job(value)
    assert set(references_in(value)) == set(find_and_get_references(value))
    if holds_job(value):
        return
    plain = json.dumps(value, cls=MontyEncoder)
    other = add(1, 2).uuid
    made = renamed_in(value, {FIRST.uuid: other})
    assert json.loads(json.dumps(made, cls=MontyEncoder)) == json.loads(rename(plain, {FIRST.uuid: other}))
    assert json.dumps(value, cls=MontyEncoder) == plain
    assert (FIRST.uuid in plain) == bool(UUID.search(plain))


def test_what_names_no_job_stays_the_same_object():
    kept = [CRYSTAL, FRAME, LabelMaker()]
    made = renamed_in({"kept": kept, "ref": OutputReference("a" * 8)}, {FIRST.uuid: "b"})
    assert all(one is other for one, other in zip(made["kept"], kept, strict=True))
