import pytest
from ase.build import bulk
from jobflow import run_locally
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.analysis.documents import MaterialReport
from phonosmith.analysis.queries import read_results
from phonosmith.analysis.status import read_status
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError, PotentialError
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.fastpath import choose_phonon_supercell
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.evaluation.relax import relax_atoms
from phonosmith.evaluation.thermal.kappa import conductivity_error, evaluate_kappa
from phonosmith.evaluation.thermal.qha import evaluate_qha
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.flows.reference import check_cells
from phonosmith.flows.routing import kind_of
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import load, resolve
from phonosmith.reference.datasets.dataset import get_dataset
from phonosmith.reference.engines import make_engine
from phonosmith.report.page.html import write_report

TINY = {
    "sampling": {"cell": "primitive", "max_steps": 20},
    "training": {"epochs": 2},
    "min_length": 6.0,
    "curvature_min_length": 3.0,
    "mesh": 6,
    "evaluate": ("phonons",),
}


def maker(engine=None, **changes):
    engine = engine or make_engine("forcefield", potential="embedded-reference")
    return FineTuneMaterialMaker(engine=engine, **({"strategies": ("transfer", "delta+pft")} | TINY | changes))


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
    stages = {"sample", "label", "audit", "subset", "phonon", "train", "curvature", "report"}
    assert {name.split()[0] for name in names} <= stages
    assert "train si delta+pft" in names


def test_the_reference_relaxes_the_crystal_before_anything_is_calculated_for_it():
    """VASP relaxes twice (atomate2's maker); every other job takes the relaxed crystal, none the one given."""
    engine = make_engine("vasp", rehearsal=True, potential="embedded-reference")
    evaluate = ("phonons", "elastic", "eos", "transitions", "forgetting")
    flow = maker(engine=engine, relax=True, evaluate=evaluate).make(silicon(), resolve("embedded"))
    members = [member for member, _ in flow.iterflow()]
    by_name = {member.name: member for member in members}
    assert {"relax si 1", "relax si 2"} <= set(by_name)
    last = by_name["relax si 2"].uuid
    given = [
        member.name
        for member in members
        if any(isinstance(value, Structure) for value in [*member.function_args, *member.function_kwargs.values()])
    ]
    assert given == ["relax si 1"]
    for name in ("sample si primitive", "phonon si foundation", "elastic si foundation", "report si"):
        assert last in by_name[name].input_uuids, name


@pytest.mark.slow
def test_a_stretched_crystal_is_relaxed_first(tmp_path):
    """The volume sampled at, displaced and reported is the reference's own, whatever was given."""
    stretched = silicon()
    stretched.scale_lattice(1.06 * stretched.volume)
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    flow = maker(strategies=("transfer",), relax=True, mode="production", n_checks=1, check_min_length=5.0).make(
        stretched, resolve("embedded")
    )
    run_locally(flow, store=store, log=False, create_folders=True, root_dir=tmp_path, raise_immediately=True)
    answer = store.get_output(flow.jobs[-1].uuid, load=True)
    report = MaterialReport.model_validate({k: v for k, v in answer.items() if not k.startswith("@")})
    assert report.failed == []
    minimum = relax_atoms(silicon().to_ase_atoms(msonable=False), load("embedded-reference")).atoms.get_volume()
    assert Structure.from_dict(answer["structure"]).volume == pytest.approx(minimum, rel=1e-3)
    assert report.strategies[0].check is not None


@pytest.mark.parametrize("nac", [True, False])
def test_born_charges_are_calculated_where_they_are_asked_for(nac):
    """Once, for the reference's phonons; those that supervise curvature need none."""
    flow = maker(make_engine("vasp", rehearsal=True), nac=nac).make(silicon(), resolve("embedded"))
    charges = [job.name for job, _ in flow.iterflow() if job.name.startswith("dielectric")]
    assert charges == (["dielectric si reference"] if nac else [])


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
        ({"evaluate": ("phonon",)}, "phonon"),
        ({"n_train": (0,)}, "0 structures"),
        ({"training": {"lora": {"rank": 2}}}, "lora"),
        ({"engine": None}, "no engine"),
        ({"nac": True}, "the engine forcefield computes none"),
        ({"nac": True, "mode": "production"}, "production mode"),
    ],
)
def test_what_cannot_work_is_said_before_any_job_exists(changes, message):
    engine = make_engine("forcefield", potential="embedded-reference")
    with pytest.raises(ConfigurationError, match=message):
        FineTuneMaterialMaker(**({"engine": engine} | changes)).make(silicon(), resolve("embedded"))


