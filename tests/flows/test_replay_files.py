"""Replay structures from files: downloaded whole or not at all, drawn evenly, labels kept."""

import hashlib
import json

import numpy as np
import pytest
from ase.build import bulk
from typer.testing import CliRunner

from phonosmith.cli.main import app
from phonosmith.core.errors import InputError
from phonosmith.flows.replay_files import fetch_replay, sample_replay
from phonosmith.structures.extxyz import write_frames
from phonosmith.structures.labels import label_frame, labels_of


@pytest.fixture
def published(tmp_path):
    """Sixty labelled structures, half of them of another element."""
    rng, frames = np.random.default_rng(0), []
    for index in range(60):
        atoms = bulk("Si" if index % 2 else "Ge")
        atoms.rattle(0.05, seed=index)
        frames.append(label_frame(atoms, energy=float(index), forces=rng.normal(size=(2, 3)), stress=np.zeros(6)))
    return write_frames(tmp_path / "published.xyz", frames)


def test_a_sample_keeps_labels_and_is_even(published):
    frames, found = sample_replay(published, size=10, elements=["Si"], seed=1)
    assert (len(frames), found) == (10, 30)
    energies = [labels_of(atoms).energy for atoms in frames]
    assert energies == sorted(energies)
    assert all(energy % 2 == 1 for energy in energies)
    assert all(labels_of(atoms).forces is not None for atoms in frames)
    counts = np.zeros(60)
    for seed in range(300):
        for atoms in sample_replay(published, size=6, elements=[], seed=seed)[0]:
            counts[int(labels_of(atoms).energy)] += 1
    # 30 expected of each; five standard deviations of a binomial are 26
    assert np.abs(counts - 30).max() < 26
    with pytest.raises(InputError, match="no structure of Fe"):
        sample_replay(published, size=3, elements=["Fe"], seed=0)


def test_fetching_is_whole_or_not_at_all(published, tmp_path):
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    out = tmp_path / "here" / "replay.xyz"
    found = fetch_replay(published.as_uri(), out, sha256=digest.upper())
    assert (found.sha256, found.size) == (digest, published.stat().st_size)
    assert out.read_bytes() == published.read_bytes()
    page = tmp_path / "page.html"
    page.write_text("<html>log in</html>")
    cut = tmp_path / "cut.xyz"
    cut.write_text(published.read_text()[:40])
    for source, settings, said in (
        (published.as_uri(), {"sha256": "0" * 64}, "not the file expected"),
        (page.as_uri(), {}, "no number of atoms"),
        (cut.as_uri(), {}, "ends inside a structure"),
        ((tmp_path / "absent").as_uri(), {}, "cannot be downloaded"),
        ("mtrj", {}, "Known: mptrj"),
    ):
        with pytest.raises(InputError, match=said):
            fetch_replay(source, tmp_path / "other" / "replay.xyz", **settings)
    assert list((tmp_path / "other").iterdir()) == []


def test_commands(published, tmp_path):
    out, few = tmp_path / "all.xyz", tmp_path / "few.xyz"
    done = CliRunner().invoke(app, ["replay", "fetch", published.as_uri(), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    done = CliRunner().invoke(app, ["replay", "sample", str(out), "--out", str(few), "--n-frames", "5", "--json"])
    assert json.loads(done.stdout) == {"file": str(few), "n_frames": 5, "n_found": 60}
    done = CliRunner().invoke(app, ["replay", "fetch", "nowhere", "--out", str(out), "--json"])
    assert done.exit_code == 2
    assert "mptrj" in json.loads(done.stdout)["advice"]
