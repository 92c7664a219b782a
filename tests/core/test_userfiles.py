import json
import subprocess
import sys

import pytest

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.userfiles import KEY, is_signed, sign, user_file


def test_a_signature_holds_for_these_texts_and_this_user_alone(monkeypatch, tmp_path):
    from phonosmith.settings import get_settings

    signature = sign("job", "1", "document")
    assert is_signed(signature, "job", "1", "document")
    # texts are told apart, not only their concatenation
    for other in (("job", "1", "documenT"), ("job1", "", "document"), ("job", "1document"), ()):
        assert not is_signed(signature, *other)
    assert not is_signed("", "job", "1", "document")
    monkeypatch.setenv("PHONOSMITH_HOME", str(tmp_path))
    get_settings.cache_clear()
    assert not is_signed(signature, "job", "1", "document")


def test_processes_that_make_the_key_at_once_agree_and_nobody_else_reads_it():
    code = "from phonosmith.core.userfiles import sign; print(sign('x'))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {process.communicate()[0].strip() for process in started} == {sign("x")}
    path = user_file(KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == [KEY]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"short"), lambda path: path.chmod(0o644)])
def test_a_damaged_or_open_key_is_refused(damage):
    sign("x")
    damage(user_file(KEY))
    # another process reads it again
    code = "from phonosmith.core.userfiles import sign; sign('x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "damaged or open to others" in done.stderr


def test_errors_mask_secrets():
    from phonosmith.core.errors import mask_secrets

    for text, kept in {
        "mongodb://me:hunter2@host:27017/db failed": "mongodb://me:***@host:27017/db failed",
        "mongodb+srv://me:hun@ter2@host": "mongodb+srv://me:***@host",
        '{"password": "hunter2", "port": 3}': '{"password": ***, "port": 3}',
        "MONGO_PASSWORD=hunter2, port=3": "MONGO_PASSWORD=***, port=3",
        "aws_secret_access_key: 'hunter2'": "aws_secret_access_key: ***",
        "https://example.org/a:b and INCAR has KPAR: 2": "https://example.org/a:b and INCAR has KPAR: 2",
    }.items():
        assert str(ConfigurationError(text)) == kept
        assert ConfigurationError("x", text).advice == kept
    store = {"kwargs": [{"Password": "hunter2", "password": None, "n": 1, "uri": "mongodb://a:hunter2@b"}]}
    masked = mask_secrets(store)
    assert "hunter2" not in json.dumps(masked)
    assert masked["kwargs"][0]["n"] == 1
    assert store["kwargs"][0]["Password"] == "hunter2"