def test_a_foundation_that_lacks_an_element():
    with pytest.raises(PotentialError, match="Au"):
        maker().make(AseAtomsAdaptor.get_structure(bulk("Au")), resolve("embedded"))


def run(made, folder):
    folder.mkdir(exist_ok=True)
    store = open_embedded_jobstore(folder / "store.sqlite")
    store.connect()
    run_locally(made, store=store, log=False, create_folders=True, root_dir=folder)
    found = store.get_output(made.output.uuid, load=True)
    return MaterialReport.model_validate({k: v for k, v in found.items() if not k.startswith("@")}), store


def test_a_pack_is_one_job_on_the_gpu_and_trainings_keep_theirs():
    """What trains is one job; those of single trainings have their names, and follow it to collect."""
    chosen = {"strategies": ("transfer", "delta+pft"), "n_train": (4, 8)}
    single, packed = (maker(pack=pack, **chosen).make(silicon(), resolve("embedded")) for pack in ("none", "material"))
    jobs = {job.name: job for job, _ in packed.iterflow()}
    assert set(jobs) == {job.name for job, _ in single.iterflow()} | {"train si pack"}
    on_gpu = [name for name, job in jobs.items() if kind_of(name, job.metadata) == "training"]
    assert on_gpu == ["train si pack"]
    makers, inputs = jobs["train si pack"].function_args
    assert [(one.strategy, one.seed) for one in makers] == [("transfer", 0)] * 2 + [("delta+pft", 0)] * 2
    assert [one.force_constants is not None for one in inputs] == [False, False, True, True]
    parents = {job.name: set(before) for job, before in packed.iterflow()}
    for strategy in chosen["strategies"]:
        for size in chosen["n_train"]:
            assert jobs["train si pack"].uuid in parents[f"train si {strategy} {size}"]
    with pytest.raises(ConfigurationError, match="pack: 'all' is not known"):
        maker(pack="all")


@pytest.mark.slow
def test_reports_of_a_pack_are_those_of_single_jobs(tmp_path):
    chosen = {"strategies": ("transfer", "delta"), "training": {"epochs": 2, "device": "cpu"}}
    reports = {}
    for pack in ("none", "material"):
        flow = maker(pack=pack, **chosen).make(silicon(), resolve("embedded"))
        reports[pack], store = run(flow, tmp_path / pack)
    single, packed = reports["none"], reports["material"]
    assert packed.failed == []
    assert [one.potential.sha256 for one in packed.strategies] == [one.potential.sha256 for one in single.strategies]
    assert packed.best == single.best
    assert packed.gain == single.gain
    assert packed.foundation.valid_force_mae == single.foundation.valid_force_mae
    names = [[cost.name for cost in report.costs] for report in (single, packed)]
    assert names[0] == names[1]
    assert read_status(store).materials["si"].stages["train"].done == 2


@pytest.mark.slow
def test_sizes_share_everything_but_training_and_its_results(tmp_path):
    chosen = {"training": {"epochs": 2, "multihead": {"replay_size": 12}}, "evaluate": ("phonons", "elastic", "eos")}
    made = maker(strategies=("delta", "multihead"), n_train=(12, 4), **chosen)
    flow = made.make(silicon(), resolve("embedded"))
    names = [job.name for job, _ in flow.iterflow()]
    assert len(set(names)) == len(names)
    assert {"train si delta 4", "train si delta 12", "phonon si multihead 4", "eos si reference"} <= set(names)
    report, store = run(flow, tmp_path / "run")
    found = {(entry.strategy, entry.n_train): entry for entry in report.strategies}
    assert set(found) == {(name, n) for name in ("delta", "multihead") for n in (4, 12)}
    # only what the largest set needs is labelled: 12 of 16 training frames, and the validation frames
    labelled = store.docs_store.count({"name": {"$regex": r"^label si \d"}})
    assert labelled == 12 + report.labels.valid.n_frames
    # nested: the smaller set is the beginning of the larger
    small, large = (get_dataset(report.labels.subsets[n]) for n in ("4", "12"))
    assert all((a.positions == b.positions).all() for a, b in zip(small, large, strict=False))
    # the change between sizes is the phonon MAE of one against the other, by the comparison every other number uses
    documents = [store.query_one({"name": f"phonon si delta {n}"}, load=True)["output"] for n in (4, 12)]
    models = [harmonic_from_document(PhononDoc.model_validate(document), default_artefacts()) for document in documents]
    assert found["delta", 12].phonon_change_thz == compare_phonons(models[0], models[1], 6).mae_thz
    assert found["delta", 4].phonon_change_thz is None
    for entry in [report.foundation, *report.strategies]:
        assert entry.elastic.fit.moduli.bulk_vrh > 0
        assert entry.eos.fit.bulk_modulus == pytest.approx(entry.elastic.fit.moduli.bulk_vrh, rel=0.1)
    assert report.reference_result.elastic is not None
    stages = {cost.stage for cost in report.costs}
    assert stages == {"sample", "label", "train", "phonon", "elastic", "eos"}
    assert all(cost.wall_seconds > 0 and cost.cores >= 1 for cost in report.costs)
    assert report.sampling.selected_energies[0][0] > report.sampling.selected_energies[0][-1] > 0
    assert len(report.model_dump_json()) < 200_000


