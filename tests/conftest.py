"""Fixtures every test may use; threads are pinned before any numerical library is imported."""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
# many tests ask for bits, and the sums of a GPU are not ordered: what is left open is done on the CPU
os.environ["PHONOSMITH_DEVICE"] = "cpu"
# read when a GPU is first used, by whichever test that is
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import sys
from pathlib import Path

import pytest
from hypothesis import settings

# processes that tests start find ``helpers`` too
_TESTS = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_TESTS, os.environ.get("PYTHONPATH")]))

# continuous integration judges a change by the same examples every time; developers' runs keep looking for new ones
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    """Give every test its own home, settings and artefact store."""
    home = tmp_path_factory.mktemp("home")
    for name in [key for key in os.environ if key.startswith("PHONOSMITH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PHONOSMITH_HOME", str(home / "phonosmith"))
    monkeypatch.setenv("PHONOSMITH_CONFIG_FILE", str(home / "none.yaml"))
    monkeypatch.setenv("PHONOSMITH_DEVICE", "cpu")
    from phonosmith.settings import get_settings

    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def shared_data() -> Path | None:
    """Return the folder of real DFT data if this checkout has one beside it (PHONOSMITH_TEST_DATA overrides)."""
    named = _DATA_OVERRIDE
    candidates = [Path(named)] if named else [Path(__file__).resolve().parents[2] / "shared"]
    return next((path for path in candidates if (path / "data").is_dir()), None)


_DATA_OVERRIDE = os.environ.get("PHONOSMITH_TEST_DATA", "")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with ``data`` and ``models``; skip where it is absent."""
    folder = shared_data()
    if folder is None:
        pytest.skip("real DFT data not present (set PHONOSMITH_TEST_DATA to the folder that holds data/ and models/)")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread():
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
