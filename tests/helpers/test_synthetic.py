"""Synthetic reports: valid documents whose medians and interquartile ranges are the ones asked for."""

import numpy as np
import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from helpers import synthetic
from helpers.synthetic_crystals import synthetic_materials
from helpers.synthetic_targets import target
from phonosmith.analysis.documents import MaterialReport
from phonosmith.core.artefacts import default_artefacts
from phonosmith.evaluation.phonons.mesh import mesh_frequencies
from phonosmith.harmonic.model import unpack_force_constants


def test_sixty_different_crystals_have_the_symmetry_they_claim():
    materials = synthetic_materials(60)
    assert len({material.formula for material in materials}) == 60
    for material in materials:
        structure = material.structure()
        found = SpacegroupAnalyzer(structure, symprec=1e-3)
        assert (found.get_space_group_symbol(), found.get_space_group_number()) == (
            material.space_group,
            material.number,
        )
        assert structure.composition.reduced_formula == material.formula
    assert len({material.number for material in materials[:11]}) >= 9
    assert synthetic_materials(61)[60].name == f"{materials[0].name}-1"


@pytest.mark.parametrize("count", [1, 4, 7])
def test_medians_and_ranges_are_those_promised(count):
    reports = synthetic.synthetic_reports(count, sizes=(5, 20), cells=("small", "large"))
    assert len(reports) == 2 * count
    for cell in ("small", "large"):
        for strategy, size in (("delta", 20), ("scratch", 5)):
            values = [
                one.phonons.mae_thz
                for report in reports
                if report.cell == cell
                for one in report.strategies
                if (one.strategy, one.n_train) == (strategy, size)
            ]
            median, spread = target("phonon_mae_thz", strategy, size, cell)
            low, middle, high = np.percentile(values, [25, 50, 75])
            # rounding of doubles only
            assert middle == pytest.approx(median, rel=1e-12)
            assert high - low == pytest.approx(spread if count > 1 else 0, rel=1e-12)


def test_seeds_average_to_the_value_and_foundations_differ():
    reports = synthetic.synthetic_reports(3, ("delta",), seeds=3, foundations=("one", "two"))
    assert len(reports) == 18
    chosen = [report for report in reports if report.material == "TiO2" and report.foundation.potential.name == "two"]
    values = [report.strategies[0].phonons.mae_thz for report in chosen]
    assert np.mean(values) == pytest.approx(values[1])
    assert values[0] < values[1] < values[2]
    assert len({report.key for report in reports}) == 18


def test_missing_parts():
    reports = synthetic.synthetic_reports(3, mode="production", elastic=False, failed={"TiO2": ("delta",)})
    assert reports[0].failed == ["delta"]
    assert "delta" not in {one.strategy for one in reports[0].strategies}
    assert all(one.phonons is None and one.elastic is None for one in reports[1].strategies)
    assert reports[1].reference_result.phonons is None
    assert reports[1].best is None


def test_reports_survive_a_job_store(tmp_path):
    store = JobStore(MemoryStore())
    store.connect()
    reports = synthetic.synthetic_reports(2)
    uuids = synthetic.store_reports(store, reports)
    document = store.query_one({"uuid": uuids[1]})
    assert document["name"] == f"report {reports[1].key}"
    assert {"index", "completed_at", "hosts", "metadata"} <= set(document)
    assert document["output"]["@class"] == "MaterialReport"
    found = MaterialReport.model_validate({k: v for k, v in document["output"].items() if not k.startswith("@")})
    assert found == reports[1]


def test_force_constants_can_be_opened():
    (report,) = synthetic.synthetic_reports(1, ("delta",), force_constants=True)
    sides = [report.reference_result.phonons, report.foundation.summary, report.strategies[0].summary]
    models = [unpack_force_constants(default_artefacts().get_bytes(side.force_constants)) for side in sides]
    highest = [mesh_frequencies(model, 2).frequencies.max() for model in models]
    # the mixture lies between the two, nearer to the reference
    assert abs(highest[2] - highest[0]) < 0.3 * abs(highest[1] - highest[0])
    assert highest[0] != pytest.approx(highest[1], rel=1e-3)
