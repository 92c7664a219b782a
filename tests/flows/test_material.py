import pytest
from ase.build import bulk
from jobflow import run_locally
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.analysis.documents import MaterialReport
from phonosmith.core.errors import ConfigurationError, PotentialError
from phonosmith.engines.sqlite_store import open_embedded_jobstore
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine

TINY = {
    "sampling": {"cell": "primitive", "max_steps": 20},
    "training": {"epochs": 2},
    "min_length": 6.0,
    "curvature_min_length": 3.0,
    "mesh": 6,
}


def maker(**changes):
    engine = make_engine("forcefield", potential="embedded-reference")
    return FineTuneMaterialMaker(engine=engine, strategies=("transfer", "delta+pft"), **(TINY | changes))


def silicon():
    return AseAtomsAdaptor.get_structure(demo_structure("Si"))


def test_one_material_from_crystal_to_verdicts(tmp_path):
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    flow = maker().make(silicon(), resolve("embedded"))
    run_locally(flow, store=store, log=False, create_folders=True, root_dir=tmp_path, raise_immediately=True)
    report = MaterialReport.model_validate(
        {k: v for k, v in store.get_output(flow.jobs[-1].uuid, load=True).items() if not k.startswith("@")}
    )
    assert report.failed == []
    assert {entry.strategy for entry in report.strategies} == {"transfer", "delta+pft"}
    assert report.labels.train.n_frames + report.labels.n_excluded <= 20
    assert report.foundation.phonons.mae_thz > 0
    assert report.best == min(report.strategies, key=lambda entry: entry.phonons.mae_thz).strategy
    shas = {entry.potential.sha256 for entry in [report.foundation, *report.strategies]}
    assert len(shas) == 3
    # no document carries frames or force constants: all but the documents is in the artefact store
    sizes = [len(str(document)) for document in store.docs_store.query()]
    assert max(sizes) < 1_000_000


def test_job_names_begin_with_their_stage_and_are_unique():
    flow = maker().make(silicon(), resolve("embedded"))
    names = [job.name for job, _ in flow.iterflow()]
    assert len(set(names)) == len(names)
    assert {name.split()[0] for name in names} <= {"sample", "label", "audit", "phonon", "train", "curvature", "report"}
    assert "train si delta+pft" in names


def test_making_a_flow_changes_nothing_in_the_maker():
    import copy

    one = maker()
    before = copy.deepcopy(one)
    one.make(silicon(), resolve("embedded"))
    assert one == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ("detla",)}, "detla"),
        ({"training": {"learning": 1}}, "learning"),
        ({"strategies": ("multihead",)}, "replay"),
        ({"engine": None}, "no engine"),
    ],
)
def test_what_cannot_work_is_said_before_any_job_exists(changes, message):
    engine = make_engine("forcefield", potential="embedded-reference")
    with pytest.raises(ConfigurationError, match=message):
        FineTuneMaterialMaker(**({"engine": engine} | changes)).make(silicon(), resolve("embedded"))


def test_a_foundation_that_lacks_an_element():
    with pytest.raises(PotentialError, match="Au"):
        maker().make(AseAtomsAdaptor.get_structure(bulk("Au")), resolve("embedded"))
