import json
import re

import pytest
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.core.artefacts import default_artefacts


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """Return a plain mace file with a tiny random model of silicon."""
    import numpy as np

    from phonosmith.potentials.mace.imports import import_mace

    import_mace()
    import torch
    from e3nn import o3
    from mace import modules
    from mace.tools.torch_tools import default_dtype

    torch.manual_seed(1)
    with default_dtype(torch.float64):
        model = modules.ScaleShiftMACE(
            r_max=4.0,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=1,
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=1,
            hidden_irreps=o3.Irreps("2x0e"),
            MLP_irreps=o3.Irreps("2x0e"),
            atomic_energies=np.array([[-1.0]]),
            avg_num_neighbors=8.0,
            atomic_numbers=[14],
            correlation=1,
            gate=torch.nn.functional.silu,
            radial_MLP=[4],
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
    path = tmp_path_factory.mktemp("models") / "silicon.model"
    torch.save(model, path)
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["models", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def as_json(*arguments, code=0):
    """Run with --json: standard output must be exactly one JSON object."""
    return json.loads(run(*arguments, "--json", code=code).stdout)


def test_the_life_of_a_model(model_file, tmp_path):
    refused = as_json("add", model_file, code=2)
    assert "can run any code" in refused["error"]
    assert "--trust" in refused["advice"]

    added = as_json("add", model_file, "--name", "si-test", "--trust")
    assert (added["name"], added["elements"], added["architecture"]) == ("si-test", ["Si"], "mace")

    listed = as_json("list")
    assert added["sha256"] in [model["sha256"] for model in listed["models"]]
    assert {"MACE-MP-0b3", "MACE-MPA-0", "MACE-OMAT-0"} <= {entry["name"] for entry in listed["foundations"]}

    for reference in ("si-test", added["sha256"][:10], model_file):
        shown = as_json("show", reference)
        assert shown["sha256"] == added["sha256"]
        assert shown["description"]["r_max"] == 4.0

    target = tmp_path / "out.model"
    exported = as_json("export", "si-test", target)
    assert exported["file"] == str(target)
    assert "exists" in as_json("export", "si-test", target, code=2)["error"]
    as_json("export", "si-test", target, "--force")
    again = as_json("add", target, "--name", "again", "--trust")
    assert again["sha256"] == added["sha256"]

    own = tmp_path / "out.safetensors"
    as_json("export", "si-test", own)
    assert as_json("add", own, "--name", "third")["sha256"] == added["sha256"]

    checked = as_json("verify")
    assert checked["ok"]
    assert {"si-test", "again", "third"} <= {model["name"] for model in checked["models"]}

    path = default_artefacts().backend.path(added["sha256"])
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    broken = as_json("verify", code=1)
    assert not broken["ok"]
    assert "altered" in next(model for model in broken["models"] if model["name"] == "si-test")["message"]


def test_words_for_people(model_file):
    assert "Added silicon" in run("add", model_file, "--trust").output
    assert "silicon" in run("list").output
    assert "radial_MLP" in run("show", "silicon").output
    assert "ok " in run("verify").output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "nowhere.model"), "no model file nowhere.model"),
        (("show", "nothing-like-it"), "no potential called"),
        (("show", "abcdef12"), "begins with abcdef12"),
        (("export", "nothing-like-it", "x.model"), "no potential called"),
        (("export", "embedded-reference", "/nowhere/x.json"), "no folder"),
    ],
)
def test_bad_input_is_one_line_with_advice(arguments, told):
    result = run(*arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if line]
    assert told in lines[0]
    assert lines[0].startswith("Error: ")
    assert lines[1].strip().startswith("->")
    assert len(lines) == 2
    assert told in as_json(*arguments, code=2)["error"]


def test_empirical_potential_is_exported_as_its_file(tmp_path):
    target = tmp_path / "reference.json"
    exported = as_json("export", "embedded-reference", target)
    assert exported["file_sha256"] == exported["potential"]["sha256"]
    assert as_json("add", target, "--name", "copy")["sha256"] == exported["file_sha256"]
    assert as_json("show", "copy")["architecture"] == "empirical"


