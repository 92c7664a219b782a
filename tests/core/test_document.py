import json

from jobflow import JobConfig, JobStore, OnMissing, job
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pydantic import ConfigDict, Field

from phonosmith.core.document import Awaited, Document


class Point(Document):
    model_config = ConfigDict(extra="forbid", frozen=True)
    x: float


class Points(Document):
    first: Awaited[Point] | None
    others: list[Awaited[Point] | None] = Field(default_factory=list)


@job(output_schema=Point)
def make(x):
    return Point(x=x)


@job(output_schema=Points, config=JobConfig(on_missing_references=OnMissing.NONE))
def gather(points: Points):
    assert all(isinstance(point, Point | None) for point in [points.first, *points.others])
    return points


def test_class_names_beside_the_fields_are_no_fields():
    document = {"@module": "gone.from.here", "@class": "Points", "first": {"@class": "Point", "x": 1.0}}
    assert Points.model_validate(document) == Points(first=Point(x=1.0))
    assert Point.model_json_schema()["properties"]["x"]["type"] == "number"
    assert Point.model_json_schema() is Point.model_json_schema()


def test_references_inside_a_document_are_resolved_before_the_job_runs():
    store = JobStore(MemoryStore())
    store.connect()
    made, lost = make(2.0), make(3.0)
    # as jobs travel: through JSON
    asked = gather(Points(first=made.output, others=[made.output, lost.output, Point(x=1.0)]))
    assert {reference.uuid for reference in asked.input_references} == {made.uuid, lost.uuid}
    asked = MontyDecoder().decode(json.dumps(asked, cls=MontyEncoder))
    made.run(store)
    points = asked.run(store).output
    assert points == Points(first=Point(x=2.0), others=[Point(x=2.0), None, Point(x=1.0)])
