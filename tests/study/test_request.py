"""What a study is asked: every mistake is named before anything is computed."""

import pytest
import yaml

from phonosmith.core.errors import InputError, MismatchError, PotentialError
from phonosmith.flows.campaign import read_campaign
from phonosmith.flows.finished import FinishedPhonons
from phonosmith.potentials.embedded import read_crystal
from phonosmith.study.request import SAMPLED_STRATEGY, cost_of, read_request
from phonosmith.study.tune import how_to_submit, tune
from phonosmith.training.spec import DEFAULT_STRATEGY


@pytest.fixture(scope="module")
def silicon():
    return read_crystal("embedded:Si")


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"reference": "vesp"}, InputError, "vasp"),
        ({"reference": None}, InputError, "Nobody is named"),
        ({"reference": "missing/phonopy.yaml"}, InputError, "missing"),
        ({"foundation": "7nett-0"}, PotentialError, "7nett-0"),
        ({"budget": "cheap"}, InputError, "quick or paper"),
        ({"crystal": "nowhere.cif"}, InputError, "nowhere.cif"),
    ],
)
def test_what_cannot_be_is_said_with_the_way_out(silicon, changes, error, word):
    given = {"crystal": silicon, "foundation": "embedded", "reference": "embedded-reference"} | changes
    with pytest.raises(error, match=word):
        read_request(**given)


def test_the_default_strategy_follows_from_the_labels_and_quick_is_short(silicon):
    quick = read_request(silicon, "embedded", "embedded-reference")
    assert quick.settings.strategies == (SAMPLED_STRATEGY,)
    assert all(spec.epochs <= 60 for spec in quick.settings.specs().values())
    cost = cost_of(quick)
    assert (cost.n_labels, cost.core_hours) == (14, None)
    paper = read_request(silicon, "embedded", "embedded-reference", "transfer", "paper")
    assert (paper.settings.sampling.cell, paper.settings.min_length) == ("large", 20.0)


def test_without_vasp_the_study_is_planned_and_its_campaign_is_written(silicon, tmp_path, capsys):
    study = tune(silicon, foundation="embedded", reference="vasp", out=tmp_path / "si")
    said = capsys.readouterr().err
    assert "core-hours of DFT" in said
    assert "VASP command" in said
    assert not study.finished
    assert {"sample", "train", "report"} <= {job.name.split()[0] for job, _ in study.flow.iterflow()}
    # what it says to submit is the same study
    campaign = read_campaign(tmp_path / "si" / "campaign.yaml")
    assert campaign.engine.name == "vasp"
    assert campaign.spec.sampling.cell == "large"  # sizes of campaigns are a list
    assert campaign.spec.cells == ["small"]
    assert campaign.spec.strategies == study.request.settings.strategies
    assert campaign.spec.relax
    assert yaml.safe_load((tmp_path / "si" / "campaign.yaml").read_text())["min_length"] == 10.0
    assert "phonosmith submit" in how_to_submit(study)


def test_the_core_hours_are_those_of_plan(silicon, tmp_path):
    from phonosmith.reference.protocol import ReferenceProtocol
    from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS
    from phonosmith.structures.preflight import PlanSettings, plan_material

    asked = PlanSettings(cells=["small"], frames_per_cell=14, phonon_length=10.0, kspacing=ReferenceProtocol().kspacing)
    plan = plan_material(silicon, "Si", asked, potcars=PBE_54_SYMBOLS)
    cost = cost_of(read_request(silicon, "embedded", "vasp"))
    assert cost.core_hours == pytest.approx(plan.core_hours, rel=1e-12)
    cheaper = plan.core_hours_phonons < plan.core_hours_statics
    assert ("calculate the phonons" in plan.recommendation) == cheaper
    assert cost.recommendation == plan.recommendation


def test_phonopy_files_bring_their_crystal_and_are_the_reference(shared):
    file = shared / "data" / "phonopy" / "Si" / "phonopy_disp.yaml"
    request = read_request(file, "embedded", None)
    assert isinstance(request.reference, FinishedPhonons)
    assert (request.name, len(request.crystal), request.reference.n_displacements) == ("Si", 2, 1)
    # many cells are drawn from force constants: epochs follow from them
    assert request.settings.strategies == (DEFAULT_STRATEGY,)
    assert request.settings.specs()[DEFAULT_STRATEGY].visits is not None
    with pytest.raises(MismatchError, match="another one"):
        read_request(read_crystal("embedded:Ge"), "embedded", file)
    with pytest.raises(InputError, match="of its own"):
        read_request(file, "embedded", "vasp")
    with pytest.raises(PotentialError, match="does not know Cl, Na"):
        read_request(shared / "data" / "phonopy" / "NaCl" / "phonopy_disp.yaml", "embedded", None)
