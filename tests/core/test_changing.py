"""What is changed in a flow reaches documents and Makers that hold others, and arguments however they were given."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from jobflow import Job, Maker
from monty.json import MontyDecoder

import phonosmith
from phonosmith.core.changing import HoldingDocument, HoldingMaker, job
from phonosmith.core.errors import ConfigurationError


@dataclass
class Inner(Maker):
    name: str = "inner"
    number: int = 1


@dataclass
class Outer(HoldingMaker):
    name: str = "outer"
    number: int = 1
    inner: Inner = field(default_factory=Inner)


class Holder(HoldingDocument, arbitrary_types_allowed=True):
    inner: Inner


@job
def add(first, second=0, holder=None):
    return first + second


def test_a_maker_changes_what_it_holds():
    made = Outer().update_kwargs({"number": 2}, class_filter=Inner)
    assert (made.number, made.inner.number) == (1, 2)
    both = Outer().update_kwargs({"number": 3})
    assert (both.number, both.inner.number) == (3, 3)
    assert Outer().update_kwargs({"number": 3}, name_filter="other") == Outer()
    alone = Outer().update_kwargs({"number": 3}, nested=False)
    assert (alone.number, alone.inner.number) == (3, 1)


def test_a_job_changes_what_its_arguments_hold():
    made = add(1, holder=Holder(inner=Inner()))
    made.update_maker_kwargs({"number": 5}, class_filter=Inner)
    assert made.function_kwargs["holder"].inner.number == 5
    made.update_maker_kwargs({"number": 6}, class_filter=Inner, nested=False)
    assert made.function_kwargs["holder"].inner.number == 5


def test_arguments_by_place_and_by_name():
    made = add(1, second=2)
    made.update_kwargs({"first": 5})
    assert (made.function_args, made.function_kwargs) == ((5,), {"second": 2})
    made.update_kwargs({"_set": {"second": 7}}, dict_mod=True)
    assert made.function(*made.function_args, **made.function_kwargs) == 12
    with pytest.raises(ConfigurationError, match="Did you mean second"):
        made.update_kwargs({"secnd": 1})


def test_stores_and_queues_see_a_job_of_jobflow():
    kept = add(1).as_dict()
    assert (kept["@module"], kept["@class"]) == ("jobflow.core.job", "Job")
    assert type(MontyDecoder().process_decoded(kept)) is Job


def test_every_job_of_the_package_is_made_so():
    plain = re.compile(r"^from jobflow import .*\bjob\b", re.MULTILINE)
    source = Path(phonosmith.__file__).parent
    found = {path.name for path in source.rglob("*.py") if plain.search(path.read_text(encoding="utf-8"))}
    # the trivial job that doctor sends to workers
    assert found == {"probing.py"}
