"""Frames from a job store hold the numbers of the reports, whatever the store."""

import re
from types import UnionType
from typing import Union, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel

from helpers.synthetic import store_reports, synthetic_reports
from phonosmith.analysis import collection, columns
from phonosmith.analysis.documents import MaterialReport
from phonosmith.analysis.queries import read_results
from phonosmith.core.errors import ConfigurationError


def reaches(model, path):
    """Say whether a dotted path leads through fields of documents (lists count as their items)."""
    parts = path.split(".")
    for number, part in enumerate(parts):
        field = model.model_fields.get(part)
        if field is None:
            return False
        kind = field.annotation
        while get_origin(kind) in (Union, UnionType, list):
            kind = next(item for item in get_args(kind) if item is not type(None))
        if get_origin(kind) is dict:
            return True
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return number == len(parts) - 1
        model = kind
    return True


def test_every_path_is_a_field_of_the_documents():
    for path in collection.PROJECTION:
        if path.startswith("output."):
            assert reaches(MaterialReport, path.removeprefix("output.")), path
    assert not reaches(MaterialReport, "foundation.phonons.mae")


def test_numbers_are_those_of_the_documents(job_store, reports):
    store_reports(job_store, reports)
    found = read_results(job_store)
    assert found.notes == []
    # three materials, two cells: the foundation and four strategies with two sizes each
    assert len(found.materials) == 6
    assert len(found.potentials) == 6 * 9
    report = next(one for one in reports if one.material == "SnSe" and one.cell == "small")
    part = next(one for one in report.strategies if one.strategy == "delta" and one.n_train == 10)
    rows = found.potentials.query("material == 'SnSe' and cell == 'small' and strategy == 'delta' and n_train == 10")
    (row,) = rows.to_dict("records")
    assert row["phonon_mae_thz"] == part.phonons.mae_thz
    assert row["valid_force_mae_mev_per_angstrom"] == part.valid_force_mae
    truth = report.reference_result.elastic.fit.moduli.shear_vrh
    assert row["shear_modulus_error_percent"] == pytest.approx(
        100 * (part.elastic.fit.moduli.shear_vrh - truth) / truth
    )
    pair = part.phonons
    assert row["entropy_error_percent"] == pytest.approx(
        100 * (pair.candidate.entropy - pair.reference.entropy) / pair.reference.entropy
    )
    # free energies are negative: the sign of the error follows the value, not the ratio
    assert row["free_energy_error_percent"] == pytest.approx(
        100 * (pair.candidate.free_energy - pair.reference.free_energy) / abs(pair.reference.free_energy)
    )
    assert row["training_set"] == "10"
    assert row["fit"] == part.verdict.fit
    costs = found.costs.query("material == 'SnSe' and cell == 'small'")
    assert costs["core_hours"].sum() == pytest.approx(sum(one.wall_seconds * one.cores for one in report.costs) / 3600)
    material = found.materials.query("material == 'SnSe' and cell == 'small'").iloc[0]
    assert material["n_atoms"] == len(report.structure["sites"])
    assert material["gain"] == report.gain


def test_columns_have_types_units_and_descriptions(campaign):
    found = read_results(campaign)
    every = (*columns.IDENTITY, *columns.METRICS)
    assert list(found.potentials.columns) == [column.name for column in every]
    assert found.potentials.attrs["units"]["phonon_mae_thz"] == "THz"
    for column in every:
        assert column.description
        for unit, ending in (
            ("THz", "_thz"),
            ("percent", "_percent"),
            ("s", "_seconds"),
            ("meV/Å", "mev_per_angstrom"),
        ):
            assert column.unit != unit or column.name.endswith(ending)
    assert found.potentials["stable"].dtype == "boolean"
    assert found.potentials["n_train"].dtype == "Int64"


def test_only_the_newest_report_counts(job_store):
    old = synthetic_reports(2, ("delta",), seed=1)
    new = synthetic_reports(1, ("delta", "transfer"), seed=1)
    new[0].strategies[0].phonons.mae_thz = 0.001
    store_reports(job_store, [*old, *new])
    found = read_results(job_store)
    assert len(found.materials) == 2
    rows = found.potentials.query("material == 'TiO2' and strategy != 'foundation'")
    assert sorted(rows["strategy"]) == ["delta", "transfer"]
    assert rows["phonon_mae_thz"].min() == 0.001


def test_seeds_cells_and_foundations_are_kept_apart(job_store):
    store_reports(
        job_store, synthetic_reports(1, ("delta",), cells=("small", "large"), seeds=2, foundations=("a", "b"))
    )
    assert len(read_results(job_store).materials) == 8