@pytest.mark.slow
def test_forgetting_and_transitions_are_in_the_report(tmp_path):
    """The other evaluations, on a crystal whose modes are real: there is nothing to follow, and that is said."""
    made = maker(strategies=("transfer",), evaluate=("phonons", "forgetting", "transitions"))
    report, _ = run(made.make(silicon(), resolve("embedded")), tmp_path / "run")
    (entry,) = report.strategies
    assert report.notes == []
    assert entry.forgetting.potential_sha256 == entry.potential.sha256
    assert entry.forgetting.foundation_sha256 == report.foundation.potential.sha256
    assert all(one.truth == "reference" for one in entry.forgetting.sets)
    assert report.foundation.forgetting is None
    found = [report.reference_result.transitions, report.foundation.transitions, entry.transitions]
    assert [document.modes for document in found] == [[], [], []]
    assert {cost.stage for cost in report.costs} >= {"follow", "forgetting"}


@pytest.mark.slow
def test_expansion_and_conductivity_are_in_report_table_and_page(tmp_path, monkeypatch):
    """The reference computes them job by job, like a program; its numbers are those of its fast path without a flow."""
    pytest.importorskip("phono3py")
    for module in ("flows.parts", "evaluation.phonons.jobs"):
        monkeypatch.setattr(f"phonosmith.{module}.engine_potential", lambda _: None)
    store = open_embedded_jobstore(tmp_path / "store.sqlite")
    store.connect()
    thermal = {"evaluate": ("phonons", "qha", "kappa"), "kappa_min_length": 3.0, "kappa_mesh": 5}
    flow = maker(strategies=("transfer",), **thermal).make(silicon(), resolve("embedded"))
    names = {job.name for job, _ in flow.iterflow()}
    assert {"qha si reference", "kappa si reference start", "qha si foundation", "kappa si transfer"} <= names
    run_locally(flow, store=store, log=False, create_folders=True, root_dir=tmp_path, raise_immediately=True)
    answer = store.get_output(flow.jobs[-1].uuid, load=True)
    report = MaterialReport.model_validate({k: v for k, v in answer.items() if not k.startswith("@")})
    assert report.missing == []
    truth, found = report.reference_result, report.foundation
    crystal = Structure.from_dict(answer["structure"])
    matrix = choose_phonon_supercell(silicon(), 6.0, "cubic")
    direct = evaluate_qha(crystal, load("embedded-reference"), matrix)
    assert truth.qha.room.thermal_expansion_per_k == pytest.approx(direct.room.thermal_expansion_per_k, rel=1e-4)
    alone = evaluate_kappa(
        crystal, load("embedded-reference"), choose_phonon_supercell(silicon(), 3.0, "cubic"), mesh=5
    )
    assert truth.kappa.result.kappa == pytest.approx(alone.result.kappa, rel=1e-4)
    assert truth.kappa.srme is None
    assert found.kappa.srme == pytest.approx(conductivity_error(found.kappa.result, alone.result), rel=1e-3)
    assert 0 < found.kappa.srme < 2
    assert {cost.stage for cost in report.costs} >= {"qha", "kappa"}
    row = read_results(store).potentials.set_index("strategy").loc["foundation"]
    assert row["kappa_srme"] == found.kappa.srme
    expansion = [side.qha.room.thermal_expansion_per_k for side in (found, truth)]
    assert row["thermal_expansion_error_percent"] == pytest.approx(100 * (expansion[0] / expansion[1] - 1))
    write_report([report], tmp_path / "report.html")
    assert "Thermal conductivity of Si at 300 K, mesh 5³" in (tmp_path / "report.html").read_text()


