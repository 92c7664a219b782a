import io
import json
import os
import pickle
import subprocess
import sys
import urllib.error
from dataclasses import replace

import numpy as np
import pytest

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import (
    ArtefactError,
    ConfigurationError,
    InputError,
    PhonosmithError,
    PotentialError,
    UntrustedModelError,
)
from phonosmith.core.hashing import digest_bytes
from phonosmith.core.userfiles import INDEX, TRUSTED, edited_user_json, read_user_json, user_file
from phonosmith.potentials import foreign
from phonosmith.potentials.architecture import Architecture, architecture, find_foundation, register_architecture
from phonosmith.potentials.registry import add, list_named, load, remember, resolve


class Boom:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def ours(mace_bytes, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(mace_bytes)
    return path


def publish(monkeypatch, path, name="MACE-MP-0b3"):
    """Let a file be the published one of a foundation."""
    owner, _ = find_foundation(name)
    sha256 = digest_bytes(path.read_bytes())
    changed = tuple(replace(one, sha256=sha256) if one.name == name else one for one in owner.foundations)
    monkeypatch.setattr(type(owner), "foundations", changed)


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 700


def test_own_file_by_path_name_and_digest(ours, mace_bytes):
    ref = add(ours, name="si-delta")
    assert ref.sha256 == digest_bytes(mace_bytes)
    assert ref.elements == ["C", "Si"]
    for name in ("si-delta", ref.sha256, ref.sha256[:8], ref.sha256[:8].upper()):
        assert resolve(name) == ref
    assert resolve(str(ours)).sha256 == ref.sha256
    assert ("si-delta", str(ours)) in [(one.name, source) for one, source in list_named()]


def test_registered_model_is_found_by_digest_without_a_name(mace_bytes):
    sha256 = default_artefacts().put_bytes(mace_bytes, kind="model").sha256
    default_artefacts().put_bytes(b"something else")
    ref = resolve(sha256[:10])
    assert (ref.sha256, ref.name, ref.cutoff) == (sha256, sha256[:12], 4.5)


def test_load_gives_the_precision_asked_for(ours):
    ref = add(ours)
    assert load(ref).dtype == "float64"
    assert load("mine", dtype="float32").dtype == "float32"
    with pytest.raises(InputError, match="'half' is not a precision"):
        load(ref, dtype="half")


def test_foreign_pickle_needs_trust_once(pickled, mace_bytes, monkeypatch):
    with pytest.raises(UntrustedModelError, match="can run any code") as error:
        resolve(str(pickled))
    assert "--trust" in error.value.advice
    assert digest_bytes(pickled.read_bytes())[:16] in error.value.message
    ref = resolve(str(pickled), trust=True)
    assert ref.sha256 == digest_bytes(mace_bytes), "weights and architecture, not the pickle, are the identity"
    assert ref.parents == [digest_bytes(pickled.read_bytes())]
    assert read_user_json(TRUSTED)[ref.parents[0]]["source"] == str(pickled)
    # known from now on: not even opened again
    monkeypatch.setattr(foreign, "open_foreign", lambda *_, **__: pytest.fail("opened again"))
    assert resolve(str(pickled)).sha256 == ref.sha256


def test_trust_is_for_the_content_not_the_name(pickled, tmp_path):
    copy = tmp_path / "copy.model"
    copy.write_bytes(pickled.read_bytes())
    resolve(str(copy), trust=True)
    copy.write_bytes(pickled.read_bytes() + b"\0")
    with pytest.raises(UntrustedModelError):
        resolve(str(copy))


def test_pinned_digest_is_opened_without_asking(pickled, monkeypatch):
    publish(monkeypatch, pickled)
    assert resolve(str(pickled)).elements == ["C", "Si"]


def test_malicious_pickle_is_not_run_and_its_wish_is_named(tmp_path):
    import torch

    mark = tmp_path / "mark"
    path = tmp_path / "evil.model"
    torch.save(Boom(mark), path)
    with pytest.raises(UntrustedModelError, match="system") as error:
        resolve(str(path))
    assert not mark.exists()
    assert one_line(error)
    # the very same file does run when opened: the test can fail
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("kind", ["garbage", "truncated", "empty", "text"])
def test_corrupt_pickle_is_one_line_and_not_trusted(pickled, tmp_path, kind):
    path = tmp_path / "broken.model"
    whole = pickled.read_bytes()
    path.write_bytes({"garbage": b"\x80\x02garbage", "truncated": whole[:5000], "empty": b"", "text": b"hello"}[kind])
    with pytest.raises((PotentialError, InputError), match=r"not a readable model file|is empty") as error:
        resolve(str(path), trust=True)
    assert one_line(error)
    assert error.value.advice
    assert read_user_json(TRUSTED) == {}


@pytest.mark.parametrize("kind", ["garbage", "cut short", "text"])
def test_what_is_no_model_file_is_refused_outright(pickled, tmp_path, kind):
    path = tmp_path / "broken.model"
    whole = pickled.read_bytes()
    path.write_bytes({"garbage": b"\x93\x02garbage", "cut short": whole[: len(whole) // 2], "text": b"hello"}[kind])
    with pytest.raises(PotentialError, match="not a readable model file") as error:
        resolve(str(path))
    assert one_line(error)
    assert "--trust" not in str(error.value)


def test_a_file_cut_after_an_archive_inside_it_is_cut_short(tmp_path):
    import io
    import zipfile

    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("code", "x" * 100)
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("archive/data.pkl", "y" * 100)
        archive.writestr("archive/compiled", inner.getvalue())
        archive.writestr("archive/weights", "z" * 100)
    data = outer.getvalue()
    path = tmp_path / "cut.model"
    path.write_bytes(data[: data.index(inner.getvalue()) + len(inner.getvalue())])
    assert zipfile.is_zipfile(path)
    with pytest.raises(PotentialError, match="cut short"):
        resolve(str(path))


def test_the_advised_command_can_be_typed(pickled, tmp_path):
    copy = tmp_path / "my model.model"
    copy.write_bytes(pickled.read_bytes())
    with pytest.raises(UntrustedModelError) as error:
        resolve(str(copy))
    assert f"models add '{copy}' --trust" in error.value.advice


def test_wrong_architecture_is_one_line(tmp_path):
    import torch

    for thing, told in ((torch.nn.Linear(2, 2), "not a MACE energy model"), ({"a": 1}, "holds a dict, not a model")):
        path = tmp_path / "other.model"
        torch.save(thing, path)
        with pytest.raises(PotentialError, match=told) as error:
            resolve(str(path), trust=True)
        assert one_line(error)
        assert str(path) in error.value.message


def test_class_that_is_not_installed(tmp_path):
    path = tmp_path / "alien.model"
    path.write_bytes(pickle.dumps(np.float64, protocol=2).replace(b"numpy", b"numpx"))
    with pytest.raises(PotentialError, match=r"numpx|not a readable") as error:
        resolve(str(path), trust=True)
    assert one_line(error)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/nowhere/x.model", "no model file"),
        ("x.safetensors", "no model file"),
        ("mace-mp-0b4", "Did you mean MACE-MP-0b3"),
        ("abcdef0123", "No potential in the artefact store begins with abcdef0123"),
        ("quite unknown", "no potential called"),
        ("98ab", "six digits or more"),
    ],
)
def test_unknown_names(name, told):
    with pytest.raises(PhonosmithError, match=told) as error:
        resolve(name)
    assert one_line(error)


def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        add(tmp_path, name="x")


def test_missing_and_altered_artefacts_are_refused(ours):
    ref = add(ours)
    path = default_artefacts().backend.path(ref.sha256)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match="was altered"):
        load(ref)
    path.unlink()
    with pytest.raises(ArtefactError, match="is not in"):
        load(ref)
    with pytest.raises(ArtefactError, match=r"its artefact .* is not in the store"):
        resolve("mine")


def test_reference_that_contradicts_itself(ours):
    ref = add(ours)
    with pytest.raises(ArtefactError, match="contradicts itself"):
        load(ref.model_copy(update={"sha256": "0" * 64}))


def test_names_are_checked_and_not_stolen(ours, make_mace, tmp_path):
    from phonosmith.potentials.mace.files import pack_model

    add(ours, name="mine")
    add(ours, name="mine")
    changed = make_mace()
    changed.readouts[0].linear.weight.data[0] += 0.1
    other = tmp_path / "other.safetensors"
    other.write_bytes(pack_model(changed))
    with pytest.raises(InputError, match="already stands for"):
        add(other, name="mine")
    for bad in ("", "a b", "../x", "embedded", "deadbeef00", "x" * 81):
        with pytest.raises(InputError):
            add(ours, name=bad)


def test_embedded_reference_is_a_potential():
    from ase.build import bulk

    ref = resolve("embedded-reference")
    assert (ref.architecture, ref.name) == ("empirical", "embedded-reference")
    assert resolve(ref.sha256[:9]).sha256 == ref.sha256
    silicon = bulk("Si", a=5.43)
    assert load("embedded-reference").evaluate([silicon])[0].energy < -8


def test_embedded_foundation_is_a_potential():
    from ase.build import bulk

    ref = resolve("embedded")
    assert (ref.architecture, ref.name, ref.dtype) == ("mace", "embedded", "float64")
    assert "Si" in ref.elements
    assert np.isfinite(load(ref).evaluate([bulk("Si", a=5.43)])[0].energy)


@pytest.fixture
def mace_cache(tmp_path, monkeypatch):
    """Give mace an empty cache and no network."""
    import mace.calculators.foundations_models as foundations_models

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(foundations_models, "_urlretrieve_with_timeout", offline)
    return foundations_models


def test_offline_foundation_says_where_to_put_the_file(mace_cache, tmp_path, capsys):
    for name in ("MACE-MP-0b3", "mace-mp-0b3", "medium-0b3", "MACE-MPA-0", "MACE-OMAT-0"):
        with pytest.raises(PotentialError, match="cannot be downloaded") as error:
            resolve(name)
        assert str(tmp_path / "cache" / "mace") in error.value.advice
        assert "https://github.com/ACEsuit" in error.value.advice
        assert one_line(error)
    assert capsys.readouterr().out == ""


def test_foundation_is_downloaded_once_and_checked(mace_cache, pickled, monkeypatch, tmp_path):
    """The download is mace's; its content must be the published one, then the name needs neither file nor network."""
    fetched = []

    def download(url, filename, **_):
        fetched.append(url)
        with open(filename, "wb") as handle:
            handle.write(pickled.read_bytes())
        return filename, ""

    monkeypatch.setattr(mace_cache, "_urlretrieve_with_timeout", download)
    with pytest.raises(PotentialError, match="is not the published MACE-MP-0b3"):
        resolve("MACE-MP-0b3")
    publish(monkeypatch, pickled)
    ref = resolve("mp-0b3")
    assert (ref.name, ref.elements, len(fetched)) == ("MACE-MP-0b3", ["C", "Si"], 1)
    for file in (tmp_path / "cache" / "mace").iterdir():
        file.write_bytes(b"altered afterwards")
    assert resolve("MACE-MP-0b3") == ref
    assert resolve("medium-0b3") == ref
    assert len(fetched) == 1
    # artefact lost: the file is looked at again, and refused because it changed
    default_artefacts().backend.path(ref.sha256).unlink()
    with pytest.raises(PotentialError, match="is not the published"):
        resolve("MACE-MP-0b3")


def test_a_published_name_is_for_the_published_file(mace_cache, ours, pickled, monkeypatch):
    for name in ("MACE-MP-0b3", "mace-mp-0b3", "medium-0b3"):
        with pytest.raises(InputError, match="the published MACE-MP-0b3"):
            add(ours, name=name)
        with pytest.raises(InputError, match="the published MACE-MP-0b3"):
            add(pickled, name=name, trust=True)
    publish(monkeypatch, pickled)
    # a copy brought by hand to a machine without network
    ref = add(pickled, name="MACE-MP-0b3")
    assert resolve("MACE-MP-0b3") == resolve("mp-0b3") == ref


def test_another_architecture_can_be_plugged_in(ours, monkeypatch):
    known = {"mace": architecture("mace")}
    monkeypatch.setattr("phonosmith.potentials.architecture._registered", lambda: known)
    ref = add(ours)
    other = ref.model_copy(update={"architecture": "another"})
    with pytest.raises(PotentialError, match="No adapter for architecture 'another'"):
        load(other)
    seen = {}

    class Another(Architecture):
        name = "another"

        def recognises(self, data):
            return data == ours.read_bytes()

        def bring(self, data, name, source, *, trust):
            raise AssertionError("not asked for here")

        def load(self, data, **options):
            seen.update(options, data=data)
            return "loaded"

    register_architecture(Another())
    assert load(other, dtype="float32", device="cpu") == "loaded"
    assert seen == {"data": ours.read_bytes(), "dtype": "float32", "device": "cpu", "name": "mine"}
    with pytest.raises(PotentialError, match="already an architecture"):
        register_architecture(Another())


def test_several_writers_lose_no_name():
    script = (
        "import sys; from phonosmith.core.userfiles import edited_user_json\n"
        "for number in range(int(sys.argv[1]), int(sys.argv[1]) + 25):\n"
        "    with edited_user_json('models.json') as index: index[f'model-{number}'] = number\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(start)]) for start in (0, 25, 50, 75)]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert sorted(read_user_json(INDEX).values()) == list(range(100))


def test_damaged_user_files_are_named(ours):
    path = user_file(INDEX)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{not json")
    with pytest.raises(ConfigurationError, match=r"models\.json is not valid JSON"):
        resolve("mine")
    path.write_text(json.dumps({"mine": {"ref": {"sha256": "x"}}}))
    with pytest.raises(PotentialError, match="entry mine of the model index is damaged"):
        resolve("mine")


def test_failed_edit_keeps_the_old_file(ours):
    remember(add(ours))
    before = user_file(INDEX).read_bytes()
    with pytest.raises(RuntimeError), edited_user_json(INDEX) as index:
        index.clear()
        raise RuntimeError
    assert user_file(INDEX).read_bytes() == before


def test_state_dictionary_is_told_apart(make_mace, tmp_path):
    import torch

    buffer = io.BytesIO()
    torch.save(make_mace().state_dict(), buffer)
    path = tmp_path / "weights.pt"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(PotentialError, match="not a model") as error:
        resolve(str(path), trust=True)
    assert "state dictionary" in error.value.advice
