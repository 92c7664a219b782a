"""Damaged files: every reader refuses them clearly or reads what is there, and never anything else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attack.mutations import damaged
from attack.readers import READERS, refuses_or_is_right

CALM = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("name", READERS)
def test_the_examples_are_read(name):
    reader = READERS[name]
    if name != "phonon document":  # its artefact is nowhere
        assert all(refuses_or_is_right(reader, seed) for seed in reader.seeds())


def attack(name: str, examples: int) -> None:
    reader = READERS[name]
    seeds = reader.seeds()

    @settings(max_examples=examples, **CALM)
    @given(st.data())
    def once(data: st.DataObject) -> None:
        def draw(below: int) -> int:
            return data.draw(st.integers(0, below - 1))

        refuses_or_is_right(reader, damaged(seeds[draw(len(seeds))], draw))

    once()


@pytest.mark.parametrize("name", READERS)
def test_damage_is_refused_or_harmless(name):
    attack(name, 30)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_much_damage_is_refused_or_harmless(name):
    attack(name, 400)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\x00" * 64,
        b"\xff" * 64,
        b"[" * 100_000,
        b"{" * 100_000,
        b"- " * 50_000,
        b"\x80\x04K\x01.",
        b"PK\x03\x04",
    ],
    ids=["empty", "blank", "zeros", "ones", "brackets", "braces", "dashes", "pickle", "zip"],
)
def test_what_is_something_else_is_refused(name, content):
    assert not refuses_or_is_right(READERS[name], content)
