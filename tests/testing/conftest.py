from helpers.fixtures import vasp_standin  # noqa: F401
