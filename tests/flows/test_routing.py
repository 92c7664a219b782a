"""Job names to workers: the table, the user's rules, and what survives in a job's configuration."""

import json

import pytest
from jobflow import Flow, JobConfig, OnMissing, Response, job
from monty.json import MontyDecoder, MontyEncoder

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.identity import fix_identities
from phonosmith.core.sealing import altered_fields
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.flows.routing import Routing, Target, kind_of, read_routing, route
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine


@job
def number(x):
    return x


@job
def spawn(how):
    children = [number(1), number(2)]
    children[0].name, children[1].name = "label si 00", "train si delta"
    children[0].config = JobConfig(expose_store=True, on_missing_references=OnMissing.NONE)
    if how == "replace":
        return Response(replace=Flow(children, output=children[0].output))
    return Response(output=1, **{how: Flow(children)})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("label si 07", "dft"),
        ("label sb2te3 check 01", "dft"),
        ("label si start", "inference"),
        ("label si check collect", "inference"),
        ("relax si reference", "dft"),
        ("displace si reference 1/3", "dft"),
        ("phonon static 2/12", "dft"),
        ("tight relax", "dft"),
        ("elastic relax 1/6", "dft"),
        ("eos static 3", "dft"),
        ("EOS equilibrium relaxation", "dft"),
        ("mode point gete vasp m01 r1 004", "dft"),
        ("mode relax gete vasp 02", "dft"),
        ("mode round gete vasp m01 1", "inference"),
        ("train si delta part 2", "training"),
        # a part of a word, or a word further back, is no match
        ("training", "inference"),
        ("labels", "inference"),
        ("phonon gete-relax foundation", "inference"),
        ("phonon train si", "inference"),
        ("elastic si delta", "inference"),
        ("eos si reference", "inference"),
        ("sample si large", "inference"),
        ("store_inputs", "inference"),
    ],
)
def test_the_beginning_of_a_name_decides(name, kind):
    assert kind_of(name) == kind


def test_a_stage_says_more_than_a_name():
    assert kind_of("tuned silicon", {"stage": "train"}) == "training"
    assert kind_of("relax everything", {"stage": "report"}) == "inference"
    assert kind_of("frames of silicon", {"stage": "label"}) == "dft"
    assert kind_of("frames of silicon", {"stage": "label", "step": "collect"}) == "inference"
    # what describes the material alone says nothing about the work
    assert kind_of("mode point gete vasp m01", {"material": "gete"}) == "dft"
    # jobflow gives the output job of a replacing flow the metadata of the job that was replaced
    assert kind_of("store_inputs", {"stage": "train"}) == "inference"
    rules = read_routing({"rules": [{"names": "tuned", "worker": "big"}]})
    assert rules.target("tuned silicon", {"stage": "train"}).worker == "big"


def test_every_job_of_a_real_flow_goes_where_its_work_is_done():
    from pymatgen.io.ase import AseAtomsAdaptor

    maker = FineTuneMaterialMaker(
        engine=make_engine("vasp", rehearsal=True, potential="embedded-reference"),
        strategies=("transfer", "delta+pft"),
        min_length=6.0,
        evaluate=("phonons", "elastic", "eos"),
    )
    flow = maker.make(AseAtomsAdaptor.get_structure(demo_structure("Si")), resolve("embedded"))
    programs = set()
    for member, _ in flow.iterflow():
        owner = type(getattr(member.function, "__self__", None)).__name__
        expected = {"ProtocolVaspMaker": "dft"}.get(owner, "inference")
        if member.function.__name__ == "train_model":
            expected = "training"
        assert kind_of(member.name, member.metadata) == kind_of(member.name) == expected, member.name
        programs.add(expected)
    assert programs == {"dft", "training", "inference"}
    route(flow, engine="jobflow-remote")
    workers = {member.name: member.config.manager_config["worker"] for member, _ in flow.iterflow()}
    assert workers["static si reference"] == "dft"
    assert workers["train si delta+pft"] == "gpu"
    # the reporting job still runs when a result is missing
    (report,) = [member for member, _ in flow.iterflow() if member.name == "report si"]
    assert report.config.on_missing_references == OnMissing.NONE


