"""Every forged VASP output gets the verdict the table of ``docs/faults.md`` promises."""

import pytest

from helpers.forged_outputs import BASES, FORGERIES, judge, make_base


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {name: make_base(name, tmp_path_factory.mktemp(name)) for name in BASES}


@pytest.mark.parametrize("base", BASES)
def test_sound_calculations_pass(base, bases, tmp_path):
    assert judge(bases[base], base, tmp_path) == []


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_a_forged_output_is_refused_for_what_was_forged(forgery, bases, tmp_path):
    codes = judge(forgery.change(bases[forgery.base]), forgery.base, tmp_path)
    assert (forgery.code in codes) if forgery.code else codes == []
    assert forgery.code or forgery.why
