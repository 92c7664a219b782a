"""atomate2's habits: powerups, own input sets and Makers reach every VASP job of a flow, or are refused."""

import gzip
import inspect
import json
from copy import deepcopy
from dataclasses import replace

import pytest
from ase.build import bulk
from atomate2.vasp.flows.elastic import ElasticMaker
from atomate2.vasp.flows.phonons import PhononMaker
from atomate2.vasp.jobs.core import StaticMaker, TightRelaxMaker
from atomate2.vasp.powerups import (
    add_metadata_to_flow,
    update_user_incar_settings,
    update_user_kpoints_settings,
    update_user_potcar_functional,
    update_user_potcar_settings,
    update_vasp_custodian_handlers,
    use_auto_ispin,
)
from atomate2.vasp.sets.core import StaticSetGenerator, TightRelaxSetGenerator
from custodian.vasp.handlers import VaspErrorHandler
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from phonosmith.core.changing import ChangeableJob
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.identity import fix_identities
from phonosmith.flows.campaign import read_campaign
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.potentials.registry import resolve
from phonosmith.reference.documents import ReferenceRecord
from phonosmith.reference.engines import make_engine
from phonosmith.reference.jobs import LabelMaker
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.reference.vasp import makers
from phonosmith.reference.vasp.rehearsal import Rehearsal

SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).get_primitive_structure()
EVERYTHING = ("phonons", "elastic", "eos", "qha", "kappa", "transitions")
PAPER = {
    "GGA": "PE", "LDAU": False, "ENCUT": 450, "EDIFF": 1e-7, "KSPACING": 0.2, "ISMEAR": 0, "SIGMA": 0.02, "ISPIN": 1,
    "ALGO": "Normal", "LMIXTAU": None,
}  # fmt: skip
"""What an atomate2 user overrides to calculate with PBE and nothing else."""


@pytest.fixture(scope="module")
def flow():
    """Everything the reference can be asked for."""
    maker = FineTuneMaterialMaker(
        engine=make_engine("vasp"), evaluate=EVERYTHING, nac=True, relax=True, min_length=8.0, kappa_min_length=6.0
    )
    return maker.make(SILICON, resolve("embedded"))


def identities(flow):
    """Names of jobs by their identity from content."""
    return {job.uuid: job.name for job, _ in fix_identities(deepcopy(flow)).iterflow()}


def text(flow):
    return json.dumps(flow, cls=MontyEncoder)


def round_trip(thing):
    return json.loads(json.dumps(thing, cls=MontyEncoder), cls=MontyDecoder)


def test_a_physical_tag_reaches_every_vasp_job_and_its_identity(flow):
    before, changed = text(flow), update_user_incar_settings(flow, {"ENCUT": 600})
    after = text(changed)
    assert before.count('"encut": 520.0') > 20
    # along imaginary modes too, where the protocol has a cutoff of its own
    assert after.count('"encut": 600.0') == before.count('"encut": 520.0') + before.count('"encut": 400.0')
    assert '"encut": 520.0' not in after
    assert '"ENCUT": 520.0' not in after
    assert '"mode_encut": 400.0' not in after
    assert text(flow) == before
    old, new = identities(flow), identities(changed)
    assert sorted(old.values()) == sorted(new.values())
    same = {name for uuid, name in new.items() if uuid in old}
    assert not {name for name in same if name.split()[0] in ("label", "relax", "phonon", "elastic", "eos", "train")}


def test_the_parallel_layout_reaches_every_vasp_job_and_changes_no_identity(flow):
    changed = update_user_incar_settings(flow, {"NCORE": 4, "KPAR": 2})
    changed = update_vasp_custodian_handlers(changed, (VaspErrorHandler(),))
    # once in each engine and in each Maker, as often as there are protocols beside those that input sets repeat
    n_makers = text(flow).count('"ProtocolVaspMaker"')
    n_engines = text(flow).count('"encut": 520.0') + text(flow).count('"encut": 400.0') - 2 * n_makers
    assert text(changed).count('"NCORE": 4') == n_makers + n_engines
    assert identities(changed) == identities(flow)


