"""How far materials are, from the names of jobs in a store of any kind."""

from helpers.synthetic import finished_jobs, store_reports, synthetic_reports
from phonosmith.analysis.status import owner, read_status
from phonosmith.analysis.tables import campaign_tables
from phonosmith.core.failures import FailedJob, keep_failures, read_failures

NONE = dict.fromkeys(("done", "failed", "missing", "running", "waiting", "pending"), 0)


def test_stages_of_a_half_finished_campaign(job_store):
    ends = ["sample {} large", "label {} 00", "label {} 01", "audit {}", "phonon {} reference", "train {} delta"]
    finished_jobs(job_store, [end.format("si") for end in ends])
    finished_jobs(job_store, [end.format("ge") for end in ends[:3]])
    finished_jobs(job_store, ["label si start", "label si collect", "phonon displacement 3/7"])
    # a replaced job leaves a document without output
    job_store.update({"uuid": "r", "index": 1, "name": "train ge delta", "output": None})
    found = read_status(job_store)
    assert sorted(found.materials) == ["ge", "si"]
    silicon, germanium = found.materials["si"].as_dict(), found.materials["ge"].as_dict()
    assert list(silicon["stages"]) == ["sample", "label", "audit", "train", "phonon"]
    assert silicon["stages"]["label"] == NONE | {"done": 2}
    assert silicon["missing"] == []
    assert germanium["stages"]["label"]["done"] == 2
    assert germanium["missing"] == ["audit ge", "phonon ge reference", "train ge delta"]
    assert germanium["stages"]["train"] == NONE | {"missing": 1}
    assert found.n_jobs == 12


def test_metadata_say_what_a_job_is_where_names_do_not(job_store):
    finished_jobs(job_store, ["train si-s3 delta"], stage="train", material="si", variant="si-s3")
    finished_jobs(job_store, ["sample si large"], stage="sample", material="si")
    finished_jobs(job_store, ["label si start", "store_inputs"], stage="label", step="start", material="si")
    finished_jobs(job_store, ["tuned germanium"], stage="train", material="ge")
    found = read_status(job_store).materials
    assert sorted(found) == ["ge", "si"]
    assert {name: stage.done for name, stage in found["si"].stages.items()} == {"sample": 1, "train": 1}
    assert found["ge"].stages["train"].done == 1


def test_numbers_of_displaced_cells_are_not_expected_of_other_materials(job_store):
    finished_jobs(job_store, ["sample si large", "displace si reference 1/2", "displace si reference 2/2"])
    finished_jobs(job_store, ["sample ge large", "train si delta", "train si delta part 2"])
    found = read_status(job_store).materials
    assert found["ge"].missing == ["train ge delta"]
    assert found["si"].stages["displace"].done == 2


def test_refused_labels_count_as_failed_until_one_of_the_name_succeeds(job_store):
    finished_jobs(job_store, ["sample si large", "label si 00"])
    finished_jobs(job_store, ["label si 01", "label si 02"], refused=True)
    finished_jobs(job_store, ["label si 02"], second=True)
    material = read_status(job_store).materials["si"]
    assert material.failed == {"label si 01": "refused"}
    assert (material.stages["label"].done, material.stages["label"].failed) == (2, 1)


def test_why_jobs_failed_is_told_until_they_succeed(job_store):
    finished_jobs(job_store, ["sample si large"], stage="sample", material="si")
    finished_jobs(job_store, ["elastic relax 3/24"], stage="elastic relax", material="ge")
    of_si = {"stage": "elastic relax", "material": "si"}
    failed = [
        FailedJob.of("elastic relax 3/24", "u1", 1, "LabelError: scf: it did not converge", of_si),
        FailedJob.of("label si collect", "u2", 1, "too few", {"stage": "label", "step": "collect", "material": "si"}),
    ]
    keep_failures(job_store, failed)
    found = read_status(job_store)
    # a calculation of the same name succeeded for another material
    assert found.materials["si"].failed == {one.job: one.error for one in failed}
    assert found.materials["si"].stages["elastic relax"].failed == 1
    assert (found.n_jobs, found.materials["ge"].failed) == (2, {})
    assert job_store.query_one({"uuid": "u1"}) is None
    assert list(campaign_tables(job_store).notes[:2]) == [
        "elastic relax 3/24 (si) failed: LabelError: scf: it did not converge",
        "label si collect (si) failed: too few",
    ]
    keep_failures(job_store, failed[1:], settled=[("u1", 1), ("u2", 1)])
    assert list(read_failures(job_store)) == [("u2", 1)]
    finished_jobs(job_store, ["label si collect"], stage="label", step="collect", material="si")
    assert read_status(job_store).materials["si"].failed == {}


def test_reports_end_a_material_and_tell_what_failed(job_store):
    store_reports(job_store, synthetic_reports(2, ("transfer", "delta"), failed={"TiO2": ("delta",)}, seeds=2))
    finished_jobs(job_store, ["sample si large"])
    found = read_status(job_store).materials
    assert sorted(found) == ["bi2te3", "si", "tio2"]
    assert (found["tio2"].n_reports, found["tio2"].missing) == (2, [])
    assert found["tio2"].failed == {"train tio2 delta": "no result, see the report"}
    assert found["bi2te3"].n_fit >= 1
    assert found["si"].n_reports == 0


def test_owner_is_the_longest_name_word_by_word():
    keys = ["si", "sio2", "si small"]
    assert owner("train si small delta", keys) == "si small"
    assert owner("train sio2 delta", keys) == "sio2"
    assert owner("train sic delta", keys) is None
    assert owner("train", keys) is None
