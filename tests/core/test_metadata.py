"""What jobs say about themselves, and that saying it changes nothing they are known by."""

import pytest
from jobflow import Flow, JobStore, Response, job
from maggma.stores import MemoryStore

from phonosmith.core.identity import fix_identities
from phonosmith.core.metadata import describe, inherit, stage_of, step_of


@job
def number(x):
    return x


@job
def start():
    return Response(replace=inherit(Flow([number(1), number(2)], output=None)))


def test_what_is_said_already_stays_and_nothing_else_may_be_said():
    first, second = number(1), number(2)
    describe(first, stage="train", strategy="delta")
    describe(Flow([first, second]), stage="audit", material="si", n_train=None, strategy="")
    assert first.metadata == {"stage": "train", "strategy": "delta", "material": "si"}
    assert second.metadata == {"stage": "audit", "material": "si"}
    with pytest.raises(ValueError, match="matrial"):
        describe(first, matrial="si")


def test_jobs_made_on_the_way_belong_to_the_material_of_their_maker():
    store = JobStore(MemoryStore())
    store.connect()
    maker = describe(start(), stage="label", step="start", material="si", variant="si-small")
    made = [member.metadata for member, _ in maker.run(store).replace.iterflow()]
    assert made == [{"stage": "label", "material": "si", "variant": "si-small"}] * 2


def test_a_description_is_no_part_of_what_a_job_is():
    plain, told = Flow([number(1)]), Flow([describe(number(1), stage="train", material="si")])
    identities = [[member.uuid for member, _ in fix_identities(flow).iterflow()] for flow in (plain, told)]
    assert identities[0] == identities[1]
    (kept,) = [member for member, _ in fix_identities(told).iterflow()]
    assert kept.metadata == {"stage": "train", "material": "si"}


def test_jobs_from_before_are_read_by_their_names():
    assert stage_of("train si delta", {}) == "train"
    assert stage_of("anything", {"stage": "label"}) == "label"
    assert [step_of(name, None) for name in ("label si start", "label si collect", "label si 07", "phonon start")] == [
        "start",
        "collect",
        "",
        "",
    ]
    assert step_of("label si start", {"stage": "label"}) == ""