@pytest.mark.parametrize(
    ("powerup", "update", "field", "value"),
    [
        (update_user_potcar_settings, {"Si": "Si_sv_GW"}, "potcar_overrides", (("Si", "Si_sv_GW"),)),
        (update_user_potcar_functional, "PBE_64", "potcar_functional", "PBE_64"),
        (update_user_incar_settings, {"KSPACING": 0.3}, "kspacing", 0.3),
        (update_user_incar_settings, {"GGA": "PS"}, "functional", "PBEsol"),
        (update_user_incar_settings, {"LDIPOL": True}, "extra_incar", (("LDIPOL", True),)),
        (update_user_incar_settings, {"ISPIN": 2}, "spin_polarized", True),
        (update_user_incar_settings, {"EDIFFG": -0.002}, "elastic_fmax", 0.002),
    ],
)
def test_what_a_powerup_says_is_in_the_protocol_of_makers_and_engines(powerup, update, field, value):
    engine = make_engine("vasp")
    labels = powerup(LabelMaker(engine=engine).make([bulk("Si")], "si"), update)
    of_labels = [
        argument.protocol
        for job, _ in labels.iterflow()
        for argument in (*job.function_args, *job.function_kwargs.values())
        if hasattr(argument, "protocol")
    ]
    made = ReferenceProtocol.model_validate(powerup(engine.elastic_relax(), update).protocol)
    assert len(of_labels) == 2
    for protocol in (*of_labels, made):
        assert getattr(protocol, field) == value
        assert protocol.digest != ReferenceProtocol().digest
    assert {one.digest for one in of_labels} == {made.digest}
    # again and again, and through JSON, it is the same
    assert powerup(powerup(engine.static(), update), update) == round_trip(powerup(engine.static(), update))


@pytest.mark.parametrize(
    ("powerup", "update", "message"),
    [
        (update_user_kpoints_settings, {"reciprocal_density": 100}, "Give KSPACING"),
        (use_auto_ispin, True, "auto_ispin = True"),
        (update_user_incar_settings, {"IBRION": 2}, "kind of calculation decides"),
        (update_user_incar_settings, {"ISMEAR": "wide"}, "ismear"),
        (update_user_incar_settings, {"EDIFFG": 1e-4}, "no force"),
    ],
)
def test_what_cannot_follow_is_refused(flow, powerup, update, message):
    with pytest.raises(ConfigurationError, match=message):
        powerup(flow, update)


def test_labels_are_no_tasks(flow):
    with pytest.raises(ConfigurationError, match="they are no tasks of atomate2"):
        add_metadata_to_flow(flow, {"project": "x"})


def run(flow, tmp_path):
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(flow, log=False, store=store, create_folders=True, root_dir=tmp_path)
    return store


@pytest.mark.slow
def test_the_gate_asks_for_what_the_powerup_said(tmp_path):
    """A label by the stand-in: INCAR as changed, accepted, and called by the protocol that says so."""
    engine = make_engine("vasp", {"kspacing": 0.6}, rehearsal=Rehearsal(calculator="tersoff-si"))
    atoms = bulk("Si", a=5.432)
    atoms.rattle(0.05, seed=1)
    plain = LabelMaker(engine=engine).make([atoms], "si")
    flow = update_user_incar_settings(plain, {"ENCUT": 350, "NCORE": 2})
    store = run(flow, tmp_path)
    record = ReferenceRecord.model_validate(store.get_output(flow.jobs[0].uuid, load=True))
    assert record.accepted, record.explain()
    assert (float(record.incar["ENCUT"]), int(record.incar["NCORE"])) == (350, 2)
    assert record.protocol_digest == ReferenceProtocol(kspacing=0.6, encut=350, mode_encut=350).digest


