"""The fixture users import, for its own tests."""

from phonosmith.testing.fixtures import vasp_standin  # noqa: F401
