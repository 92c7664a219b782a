import json
from collections import Counter

import pytest
from jobflow import run_locally
from pymatgen.io.ase import AseAtomsAdaptor
from typer.testing import CliRunner

from phonosmith.analysis.committees import CommitteeReport
from phonosmith.analysis.learning import AdaptiveReport, AdaptiveRound
from phonosmith.analysis.status import read_status
from phonosmith.cli.main import app
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.errors import ConfigurationError
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.summary import harmonic_from_document
from phonosmith.evaluation.verdict import Thresholds, judge_production
from phonosmith.flows.adaptive import AdaptiveMaker, _reason, next_places
from phonosmith.flows.campaign import read_campaign
from phonosmith.flows.settings import AdaptiveOptions
from phonosmith.potentials.embedded import demo_structure
from phonosmith.potentials.registry import resolve
from phonosmith.reference.engines import make_engine
from phonosmith.report.page.reading import read_reports
from phonosmith.settings import Settings


def maker(committee=1, **changes):
    # without a committee unless asked, and as many labels in every round
    known = {name for name in AdaptiveOptions.model_fields if name in changes}
    options = {"committee": committee, "n_valid": 4, "spread_thz": 0.05} | {name: changes.pop(name) for name in known}
    tiny = {
        "options": options,
        "engine": make_engine("forcefield", potential="embedded-reference"),
        "strategy": "transfer",
        "training": {"epochs": 1},
        "sampling": {"cell": "primitive", "max_steps": 10},
        "min_length": 6.0,
        "mesh": 4,
    }
    return AdaptiveMaker(**(tiny | changes))


ALONE, COMMITTEE = {"change_thz": 0.05}, {"spread_thz": 0.05}


def run(one, folder):
    folder.mkdir()
    flow = one.make(AseAtomsAdaptor.get_structure(demo_structure("Si")), resolve("embedded"))
    store = open_embedded_jobstore(folder / "store.sqlite")
    store.connect()
    run_locally(flow, store=store, log=False, create_folders=True, root_dir=folder, raise_immediately=True)
    return AdaptiveReport.model_validate(store.get_output(flow.output.uuid, load=True)), store


def rounds(*changes, forces=10.0, spread=None, improved=True):
    found = []
    for number, change in enumerate(changes, start=1):
        verdict = judge_production(
            Thresholds.of(Settings()), valid_force_mae=forces, phonon_change_thz=change if spread is None else spread
        )
        found.append(
            AdaptiveRound.model_construct(
                number=number,
                phonon_change_thz=change,
                spread_thz=spread,
                verdict=verdict,
                valid_force_mae=forces,
                improved=improved,
            )
        )
    return found


def test_it_stops_when_phonons_and_verdict_stand_still():
    assert _reason(ALONE, rounds(None)) is None
    assert _reason(ALONE, rounds(None, 0.051)) is None
    assert "0.049 THz" in _reason(ALONE, rounds(None, 0.2, 0.049))
    # force errors fell below their limit in this round: the verdict moved, one more round shows whether it stays
    changed = [*rounds(None, forces=30.0), rounds(None, 0.01)[1]]
    assert _reason(ALONE, changed) is None
    # a potential that stays bad has converged to a bad one: more of the same labels will not help
    assert _reason(ALONE, rounds(None, 0.01, forces=30.0)) is not None


def test_trainings_that_hand_back_the_foundation_prove_nothing():
    assert _reason(ALONE, rounds(None, 0.0, improved=False)) is None
    assert _reason(COMMITTEE, rounds(None, spread=0.0, improved=False)) is None


def test_a_committee_may_stop_after_the_first_round():
    assert "committee" in _reason(COMMITTEE, rounds(None, spread=0.04))
    assert _reason(COMMITTEE, rounds(None, 0.01, spread=0.06)) is None
    # members that relaxed into different structures have no spread: they do not agree, whatever else stood still
    assert _reason(COMMITTEE, rounds(None, 0.01)) is None