def altered(data, change):
    """Return an artefact with a changed header, its tensors untouched."""
    from phonosmith.potentials.container import METADATA_KEY

    length = int.from_bytes(data[:8], "little")
    content = json.loads(data[8 : 8 + length])
    header = json.loads(content["__metadata__"][METADATA_KEY])
    change(header)
    content["__metadata__"][METADATA_KEY] = json.dumps(header)
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.slow
def test_a_file_that_does_not_predict_what_it_was_saved_with_is_not_added(model_file, tmp_path):
    run("add", model_file, "--name", "si-good", "--trust")
    good = tmp_path / "good.safetensors"
    as_json("export", "si-good", good)
    data = good.read_bytes()
    weights = bytearray(data)
    # the last weight: atomic energies, scale and everything before it stay
    weights[-6] ^= 0x40
    shifted = altered(data, lambda header: header["probe_energies"][0].__setitem__(0, -5.0))
    cases = {
        "cut": (data[:-40], "damaged"),
        "weight": (bytes(weights), "predicts other energies|cannot be"),
        "shifted": (shifted, "predicts other energies than it was saved with"),
        "bare": (altered(data, lambda header: header.pop("description")), "cannot be rebuilt"),
        "mute": (altered(data, lambda header: header.pop("probe_energies")), "cannot be rebuilt"),
        "odd": (altered(data, lambda header: header.update(cutoff="far")), "header says cutoff = 'far'|not a readable"),
        "alien": (altered(data, lambda header: header.update(architecture="alien")), "No adapter"),
        "near": (altered(data, lambda header: header.update(cutoff=3.0)), "contradicts itself"),
        "elements": (altered(data, lambda header: header.update(atomic_numbers=[6])), "contradicts itself"),
        "wider": (altered(data, lambda header: header["description"].update(hidden_irreps="4x0e")), "cannot be"),
    }
    for name, (content, words) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        assert re.search(words, as_json("add", path, code=2)["error"]), name
    names = {model["name"] for model in as_json("list")["models"]}
    assert not names & cases.keys()
    # the same bytes are known here and need no second look; another name for them is fine
    assert as_json("add", good, "--name", "si-again")["sha256"] == as_json("show", "si-good")["sha256"]


def test_a_digest_that_was_given_is_compared(model_file, tmp_path):
    from phonosmith.core.hashing import digest_file

    digest = digest_file(model_file)
    for wrong in ("0" * 64, digest[:5], "nonsense", digest[:12] + "zz"):
        assert "is not the file you mean" in as_json("add", model_file, "--trust", "--sha256", wrong, code=2)["error"]
    assert as_json("add", model_file, "--name", "si-sure", "--trust", "--sha256", digest[:16])["name"] == "si-sure"


def test_one_broken_model_does_not_hide_the_others(model_file, monkeypatch):
    from phonosmith.core.userfiles import INDEX, edited_user_json

    run("add", model_file, "--name", "si-good", "--trust")
    with edited_user_json(INDEX) as index:
        index["broken"] = {"ref": {"sha256": 3}}
        index["half"] = []
    listed = as_json("list")
    assert listed["damaged"].keys() == {"broken", "half"}
    assert "si-good" in [model["name"] for model in listed["models"]]
    checked = {model["name"]: model for model in as_json("verify", code=1)["models"]}
    assert checked["si-good"]["ok"]
    assert not checked["broken"]["ok"]
    assert "Add the model again" in checked["broken"]["message"]
    from phonosmith.potentials.mace.identify import Mace

    def surprise(*_):
        raise ZeroDivisionError("nobody expected this")

    monkeypatch.setattr(Mace, "probe_difference", surprise)
    checked = {model["name"]: model for model in as_json("verify", code=1)["models"]}
    assert "nobody expected this" in checked["si-good"]["message"]
    assert checked["embedded-reference"]["ok"]
