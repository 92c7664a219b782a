from __future__ import annotations

import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.hashing import digest_atoms
from phonosmith.sampling.documents import SamplingDoc
from phonosmith.sampling.jobs import SamplingMaker
from phonosmith.structures.extxyz import parse_frames


def silicon() -> Structure:
    return Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])


def test_job_keeps_frames_in_the_artefact_store(tmp_path):
    job = SamplingMaker(settings={"cell": "small", "max_steps": 40}, seed=3).make(silicon(), "embedded-reference")
    assert job.name == "sample si small"
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    responses = run_locally(job, store=store, root_dir=tmp_path, create_folders=True, ensure_success=True)
    document = responses[job.uuid][1].output
    assert isinstance(document, SamplingDoc)
    assert document.potential.name == "embedded-reference"
    assert document.manifest.seed == 3
    train = parse_frames(default_artefacts().get_bytes(document.train).decode(), "sampled")
    assert [digest_atoms(atoms) for atoms in train] == document.train_digests
    assert len(train) == document.n_train == 16
    # what another process reads from the database
    stored = SamplingDoc.model_validate(store.get_output(job.uuid))
    assert stored.valid == document.valid
    assert stored.supercell == document.supercell


def test_maker_refuses_unknown_settings_when_the_flow_is_built():
    with pytest.raises(ValidationError, match="rattel"):
        SamplingMaker(settings={"rattel": 1}).make(silicon(), "embedded-reference")


def test_maker_accepts_a_reference_to_a_relaxed_structure():
    from jobflow import job

    @job
    def relax():
        return silicon()

    relaxed = relax()
    made = SamplingMaker(settings={"cell": "large"}).make(relaxed.output, "embedded-reference")
    assert made.name == "sample large"
    assert relaxed.uuid in made.input_uuids
