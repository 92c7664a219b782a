"""Identities from content: what is renamed in place is what renaming the whole flow's JSON would give."""

import json
from collections import Counter

from jobflow import Flow, job
from monty.json import MontyDecoder, MontyEncoder

from phonosmith.core.document import Awaited, Document, schemas_once
from phonosmith.core.identity import fix_identities, has_content_identity, identified
from phonosmith.core.references import UUID


class Given(Document):
    value: Awaited[float]
    others: list[Awaited[float]]


@job
def one(value):
    return value


@job
def use(given, uuid, again=None):
    return given


def flow():
    first, second = one(1.0), one(1.0)  # equal in everything
    inner = Flow([first], output=first.output)
    given = Given(value=first.output, others=[second.output])
    # a reference in a document, in a dictionary, and a bare uuid
    last = use(given, second.uuid, again={"deep": [inner.output, second.output]})
    return Flow([inner, second, last], output=[inner.output, last.output])


def plain(flow):
    return json.loads(json.dumps(flow, cls=MontyEncoder))


def test_every_mention_of_a_job_is_renamed():
    made = flow()
    before, text = [member.uuid for member, _ in made.iterflow()], json.dumps(made, cls=MontyEncoder)
    ordered = identified(made, Counter())
    renamed = dict(zip(before, [member.uuid for member, _ in ordered], strict=True))
    assert len(set(renamed.values())) == 3
    assert all(map(has_content_identity, renamed.values()))
    expected = json.loads(UUID.sub(lambda found: renamed.get(found[0], found[0]), text))
    assert plain(made) == expected
    assert plain(MontyDecoder().decode(json.dumps(made, cls=MontyEncoder))) == expected
    assert {member.uuid: set(parents) for member, parents in made.iterflow()} == {
        member.uuid: set(parents) for member, parents in ordered
    }


def test_the_same_content_gives_the_same_identities_again_and_again():
    uuids = [member.uuid for member, _ in fix_identities(flow()).iterflow()]
    made = fix_identities(flow())
    assert [member.uuid for member, _ in made.iterflow()] == uuids
    assert [member.uuid for member, _ in fix_identities(made).iterflow()] == uuids


def test_equal_jobs_of_several_flows_are_told_apart():
    counted: Counter[str] = Counter()
    found = [member.uuid for _ in range(2) for member, _ in identified(Flow([one(3.0)]), counted)]
    assert len(set(found)) == 2


def test_schemas_of_other_packages_are_made_once_inside_and_only_there():
    from pydantic import BaseModel

    class Theirs(BaseModel):
        x: float

    expected = Theirs.model_json_schema()
    assert Theirs.model_json_schema() is not expected
    with schemas_once():
        assert Theirs.model_json_schema() is Theirs.model_json_schema()
        assert Theirs.model_json_schema() == expected
    assert Theirs.model_json_schema() is not Theirs.model_json_schema()