def test_what_it_cannot_do_is_said_at_once():
    crystal = AseAtomsAdaptor.get_structure(demo_structure("Si"))
    for changes, word in (
        ({"strategy": "pft"}, "force constants"),
        ({"engine": None}, "engine"),
        ({"n_valid": 0}, "1"),
        ({"committee": 2, "first": 2}, "3 training labels"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            maker(**changes).make(crystal, resolve("embedded"))


@pytest.mark.slow
def test_labels_are_made_layer_by_layer_and_the_saved_ones_counted(tmp_path):
    chosen = {"strategy": "delta", "training": {"epochs": 6}, "first": 6, "step": 6, "n_valid": 2}
    report, store = run(maker(change_thz=1e3, **chosen), tmp_path / "run")
    assert report.stopped
    assert [one.n_labels for one in report.rounds] == [2 + 6, 2 + 12]
    assert (report.n_labels, report.n_labels_protocol, report.n_labels_saved) == (14, 20, 6)
    names = [document["name"] for document in store.query({}, ["name"])]
    assert sum(name.startswith("label si r") and name[-1].isdigit() for name in names) == 14
    assert {"train si delta r1", "train si delta r2", "phonon si delta r2"} <= set(names)
    documents = [store.query_one({"name": f"phonon si delta r{n}"}, load=True)["output"] for n in (1, 2)]
    models = [harmonic_from_document(PhononDoc.model_validate(one), default_artefacts()) for one in documents]
    assert report.rounds[1].phonon_change_thz == compare_phonons(*models, 4).mae_thz
    assert report.potential.sha256 == documents[1]["potential"]["sha256"]


@pytest.mark.slow
def test_a_committee_that_proves_nothing_ends_with_everything_allowed_labelled(tmp_path):
    """The committee is trained in one job here."""
    limits = {"spread_thz": 1e-9, "max_rounds": 1, "n_valid": 1}
    report, store = run(maker(committee=2, pack="material", **limits), tmp_path / "run")
    names = {document["name"] for document in store.docs_store.query({"metadata.stage": "train"})}
    assert names == {"train si pack r1", "train si transfer r1 s0", "train si transfer r1 s1"}
    (only,) = report.rounds
    assert not report.stopped
    assert only.spread_thz > 1e-9 or not only.improved
    assert "largest number of rounds" in report.reason
    assert sum(cost.stage == "train" for cost in report.costs) == 2


def test_next_configurations_are_the_most_doubtful_ones():
    assert next_places(5, [], {}, 2) == [0, 1]
    assert next_places(5, [0, 1], {2: 0.1, 3: 0.3, 4: 0.2}, 2) == [3, 4]
    # equal doubts: the order of sampling
    assert next_places(5, [1], {0: 0.1, 2: 0.1, 3: 0.1, 4: 0.1}, 3) == [0, 2, 3]
    assert next_places(2, [0, 1], {}, 2) == []


@pytest.mark.slow
def test_a_committee_labels_where_it_disagrees(tmp_path):
    chosen = {"committee": 3, "spread_thz": 1e-9, "max_rounds": 2, "n_valid": 1, "first": 3, "step": 3}
    report, store = run(maker(training={"epochs": 3, "lr": 0.005}, **chosen), tmp_path / "run")
    assert [one.n_labels for one in report.rounds] == [4, 7]
    # members saw different labels, so that their phonons differ although all are trained alike
    assert all(one.spread_thz > 1e-4 for one in report.rounds)
    subsets = [store.query_one({"name": f"subset si transfer r2 s{member}"}, load=True)["output"] for member in (1, 2)]
    assert [one["n_frames"] for one in subsets] == [3, 3]
    assert subsets[0]["sha256"] != subsets[1]["sha256"]


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped(tmp_path):
    command = [
        "adapt", "tutorials/Si.cif", "--foundation", "embedded", "--engine", "forcefield",
        "--potential", "embedded-reference", "--out", str(tmp_path / "si"), "--cell", "primitive", "--min-length", "6",
        "--mesh", "4", "--committee", "2", "--max-rounds", "1", "--set", "epochs=2", "--json",
    ]  # fmt: skip
    first, second = (CliRunner().invoke(app, command) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found["labels_used"] == 4
    assert found["stopped_because"]
    assert [one["round"] for one in found["history"]] == [1]
    assert (tmp_path / "si" / "model.model").is_file()
    assert json.loads(second.stdout)["potential"] == found["potential"]


def test_the_command_refuses_what_cannot_be(tmp_path):
    command = ["adapt", "tutorials/Si.cif", "--foundation", "embedded", "--engine", "forcefield", "--json"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "needs a potential" in json.loads(done.stdout)["error"]
    done = CliRunner().invoke(app, [*command, "--potential", "embedded", "--strategy", "pft", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "force constants" in json.loads(done.stdout)["error"]


SILICON = """
materials: [embedded:Si]
foundations: [embedded]
strategies: [transfer]
cells: [primitive]
training: {epochs: 2}
sampling: {max_steps: 10}
evaluate: [phonons]
engine: {name: forcefield, potential: embedded-reference}
min_length: 6.0
mesh: 4
"""


def campaign(tmp_path, text):
    file = tmp_path / "campaign.yaml"
    file.write_text(SILICON + text)
    return file


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("adaptive: {first: 2}", "3 training labels or more"),
        ("adaptive: {frist: 3}", "unknown field"),
        ("adaptive: {}\nn_train: [4]", "exclude each other"),
        ("adaptive: {}\nseeds: [0, 1]", "one of seeds"),
        ("learning_curve: [4]", "two training-set sizes"),
        ("learning_curve: [4, 90]", "cannot be"),
    ],
)
def test_a_campaign_says_what_cannot_be(tmp_path, text, word):
    with pytest.raises(ConfigurationError, match=word):
        read_campaign(campaign(tmp_path, text))


def test_a_dry_run_counts_the_labels_and_a_curve_has_its_job(tmp_path):
    file = campaign(tmp_path, "adaptive: {max_rounds: 4, step: 2}")
    found = json.loads(CliRunner().invoke(app, ["run", str(file), "--dry-run", "--json"]).stdout)
    # one to validate, three, then three rounds of two
    assert found["adaptive_labels"] == [4, 10]
    assert {"sample si primitive", "adaptive si start", "phonon si transfer", "report si"} <= set(found["names"])
    assert not any(name.startswith(("label", "audit", "train")) for name in found["names"])
    file = campaign(tmp_path, "learning_curve: [2, 4]")
    found = json.loads(CliRunner().invoke(app, ["run", str(file), "--dry-run", "--json"]).stdout)
    assert {"train si transfer 2", "train si transfer 4", "curve si"} <= set(found["names"])


@pytest.mark.slow
def test_a_campaign_reports_on_the_potential_that_came_of_it(tmp_path):
    file = campaign(tmp_path, "adaptive: {max_rounds: 2, spread_thz: 0.0}")
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "si"), "--json"])
    assert done.exit_code == 0, done.stderr
    ((transfer,),) = [one["strategies"] for one in json.loads(done.stdout)["materials"]]
    store = open_embedded_jobstore(tmp_path / "si" / "store.sqlite")
    store.connect()
    (report,) = read_reports(store).reports
    (entry,) = report.strategies
    # three, then the one where the committee's forces were furthest apart
    assert (entry.n_train, transfer["n_train"], report.labels.valid.n_frames) == (4, 4, 1)
    assert entry.phonons.mae_thz == transfer["phonon_mae_thz"]
    (last,) = store.query({"name": "adaptive si r2"}, load=True)
    first, second = AdaptiveReport.model_validate(last["output"]).rounds
    assert first.asked == [0, 1, 2]
    assert second.asked == [max(first.force_std, key=first.force_std.get)]
    assert second.committee.basis == "disagreement"
    # what the rounds took is counted, labels and sampling once
    paid = Counter((cost.stage, cost.name) for cost in report.costs)
    trainings = [cost.name for cost in report.costs if cost.stage == "train"]
    assert trainings == ["train si r1"] * 3 + ["train si r2"] * 3
    assert paid["sample", "sample si"] == paid["label", "label si"] == 1
    assert entry.potential.sha256 == second.potential.sha256
    assert read_status(store).materials["si"].n_reports == 1


@pytest.mark.slow
def test_seeds_of_a_campaign_are_a_committee(tmp_path):
    # so many epochs that both seeds learn something: what hands back the foundation is no member
    file = campaign(tmp_path, "n_train: [4]\nseeds: [0, 1]")
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 20"))
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "si"), "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["materials"]
    store = open_embedded_jobstore(tmp_path / "si" / "store.sqlite")
    store.connect()
    (document,) = store.query({"name": "committee si"}, load=True)
    (seeds,) = CommitteeReport.model_validate(document["output"]).committees
    errors = [one["strategies"][0]["phonon_mae_thz"] for one in found]
    assert seeds.seeds == [0, 1]
    assert seeds.committee.member_mae_thz == pytest.approx(errors, rel=1e-9)
    assert len(seeds.force_std) == 4 + 4
    assert all(one["strategies"][0]["expected_mae_thz"] == seeds.committee.mae_thz.model_dump() for one in found)