@pytest.mark.parametrize("how", ["replace", "addition", "detour"])
@pytest.mark.parametrize("engine", ["fireworks", "jobflow-remote"])
def test_jobs_made_by_a_job_are_routed_and_keep_their_configuration(engine, how, memory_jobstore):
    start = spawn(how)
    start.name = "label si start"
    rules = Routing(
        dft=Target(worker="vasp", resources={"nodes": 2}, exec_config="vasp"),
        inference=Target(worker="inference", resources={"nodes": 1}),
    )
    rules = rules.with_resources({"gpu": {"gres": "gpu:1"}, "vasp": {"nodes": 1}})
    routed = route(start, rules, engine)
    # as it travels: through JSON
    response = MontyDecoder().decode(json.dumps(routed, cls=MontyEncoder)).run(memory_jobstore)
    made = {member.name: member for member, _ in getattr(response, how).iterflow()}
    key = "worker" if engine == "jobflow-remote" else "_category"
    assert made["label si 00"].config.manager_config[key] == "vasp"
    assert made["train si delta"].config.manager_config[key] == "gpu"
    assert made["label si 00"].config.expose_store
    assert made["label si 00"].config.on_missing_references == OnMissing.NONE
    if how == "replace":
        assert made["store_inputs"].config.manager_config[key] == "inference"
    if engine == "jobflow-remote":
        assert made["label si 00"].config.manager_config["resources"] == {"nodes": 2}
        # those of the worker itself: missing ones would be inherited, empty ones would override it
        assert made["train si delta"].config.manager_config["resources"] == {"gres": "gpu:1"}
        assert routed.config.manager_config["resources"] == {"nodes": 1}


def test_resources_are_those_of_the_worker_when_a_job_starts_unless_some_were_given():
    rules = Routing(dft=Target(worker="vasp", resources={"nodes": 2}))
    rules = rules.with_resources({"gpu": {"gres": "gpu:1"}, "inference": {"nodes": 1}})
    assert rules.dft.manager_config("jobflow-remote")["resources"] == {"nodes": 2}
    assert "resources" not in rules.training.manager_config("jobflow-remote")
    assert "resources" not in rules.inference.manager_config("jobflow-remote")


@pytest.mark.parametrize("engine", ["fireworks", "jobflow-remote"])
def test_what_a_routed_job_stores_is_sealed(engine, memory_jobstore):
    start = spawn("replace")
    routed = MontyDecoder().decode(json.dumps(route(start, engine=engine), cls=MontyEncoder))
    for member, _ in routed.run(memory_jobstore).replace.iterflow():
        # as it travels
        MontyDecoder().decode(json.dumps(member, cls=MontyEncoder)).run(memory_jobstore)
    documents = list(memory_jobstore.query({}, load=True))
    made = {one["name"]: altered_fields(one) for one in documents if one["uuid"] != routed.uuid}
    assert made
    assert set(map(str, made.values())) == {"[]"}
    for one in documents:
        if one["uuid"] != routed.uuid:
            assert altered_fields({**one, "output": "another"}) != []


def test_routing_leaves_identities_and_other_flows_alone():
    first, second = number(1), number(1)
    first.name = second.name = "train si delta"
    flow = fix_identities(Flow([first]))
    before = [member.uuid for member, _ in flow.iterflow()]
    route(flow)
    assert [member.uuid for member, _ in flow.iterflow()] == before
    # configurations are not shared between jobs
    assert second.config.manager_config == {}


def test_rules_of_the_user_come_first_and_mistakes_are_named():
    rules = read_routing(
        {"training": "a100", "rules": [{"names": "label sb2te3", "worker": "big", "category": "large"}]}
    )
    assert rules.target("label sb2te3 00").worker == "big"
    assert rules.target("label sb2te3 00").manager_config("fireworks") == {"_category": "large"}
    assert rules.target("label si 00").worker == "dft"
    assert rules.target("train si delta").worker == "a100"
    with pytest.raises(ConfigurationError, match=r"trainig.*Did you mean training"):
        read_routing({"trainig": "gpu"})
    with pytest.raises(ConfigurationError, match=r"resource.*Did you mean resources"):
        read_routing({"training": {"worker": "gpu", "resource": {}}}, "campaign.yaml: routing")
    with pytest.raises(ConfigurationError, match="must hold"):
        read_routing(["gpu"])
    with pytest.raises(ConfigurationError, match="slurm"):
        route(number(1), engine="slurm")
    target = Target(worker="gpu", fworker="node7", queueadapter={"walltime": "01:00:00"})
    assert target.manager_config("fireworks") == {
        "_category": "gpu",
        "_fworker": "node7",
        "_queueadapter": {"walltime": "01:00:00"},
    }


@pytest.fixture
def memory_jobstore():
    from jobflow import JobStore
    from maggma.stores import MemoryStore

    store = JobStore(MemoryStore())
    store.connect()
    return store