def test_one_campaign(job_store):
    store_reports(job_store, synthetic_reports(2, ("delta",), campaign="one"))
    store_reports(job_store, synthetic_reports(3, ("delta",), campaign="two"))
    assert len(read_results(job_store, "one").materials) == 2
    assert len(read_results(job_store, "none").materials) == 0


def test_an_empty_store_gives_empty_frames_with_all_columns(job_store):
    found = read_results(job_store)
    assert found.empty
    assert list(found.potentials.columns) == [column.name for column in (*columns.IDENTITY, *columns.METRICS)]
    assert found.potentials["phonon_mae_thz"].dtype == np.float64


def test_production_mode_and_failures(job_store):
    store_reports(job_store, synthetic_reports(2, mode="production", elastic=False, failed={"TiO2": ("delta",)}))
    found = read_results(job_store)
    assert found.potentials["phonon_mae_thz"].isna().all()
    assert found.potentials["stable"].isna().all()
    assert found.potentials["valid_force_mae_mev_per_angstrom"].notna().all()
    assert found.failures[["material", "what"]].to_numpy().tolist() == [["TiO2", "delta"]]
    # without reference phonons the displaced cells are those its own phonons took
    assert found.materials["n_displaced_cells"].notna().all()


def edit(store, change):
    """Change the stored output of every report."""
    documents = list(store.query({"name": {"$regex": "^report"}}))
    for document in documents:
        change(document["output"])
    store.update(documents, key=["uuid", "index"])


def test_layout_one_is_read_and_a_newer_one_refused(job_store):
    store_reports(job_store, synthetic_reports(2, ("delta",)))

    def age(output):
        if output["material"] == "TiO2":
            output["schema_version"] = 1
            for name in ("mode", "cell", "seed", "costs", "reference_result", "structure", "key", "campaign"):
                output.pop(name)
            output["labels"].pop("subsets")
        else:
            output["schema_version"] = 3

    edit(job_store, age)
    found = read_results(job_store)
    assert found.materials["material"].tolist() == ["TiO2"]
    assert found.materials["mode"].tolist() == ["comparison"]
    assert found.potentials["training_set"].tolist() == ["", "all"]
    assert found.potentials["phonon_mae_thz"].notna().all()
    (note,) = found.notes
    assert re.search(r"report of Bi2Te3 has layout 3, 1 to 2 can be read: install a newer phonosmith", note)


def test_a_damaged_report_is_named_and_the_others_are_read(job_store):
    store_reports(job_store, synthetic_reports(2, ("delta",)))

    def damage(output):
        if output["material"] == "TiO2":
            output["strategies"][0]["phonons"]["mae_thz"] = "small"

    edit(job_store, damage)
    found = read_results(job_store)
    assert found.materials["material"].tolist() == ["Bi2Te3"]
    (note,) = found.notes
    assert "TiO2 is damaged: phonon_mae_thz is 'small', not a number" in note


def test_labels_lost_in_the_audit_do_not_tear_a_training_set_apart(job_store):
    (report,) = synthetic_reports(1, ("delta",), sizes=(5, 10))
    for one in report.strategies:
        if one.n_train == 10:
            one.n_train = 9
    report.labels.subsets["10"].n_frames = 9
    store_reports(job_store, [report])
    rows = read_results(job_store).potentials.query("strategy == 'delta'")
    assert dict(zip(rows["training_set"], rows["n_train"], strict=True)) == {"5": 5, "10": 9}


def test_large_parts_are_not_read(campaign):
    (document, *_) = collection.find_reports(campaign, None, collection.PROJECTION, [])
    output = document["output"]
    assert "curve" not in output["strategies"][0]
    assert "tensor" not in output["foundation"]["elastic"]["fit"]
    assert set(output["structure"]) == {"sites"}
    assert "sampling" not in output
    whole = campaign.query_one({"uuid": document["uuid"]})
    assert len(repr(document)) < 0.35 * len(repr(whole))


def test_other_jobs_named_report_are_left_alone(job_store):
    job_store.update({"uuid": "x", "index": 1, "name": "report si", "output": {"value": 1}})
    job_store.update({"uuid": "y", "index": 1, "name": "report si", "output": 3})
    assert read_results(job_store).empty


def test_a_store_that_cannot_be_reached_is_named():
    from jobflow import JobStore
    from maggma.stores import MongoStore

    store = JobStore(
        MongoStore("db", "outputs", host="127.0.0.1", port=1, mongoclient_kwargs={"serverSelectionTimeoutMS": 50})
    )
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_results(store)


def test_frames_join(campaign):
    found = read_results(campaign)
    keys = ["material", "foundation", "cell", "seed"]
    joined = found.potentials.merge(found.materials[[*keys, "n_displaced_cells"]], on=keys)
    assert len(joined) == len(found.potentials)
