import dataclasses
import json
from collections import Counter

import pytest
from monty.json import MontyEncoder
from pymatgen.io.ase import AseAtomsAdaptor

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.identity import fix_identities, identified
from phonosmith.flows.campaign import CampaignMaker
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine


def campaign(**changes):
    engine = make_engine("forcefield", potential="embedded-reference")
    maker = FineTuneMaterialMaker(
        engine=engine, evaluate=("phonons",), min_length=6.0, curvature_min_length=3.0, mesh=4
    )
    chosen = {key: changes.pop(key) for key in ("cells", "seeds") if key in changes}
    return CampaignMaker(name="test", maker=dataclasses.replace(maker, **changes), **chosen)


def crystals(*names):
    return {name: AseAtomsAdaptor.get_structure(demo_structure(name)) for name in names}


def foundations(n=1):
    ref = resolve("embedded")
    # another identity is enough here: nothing is evaluated
    return [ref, ref.model_copy(update={"name": "Other 2", "sha256": "0" * 64})][:n]


def members(flow):
    return {job.name: job for job, _ in flow.iterflow()}


def test_what_belongs_to_a_material_is_there_once_whatever_the_variants():
    maker = campaign(
        strategies=("delta", "multihead", "delta+pft"),
        n_train=(4, 16),
        evaluate=("phonons", "elastic", "forgetting", "transitions"),
        cells=("primitive", "small"),
        seeds=(0, 7),
    )
    flow = maker.make(crystals("Si", "Ge"), foundations(2))
    names = [job.name for job, _ in flow.iterflow()]
    assert len(set(names)) == len(names)
    stages = Counter(name.split()[0] for name in names)
    assert stages["train"] == 2 * 2 * 2 * 2 * 3 * 2  # material, foundation, cell, seed, strategy, size
    assert stages["sample"] == stages["audit"] == stages["label"] == 2 * 2  # material, cell
    assert stages["report"] == 2 * 2 * 2 * 2
    assert stages["forgetting"] == stages["train"]
    assert stages["replay"] == 2 * 2  # material, foundation
    assert [name for name in names if name.endswith(" reference")] == [
        f"{kind} {key} reference" for key in ("si", "ge") for kind in ("phonon", "elastic", "follow")
    ]
    assert sum(name.startswith("phonon") and name.endswith("foundation") for name in names) == 4
    assert {"train si delta 4", "train si-other-2-small-s7 delta 16", "label ge-small start"} <= set(names)
    # what a job is, is said in its metadata: names need not be taken apart
    described = members(flow)
    assert described["train si-other-2-small-s7 delta 16"].metadata == {
        "stage": "train", "material": "si", "variant": "si-other-2-small-s7", "strategy": "delta", "n_train": 16,
        "epochs": 200,
    }  # fmt: skip
    assert described["label ge-small start"].metadata == {
        "stage": "label", "step": "start", "material": "ge", "variant": "ge-small", "makes": 21,
    }  # fmt: skip
    assert all(job.metadata["material"] in ("si", "ge") for job in described.values())
    assert all(job.metadata["stage"] == name.split()[0] for name, job in described.items())


def test_no_reference_calculation_is_there_twice_under_two_names():
    maker = campaign(strategies=("delta+pft",), seeds=(0, 1), cells=("primitive", "small"), curvature_min_length=6.0)
    flow = maker.make(crystals("Si"), foundations(2))
    work = Counter()
    for job, _ in flow.iterflow():
        if job.name.startswith(("phonon", "label")):
            done = [job.function.__name__, job.function_args, job.function_kwargs]
            work[json.dumps(done, cls=MontyEncoder, sort_keys=True)] += 1
    # the cells that supervise curvature are as large as those of the phonons here: one calculation
    reference = [text for text in work if '"embedded-reference"' in text and "run_phonons" in text]
    assert len(reference) == 1
    # label starts differ by cell only in what they are told to sample; their names are an argument
    assert all(count == 1 for text, count in work.items() if "start_needed_labels" in text)


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        (
            {"strategies": ("delta", "transfer")},
            {"strategies": ("delta", "transfer", "scratch")},
            {"train si scratch", "phonon si scratch", "report si"},
        ),
        (
            {"seeds": (0,), "strategies": ("delta",)},
            {"seeds": (0, 3), "strategies": ("delta",)},
            {"train si-s3 delta", "phonon si-s3 delta", "report si-s3", "committee si"},
        ),
        (
            {"strategies": ("delta",), "n_train": (4, 16)},
            {"strategies": ("delta",), "n_train": (4, 8, 16)},
            {"subset si 8", "train si delta 8", "phonon si delta 8", "report si"},
        ),
    ],
)
def test_what_is_added_leaves_the_identity_of_the_rest(before, after, new):
    flows = [fix_identities(campaign(**changes).make(crystals("Si"), foundations())) for changes in (before, after)]
    old, now = ({job.uuid: job.name for job, _ in flow.iterflow()} for flow in flows)
    assert {name for uuid, name in now.items() if uuid not in old} == new


def test_another_material_or_foundation_changes_nothing_there_was():
    first = fix_identities(campaign().make(crystals("Si"), foundations()))
    more = fix_identities(campaign().make(crystals("Si", "C"), foundations(2)))
    assert {job.uuid for job, _ in first.iterflow()} <= {job.uuid for job, _ in more.iterflow()}
    # one material after the other gives the same jobs
    counted: Counter[str] = Counter()
    apart = [identified(flow, counted) for flow in campaign().flows(crystals("Si", "C"), foundations(2))]
    assert [sum(job.name.startswith("report") for job, _ in one) for one in apart] == [2, 2]
    assert {job.uuid for one in apart for job, _ in one} == {job.uuid for job, _ in more.iterflow()}


def test_names_that_would_collide_are_refused():
    with pytest.raises(ConfigurationError, match="materials are called 'si'"):
        campaign().make({"Si": crystals("Si")["Si"], "SI": crystals("Si")["Si"]}, foundations())
    with pytest.raises(ConfigurationError, match="foundations are called 'embedded'"):
        campaign().make(crystals("Si"), [foundations()[0]] * 2)