def test_run_options_of_the_engine(tmp_path):
    """Own command and handlers are used; what atomate2 does not know is refused by name."""
    engine = make_engine(
        "vasp",
        {"kspacing": 0.6},
        user_incar_settings={"NPAR": 2, "ENCUT": 400},
        run_vasp_kwargs={"vasp_cmd": "no-such-vasp", "vasp_gamma_cmd": "no-such-vasp", "handlers": []},
    )
    assert engine.protocol.encut == 400
    assert "running" not in make_engine("vasp").model_dump()
    again = round_trip(engine)
    assert again == engine
    maker = again.static()
    assert maker.run_vasp_kwargs["vasp_cmd"] == "no-such-vasp"
    assert maker.input_set_generator.user_incar_settings["NPAR"] == 2
    assert maker.protocol == engine.protocol.model_dump(mode="json")
    for wrong, message in (
        ({"wall_tme": 100}, "Did you mean wall_time"),
        ({"run_vasp_kwargs": {"vasp_comd": "x"}}, "Did you mean vasp_cmd"),
        ({"run_vasp_kwargs": {"job_type": "direct"}}, "so that a crash shows"),
        ({"input_set_generator": 3}, "no input set"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make_engine("vasp", **wrong)
    with pytest.raises(ConfigurationError, match="gpaw engine has no option 'run_vasp_kwargs'"):
        make_engine("gpaw", run_vasp_kwargs={})


@pytest.mark.slow
def test_an_own_input_set_becomes_the_protocol():
    engine = make_engine("vasp", input_set_generator=StaticSetGenerator(user_incar_settings={**PAPER, "NCORE": 8}))
    written = {name: getattr(engine.protocol, name) for name in ("functional", "encut", "ediff", "kspacing", "sigma")}
    assert written == {"functional": "PBE", "encut": 450, "ediff": 1e-7, "kspacing": 0.2, "sigma": 0.02}
    assert engine.running.incar == {"NCORE": 8}
    # the POTCARs are those of its table: atomate2 takes another one of tungsten than we do
    theirs = StaticSetGenerator().config_dict["POTCAR"]["W"]
    assert engine.protocol.potcar_map(["W"])["W"] == (theirs if isinstance(theirs, str) else theirs["symbol"])
    silicon = engine.static().input_set_generator.get_input_set(SILICON, potcar_spec=True)
    assert (silicon.incar["ENCUT"], silicon.incar["SIGMA"], silicon.incar["KSPACING"]) == (450, 0.02, 0.2)
    with pytest.raises(ConfigurationError, match="knows no \\+U"):
        make_engine("vasp", input_set_generator=StaticSetGenerator(user_incar_settings={**PAPER, "LDAU": True}))
    with pytest.raises(ConfigurationError, match="Give KSPACING"):
        make_engine("vasp", input_set_generator=StaticSetGenerator())


def own_makers(**changes):
    static = StaticMaker(input_set_generator=StaticSetGenerator(user_incar_settings=PAPER | changes))
    relax = TightRelaxMaker(
        input_set_generator=TightRelaxSetGenerator(user_incar_settings={**PAPER, "EDIFFG": -0.002}),
        run_vasp_kwargs={"max_errors": 3},
    )
    return static, PhononMaker(bulk_relax_maker=relax, static_energy_maker=None, displacement=0.02)


@pytest.mark.slow
def test_own_makers_of_a_material():
    static, phonon = own_makers()
    elastic = ElasticMaker(generate_elastic_deformations_kwargs={"strain_magnitudes": [-0.02, -0.01, 0.01, 0.02]})
    maker = FineTuneMaterialMaker(
        engine=make_engine("vasp"),
        static_maker=replace(static, run_vasp_kwargs={"max_errors": 3}),
        phonon_maker=phonon,
        elastic_maker=elastic,
        evaluate=("phonons", "elastic"),
        min_length=8.0,
    )
    flow = maker.make(SILICON, resolve("embedded"))
    written = text(flow)
    assert '"encut": 520.0' not in written
    assert '"relax_fmax": 0.002' in written
    jobs = {job.name: job for job, _ in flow.iterflow()}
    # the steps are the user's: no static, his displacement, his strains; the calculations are behind our gate
    assert "static si reference" not in jobs
    assert type(jobs["relax si reference"].maker).__name__ == "ProtocolVaspMaker"
    assert jobs["relax si reference"].maker.run_vasp_kwargs == {"max_errors": 3}
    assert jobs["phonon si reference"].function_kwargs["displacement"] == 0.02
    assert '"strain_magnitudes": [-0.02, -0.01, 0.01, 0.02]' in written


@pytest.mark.slow
def test_makers_on_two_energy_surfaces_are_refused():
    static, phonon = own_makers(ENCUT=500)
    maker = FineTuneMaterialMaker(engine=make_engine("vasp"), static_maker=static, phonon_maker=phonon)
    with pytest.raises(ConfigurationError, match=r"two energy surfaces: .*encut 450.0 and 500.0"):
        maker.make(SILICON, resolve("embedded"))
    with pytest.raises(ConfigurationError, match="for the vasp engine"):
        replace_engine = FineTuneMaterialMaker(
            engine=make_engine("forcefield", None, "embedded-reference"), phonon_maker=phonon
        )
        replace_engine.make(SILICON, resolve("embedded"))


CAMPAIGN = """
name: habits
materials: [embedded:Si]
foundations: [embedded]
min_length: 8
engine:
  name: vasp
  user_incar_settings: {{NCORE: 4, ENCUT: 480, EDIFFG: -2e-3}}
  run_vasp_kwargs: {{vasp_cmd: srun vasp_std}}
  {more}
"""


def written_campaign(tmp_path, more=""):
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN.format(more=more))
    return path


@pytest.mark.slow
def test_a_campaign_file_says_the_same(tmp_path, monkeypatch):
    engine = read_campaign(written_campaign(tmp_path)).engine
    assert (engine.protocol.encut, engine.running.incar) == (480, {"NCORE": 4})
    assert engine.protocol.relax_fmax == 0.002
    assert engine.running.run_vasp_kwargs == {"vasp_cmd": "srun vasp_std"}
    (tmp_path / "own_vasp.py").write_text(
        "from atomate2.vasp.jobs.core import StaticMaker\n"
        "from atomate2.vasp.sets.core import StaticSetGenerator\n"
        f"STATIC = StaticMaker(input_set_generator=StaticSetGenerator(user_incar_settings={PAPER!r}))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    phonon = json.dumps(PhononMaker(displacement=0.02), cls=MontyEncoder)
    campaign = read_campaign(written_campaign(tmp_path, f"static_maker: own_vasp.STATIC\n  phonon_maker: {phonon}"))
    jobs = {job.name: job for job, _ in campaign.flow().iterflow()}
    assert jobs["phonon si reference"].function_kwargs["displacement"] == 0.02
    # atomate2 relaxes twice unless told otherwise
    for number in (1, 2):
        assert jobs[f"relax si reference {number}"].maker.protocol["encut"] == 450
    for more, message in (
        ("static_maker: own_vasp.STATICS", "static_maker: 'own_vasp.STATICS' is not found"),
        ("phonon_maker: own_vasp.STATIC", "no flow of atomate2"),
        ("run_vasp_kwarg: {}", "Did you mean run_vasp_kwargs"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            read_campaign(written_campaign(tmp_path, more))


@pytest.mark.parametrize("zipped", [True, False])
def test_wave_functions_of_the_folder_before(tmp_path, monkeypatch, zipped):
    """Taken for the same cell, strained or not, and for no supercell; a folder that is gone is no error."""
    before = tmp_path / "before"
    before.mkdir()
    Poscar(SILICON).write_file(before / "CONTCAR")
    with gzip.open(before / "WAVECAR.gz", "wb") if zipped else (before / "WAVECAR").open("wb") as file:
        file.write(b"waves")
    strained, supercell = SILICON.copy(), SILICON.copy()
    strained.apply_strain(0.02)
    supercell.make_supercell(2)
    cases = [(before, strained, True), (before, supercell, False), (tmp_path / "gone", strained, False)]
    for number, (folder, crystal, taken) in enumerate(cases):
        here = tmp_path / str(number)
        here.mkdir()
        monkeypatch.chdir(here)
        makers.take_wavefunctions(f"node7:{folder}", crystal)
        assert (here / "WAVECAR").exists() == taken
        if taken:
            assert (here / "WAVECAR").read_bytes() == b"waves"


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [True, False])
def test_a_calculation_starts_from_kept_wave_functions(tmp_path, monkeypatch, keeps):
    """Those of the folder before are taken, its own are left to the next; to keep them makes no other job of any."""
    engine = make_engine("vasp", {"kspacing": 0.6}, rehearsal=Rehearsal(calculator="tersoff-si"))
    who = update_user_incar_settings(engine.static(), {"LWAVE": True}) if keeps else engine.static()
    assert who.protocol == engine.static().protocol
    labels = LabelMaker(engine=engine).make([bulk("Si")], "si")
    assert identities(update_user_incar_settings(labels, {"LWAVE": True})) == identities(labels)
    taken = []
    monkeypatch.setattr(makers, "take_wavefunctions", lambda folder, structure: taken.append((folder, len(structure))))
    monkeypatch.chdir(tmp_path)
    task = type(who).make.original(who, SILICON, prev_dir="before").output
    assert task.state.value == "successful"
    assert taken == ([("before", 2)] if keeps else [])
    assert bool(list(tmp_path.glob("WAVECAR*"))) == keeps


def arguments(job):
    """What the function of a job is called with; a TypeError where one is given twice."""
    return inspect.signature(job.function).bind(*job.function_args, **job.function_kwargs).arguments


def test_arguments_of_every_job_can_be_changed(flow):
    """However they were given, by place or by name; what there is not is refused with what was meant."""
    for job, _ in deepcopy(flow).iterflow():
        before = arguments(job)
        plain = [one for one in inspect.signature(job.function).parameters.values() if one.kind is not one.VAR_KEYWORD]
        names = [one.name for one in plain if one.name in before]
        if not isinstance(job, ChangeableJob) or not names:
            continue
        kept, name = job.as_dict(), names[-1]
        job.update_kwargs({name: before[name]}, name_filter="no such job")
        job.update_kwargs({name: before[name]})
        assert job.as_dict() == kept
        job.update_kwargs({name: "other"})
        assert arguments(job)[name] == "other"
    sample = next(job for job, _ in deepcopy(flow).iterflow() if job.name.startswith("sample"))
    sample.update_kwargs({"seed": 7})
    assert arguments(sample)["seed"] == 7
    with pytest.raises(ConfigurationError, match="Did you mean seed"):
        sample.update_kwargs({"sed": 7})
