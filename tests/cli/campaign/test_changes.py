"""A finished campaign that is asked for something else, or that lost something: what runs again, and what does not."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.core.artefacts import default_artefacts
from phonosmith.engines.store.sealed import COPY
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.settings import get_settings

CAMPAIGN = """\
name: tiny
materials: [{structure: "embedded:Si", name: si}]
foundations: [embedded]
strategies: [transfer]
n_train: [2, 4]
cells: [primitive]
seeds: [0]
engine: {name: forcefield, potential: embedded-reference}
sampling: {max_steps: 10, n_select: 2}
training: {epochs: 1}
min_length: 6.0
mesh: 4
evaluate: [phonons]
"""


class Campaign:
    """A campaign file and its folder; ``run`` says which jobs ran."""

    def __init__(self, folder):
        self.file, self.out = folder / "tiny.yaml", folder / "out"
        self.text = CAMPAIGN
        self.attempts = {}

    def call(self, *arguments):
        result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        return result.exit_code, json.loads(result.stdout)

    def run(self, **changes):
        """Run with some lines of the file replaced; return the answer and the names of jobs that were executed."""
        lines = [line for line in self.text.splitlines() if line.partition(":")[0] not in changes]
        self.text = "\n".join([*lines, *(f"{key}: {value}" for key, value in changes.items())]) + "\n"
        self.file.write_text(self.text)
        code, answer = self.call("run", self.file, "--out", self.out, "--workers", 1)
        assert (code, answer["ok"]) == (0, True), answer
        return answer, self.executed(answer)

    def executed(self, answer):
        """Return the jobs that did work since the last time, by name; those that handed on a result did none."""
        with sqlite3.connect(self.out / "run" / "run.sqlite") as raw:
            rows = raw.execute("SELECT uuid, idx, name, folder FROM jobs WHERE state = 'done'").fetchall()
        now = {
            (uuid, index): (name, folder and sum(1 for _ in self.copies(folder))) for uuid, index, name, folder in rows
        }
        new = [key for key in now if now[key] != self.attempts.get(key)]
        self.attempts = now
        reused = {key for key in new if "reused" in (self.document(key)["metadata"] or {})}
        assert len(reused) == answer["jobs_reused"]
        names = Counter(now[key][0] for key in new if key not in reused)
        assert names.total() == answer["jobs_run"]
        return names

    def copies(self, folder):
        return Path(folder).parent.glob(f"{Path(folder).name}*")

    @contextmanager
    def store(self):
        store = open_embedded_jobstore(self.out / "store.sqlite")
        yield store
        store.close()

    def document(self, key):
        with self.store() as store:
            return store.query_one({"uuid": key[0], "index": key[1]}, load=True)

    def potentials(self, answer):
        return {(e["strategy"], e["n_train"]): e["potential"] for m in answer["materials"] for e in m["strategies"]}


@pytest.fixture
def campaign(tmp_path):
    return Campaign(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_only_what_is_new_runs_when_something_else_is_asked(campaign, monkeypatch):
    first, names = campaign.run()
    assert names["train si transfer 2"] == names["train si transfer 4"] == names["report si"] == 1
    two = campaign.potentials(first)

    # a larger training set: its labels and what is made of them; nothing of the smaller ones is trained again
    more, names = campaign.run(n_train="[2, 4, 6]")
    new = {"label si 06", "label si 07", "train si transfer 6", "phonon si transfer 6"}
    cheap = {"label si start", "label si collect", "store_inputs", "audit si", "report si"}
    assert names == Counter([*new, *cheap, "subset si 2", "subset si 4", "subset si 6"])
    assert more["jobs_reused"] == 4  # two trainings and their phonons
    three = campaign.potentials(more)
    assert {key: three[key] for key in two} == two

    # a comment, another order of lines, of sizes and of spelling
    campaign.text = "# for the paper\n" + "\n".join(reversed(campaign.text.splitlines())) + "\n"
    same, names = campaign.run(n_train="[6, 2, 4]", mesh="4  # q-points")
    assert (names, same["materials"]) == (Counter(), more["materials"])

    # a size fewer: what is left was there before
    fewer, names = campaign.run(n_train="[2, 4]")
    assert (names, campaign.potentials(fewer)) == (Counter(), two)
    _, names = campaign.run(n_train="[4, 6]")
    assert set(names) == {"report si"}

    # a strategy, a seed, a material more
    _, names = campaign.run(strategies="[transfer, scratch]")
    assert names == Counter(
        [f"{stage} si scratch {n}" for stage in ("train", "phonon") for n in (4, 6)] + ["report si"]
    )
    _, names = campaign.run(seeds="[0, 1]", strategies="[scratch]")
    trained = [f"{stage} si-s1 scratch {n}" for stage in ("train", "phonon") for n in (4, 6)]
    assert names == Counter([*trained, "report si", "report si-s1", "committee si"])
    _, names = campaign.run(
        seeds="[0]", materials='[{structure: "embedded:Si", name: si}, {structure: "embedded:Ge", name: ge}]'
    )
    assert {name.split()[1] for name in names if name != "store_inputs"} == {"ge"}

    # another name for the same crystal: no label, training or phonons of it are computed again
    _, names = campaign.run(materials='[{structure: "embedded:Si", name: silicon}]')
    assert not [name for name in names if name.startswith(("sample", "label silicon 0", "train", "phonon"))]

    # other limits: the verdicts alone
    campaign.run(materials='[{structure: "embedded:Si", name: si}]')
    for name in ("VERDICT_PHONON_MAE_THZ", "VERDICT_OMEGA_MAX_PERCENT", "VERDICT_THERMAL_PERCENT"):
        monkeypatch.setenv(f"PHONOSMITH_{name}", "99")
    get_settings.cache_clear()
    _, names = campaign.run()
    assert names == Counter(["report si"])
    code, shown = campaign.call("tables", "--store", campaign.out / "store.sqlite", "--campaign", "tiny")
    assert code == 0
    (verdicts,) = [table for key, table in shown["tables"].items() if key == "verdicts"]
    assert verdicts["rows"]
    judged, names = campaign.run(verdict="{phonon_mae_thz: 0.0001}")
    assert names == Counter(["report si"])
    for entry in judged["materials"][0]["strategies"]:
        assert entry["verdict"] == "not fit"
        assert any("exceeds 0.0001 THz" in reason for reason in entry["reasons"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_was_lost_is_found_and_only_that_comes_back(campaign, monkeypatch):
    first, _ = campaign.run()
    models, numbers = campaign.potentials(first), first["materials"]

    def lose(name, *, copy=False):
        """Remove the document of a job from the store, and the copy in its folder."""
        with campaign.store() as store:
            (document,) = store.query({"name": name, "output": {"$ne": None}})
            store.remove_docs({"uuid": document["uuid"]})
        if copy:
            with sqlite3.connect(campaign.out / "run" / "run.sqlite") as raw:
                for (folder,) in raw.execute("SELECT folder FROM jobs WHERE uuid = ?", (document["uuid"],)):
                    (Path(folder) / COPY).unlink()

    def mended(*, repeated=(), restored=0):
        answer, names = campaign.run()
        assert (answer["lost"], Counter(answer["repeated"]), names) == ([], Counter(repeated), Counter(repeated))
        assert len(answer["restored"]) == restored
        assert answer["materials"] == numbers
        code, found = campaign.call("status", "--run", campaign.out, "--deep")
        assert (code, found["deep"]["ok"], found["deep"]["n_unsealed"]) == (0, True, 0)
        return answer

    # the whole store: back from the folders of the jobs, nothing is calculated
    for file in campaign.out.glob("store.sqlite*"):
        file.unlink()
    n_jobs = first["done"]
    mended(restored=n_jobs)

    # one document, then one without its copy: a label and a training; what they are used for is as it was
    lose("phonon si reference")
    mended(restored=1)
    lose("label si 02", copy=True)
    lose("train si transfer 2", copy=True)
    mended(repeated=["label si 02", "train si transfer 2"])

    # a float altered in the store
    with campaign.store() as store:
        document = store.query_one({"name": "phonon si transfer 4"})
        document["output"]["omega_max_thz"] *= 1 + 1e-12
        store.docs_store.update([document], key=["uuid", "index"])
    code, found = campaign.call("status", "--run", campaign.out, "--deep")
    assert code == 1
    (altered,) = found["deep"]["altered"]
    assert (altered["job"], altered["fields"]) == ("phonon si transfer 4", ["omega_max_thz"])
    mended(restored=1)

    # a model altered, byte by byte the same length; then one that is gone
    backend = default_artefacts().backend
    path = backend.path(models["transfer", 4])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, found = campaign.call("status", "--run", campaign.out, "--deep")
    (damaged,) = found["deep"]["artefacts"]
    assert (code, damaged["sha256"], damaged["problem"]) == (1, models["transfer", 4], "altered")
    mended(repeated=["train si transfer 4"])
    path.unlink()
    mended(repeated=["train si transfer 4"])

    # another artefact store by mistake: said, and nothing is made again
    monkeypatch.setenv("PHONOSMITH_ARTEFACTS", str(campaign.out / "elsewhere"))
    get_settings.cache_clear()
    code, answer = campaign.call("run", campaign.file, "--out", campaign.out)
    assert code == 2
    assert str(backend.root) in answer["error"]
    monkeypatch.delenv("PHONOSMITH_ARTEFACTS")
    get_settings.cache_clear()

    # all artefacts: made again by the jobs that made them; labels are in the store and stay
    shutil.rmtree(backend.root)
    answer, names = campaign.run()
    assert (answer["lost"], answer["materials"]) == ([], numbers)
    assert names
    assert not [name for name in names if name.startswith(("label si 0", "report"))]
    assert campaign.call("status", "--run", campaign.out, "--deep")[0] == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_another_file_under_the_same_path_is_another_foundation(campaign, tmp_path):
    from phonosmith.potentials.embedded import foundation_bytes

    model = tmp_path / "start.safetensors"
    model.write_bytes(foundation_bytes())
    first, _ = campaign.run(foundations="[start.safetensors]", n_train="[2]")
    same, names = campaign.run()
    assert (names, same["materials"]) == (Counter(), first["materials"])
    trained = default_artefacts().get_bytes(campaign.potentials(first)["transfer", 2])
    model.write_bytes(trained)
    other, names = campaign.run()
    # phonons of the new foundation are known: it was trained here
    assert {"sample si primitive", "train si transfer", "report si"} <= set(names)
    assert not [name for name in names if name.endswith("reference")]
    (before,), (after,) = first["materials"], other["materials"]
    assert after["foundation"]["potential"] == campaign.potentials(first)["transfer", 2]
    assert after["foundation"]["potential"] != before["foundation"]["potential"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_while_something_else_is_asked_it_ends_as_if_never_killed(campaign, tmp_path):
    first, _ = campaign.run(n_train="[2]")
    before = campaign.potentials(first)
    campaign.file.write_text(campaign.text.replace("n_train: [2]", "n_train: [2, 4]"))
    command = [sys.executable, "-m", "phonosmith.cli.main", "run", str(campaign.file), "--workers", "1", "--json"]

    def working_on(stage):
        with closing(sqlite3.connect(campaign.out / "run" / "run.sqlite", timeout=30)) as raw:
            query = "SELECT count(*) FROM jobs WHERE state = 'running' AND name LIKE ?"
            return raw.execute(query, (f"{stage}%",)).fetchone()[0]

    for stage in ("audit", "train", "report"):
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen(
                [*command, "--out", campaign.out], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 300
        while not working_on(stage):
            if process.poll() is not None:
                break  # the stage was too short to be seen
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    code, last = campaign.call("run", campaign.file, "--out", campaign.out, "--workers", 1)
    assert (code, last["ok"]) == (0, True)
    after = campaign.potentials(last)
    # the same model by another name: with several sizes the size is said
    assert after["transfer", 2] == before["transfer", 2]
    code, found = campaign.call("status", "--run", campaign.out, "--deep")
    assert (code, found["deep"]["ok"]) == (0, True)
    whole = Campaign(tmp_path / "whole")
    whole.out.parent.mkdir()
    uncut, _ = whole.run(n_train="[2, 4]")
    assert uncut["materials"] == last["materials"]