def test_a_program_computes_expansion_and_conductivity_with_the_same_charges_on_every_side():
    asked = {"evaluate": ("phonons", "qha", "kappa"), "nac": True, "strategies": ("transfer",)}
    flow = maker(make_engine("vasp", rehearsal=True), **asked).make(silicon(), resolve("embedded"))
    jobs = {job.name: job for job, _ in flow.iterflow()}
    assert {"static si reference qha 0.98", "phonon si reference qha 1.02", "cost si qha reference"} <= set(jobs)
    for name in ("qha si foundation", "kappa si transfer", "kappa si reference start", "qha si reference"):
        assert jobs["phonon si reference"].uuid in jobs[name].input_uuids, name


def test_without_reference_phonons_potentials_alone_have_expansion_and_conductivity():
    asked = {
        "evaluate": ("phonons", "qha", "kappa"),
        "mode": "production",
        "strategies": ("transfer",),
        "n_train": (4,),
    }
    flow = maker(make_engine("vasp", rehearsal=True), **asked).make(silicon(), resolve("embedded"))
    names = {job.name for job, _ in flow.iterflow() if job.name.startswith(("qha", "kappa"))}
    assert names == {f"{kind} si {side}" for kind in ("qha", "kappa") for side in ("foundation", "transfer")}


@pytest.mark.slow
def test_production_pays_for_no_reference_phonons(tmp_path):
    made = maker(strategies=("delta",), mode="production", n_checks=1, check_min_length=5.0)
    flow = made.make(silicon(), resolve("embedded"))
    names = [job.name for job, _ in flow.iterflow()]
    assert not [name for name in names if "reference" in name]
    assert {"train si delta 8", "train si delta 16", "label si check 00"} <= set(names)
    report, _ = run(flow, tmp_path / "run")
    assert report.mode == "production"
    assert report.gain is None
    assert report.reference_result.phonons is None
    small, large = sorted(report.strategies, key=lambda entry: entry.n_train)
    assert large.phonons is None
    assert large.phonon_change_thz > 0
    assert any("convergence is unknown" in reason for reason in small.verdict.reasons)
    # the check is the plain force difference in the displaced cell
    assert large.check.n_cells == 1
    (cell,) = check_cells(silicon(), choose_phonon_supercell(silicon(), 5.0), 1)
    ours = load(large.potential).evaluate([cell])[0].forces
    theirs = load("embedded-reference").evaluate([cell])[0].forces
    assert large.check.force_mae == pytest.approx(1000 * abs(ours - theirs).mean(), rel=1e-6)


@pytest.mark.slow
def test_a_failed_optional_evaluation_is_named_and_the_report_survives(tmp_path):
    flow = maker(strategies=("transfer",), evaluate=("phonons", "eos")).make(silicon(), resolve("embedded"))
    (broken,) = [job for job, _ in flow.iterflow() if job.name == "eos si transfer"]
    broken.function_kwargs["factors"] = [1.0]  # no equation of state goes through one point
    report, _ = run(flow, tmp_path / "run")
    assert [entry.strategy for entry in report.strategies] == ["transfer"]
    assert report.strategies[0].eos is None
    assert report.foundation.eos is not None
    assert report.notes == ["eos of transfer: no result, its job failed"]


@pytest.mark.slow
def test_a_potential_that_relaxes_into_something_else_is_not_fit_and_the_report_survives(tmp_path):
    """A bad potential may collapse the crystal: its phonons belong to another structure."""
    flow = maker(strategies=("transfer", "freeze1")).make(silicon(), resolve("embedded"))
    (broken,) = [job for job, _ in flow.iterflow() if job.name == "phonon si freeze1"]
    small = silicon()
    small.scale_lattice(0.55 * small.volume)
    broken.function_args = (small, *broken.function_args[1:])
    broken.function_kwargs["relax"] = False
    report, _ = run(flow, tmp_path / "run")
    assert {entry.strategy for entry in report.strategies} == {"transfer", "freeze1"}
    assert report.best == "transfer"
    (collapsed,) = [entry for entry in report.strategies if entry.strategy == "freeze1"]
    assert (collapsed.phonons, collapsed.verdict.fit) == (None, False)
    assert collapsed.summary is not None
    assert "cannot be compared" in collapsed.verdict.reasons[0]
    assert [note.startswith("phonons of freeze1: ") for note in report.notes] == [True]
    write_report([report], tmp_path / "report.html")
    assert "cannot be mapped" in (tmp_path / "report.html").read_text()
