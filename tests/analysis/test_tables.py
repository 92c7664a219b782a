"""Tables regenerated from a store of synthetic results whose medians, confusions and costs are known."""

import io
import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from helpers.synthetic import store_reports, synthetic_reports
from helpers.synthetic_targets import (
    DISPLACEMENT_CORE_HOURS,
    LABEL_CORE_HOURS,
    called_unstable,
    displaced_cells,
    is_unstable,
    target,
)
from phonosmith.analysis import costs, tables
from phonosmith.analysis.choice import Choice, in_order
from phonosmith.analysis.documents import Cost
from phonosmith.analysis.published import grandel2026
from phonosmith.analysis.queries import read_results
from phonosmith.analysis.table import CampaignTable, Table, escape_latex, number, significant, write_tables
from phonosmith.analysis.tables import campaign_tables
from phonosmith.core.errors import InputError
from phonosmith.core.manifest import Manifest
from phonosmith.engines.store.sqlite import open_embedded_jobstore
from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Pathway, Phase, TransitionDoc
from phonosmith.structures.cost import CostModel, workload


@pytest.fixture
def fill(tmp_path):
    """Return a function that puts reports into a new embedded store."""
    made = []

    def filled(reports):
        store = open_embedded_jobstore(tmp_path / f"store{len(made)}.sqlite")
        made.append(store)
        store_reports(store, reports)
        return store

    return filled


@pytest.fixture(scope="module")
def thirteen(tmp_path_factory):
    """Tables of thirteen materials, two cells."""
    store = open_embedded_jobstore(tmp_path_factory.mktemp("thirteen") / "store.sqlite")
    store_reports(store, synthetic_reports(13, cells=("small", "large")))
    return {table.key: table for table in campaign_tables(store).tables}


def test_table_1_has_the_known_medians(thirteen):
    table = thirteen["table1_phonon_mae"]
    ours = table.data[table.data["source"] == "this store"]
    assert len(ours) == 2 * 5
    for row in ours.to_dict("records"):
        expected = target("phonon_mae_thz", row["strategy"], 10, row["cell"])
        assert (row["median"], row["iqr"], row["n"]) == pytest.approx((*expected, 13), rel=1e-12)
    block = table.blocks[0]
    assert block.columns == ["cell", "foundation", "scratch", "transfer", "multihead", "delta"]
    assert block.texts[1] == [
        "large",
        "0.270 (0.180)",
        "0.216 (0.144)",
        "0.068 (0.045)",
        "0.081 (0.054)",
        "0.054 (0.036)",
    ]


def test_table_2_and_properties_have_the_known_medians(thirteen):
    names = {"Δω_max, %": "omega_max_percent", "ΔDOS, %": "dos_percent", "G (VRH), %": "shear_modulus_percent"}
    names |= {
        "κ (Slack), %": "slack_percent",
        "F, %": "free_energy_percent",
        "B (E(V) curve), %": "bulk_modulus_percent",
    }
    checked = 0
    for key in ("table2_phonon_errors", "properties"):
        data = thirteen[key].data
        for row in data[data["source"] == "this store"].to_dict("records"):
            if row["error"] in names:
                expected = target(names[row["error"]], row["strategy"], 10)
                assert (row["median"], row["iqr"]) == pytest.approx(expected, rel=1e-9), row
                checked += 1
    assert checked == 6 * 5


def test_shares_within_five_percent_are_counted(thirteen):
    data = thirteen["properties"].data.query("error == 'C_v, %' and strategy == 'foundation'").iloc[0]
    median, spread = target("heat_capacity_percent", "foundation")
    values = median + 2 * spread * (np.arange(13) / 12 - 0.5)
    assert data["share_within_5_percent"] == np.mean(np.abs(values) <= 5)


def test_table_3_counts_what_was_put_in(thirteen):
    table = thirteen["table3_stability"]
    for row in table.data[table.data["source"] == "this store"].to_dict("records"):
        pairs = Counter((is_unstable(i), called_unstable(i, row["strategy"])) for i in range(13))
        assert row["true_stable"] == pairs[False, False]
        assert row["stable_called_unstable"] == pairs[False, True]
        assert row["unstable_called_stable"] == pairs[True, False]
        assert row["true_unstable"] == pairs[True, True]
        called = pairs[True, True] + pairs[False, True]
        precision = 100 * pairs[True, True] / called if called else np.nan
        assert row["precision_percent"] == pytest.approx(precision, nan_ok=True)
        assert row["recall_percent"] == pytest.approx(100 * pairs[True, True] / 2)
    assert table.blocks[0].texts[-1] == ["recall of unstable, %", "100", "0", "50", "100", "100"]
    # nothing was called unstable by scratch: precision does not exist
    assert table.blocks[0].texts[-2][2] == "–"


def test_published_confusions_give_the_published_precision_and_recall(thirteen):
    table = thirteen["table3_stability"]
    theirs = table.data[table.data["source"] != "this store"].set_index("strategy")
    for name, figures in grandel2026().stability.items():
        # printed without decimals
        assert theirs.loc[name, "precision_percent"] == pytest.approx(figures.precision, abs=0.5)
        assert theirs.loc[name, "recall_percent"] == pytest.approx(figures.recall, abs=0.5)


def test_costs_and_savings_are_those_of_the_formula(thirteen):
    table = thirteen["costs"]
    ours = table.data[table.data["source"] == "this store"].set_index("at_least")
    labels = 14 * LABEL_CORE_HOURS
    for least in (1, 10, 20):
        cells = [displaced_cells(i) for i in range(13) if displaced_cells(i) >= least]
        phonons = DISPLACEMENT_CORE_HOURS * np.mean(cells)
        row = ours.loc[least]
        assert row["n"] == len(cells)
        assert row["mean_phonon_core_hours"] == pytest.approx(phonons)
        assert row["mean_label_core_hours"] == pytest.approx(labels)
        assert row["saving_percent"] == pytest.approx(100 * (1 - labels / phonons))
        single = [100 * (1 - labels / (DISPLACEMENT_CORE_HOURS * count)) for count in cells]
        assert row["median_saving_percent"] == pytest.approx(np.median(single))
    assert thirteen["training_times"].blocks[0].texts[0] == ["mean", "1.20", "1.20", "8.30", "7.30"]


def test_savings_by_displaced_cells_and_seeds_do_not_count_twice(fill):
    once = costs.cost_per_material(read_results(fill(synthetic_reports(4, ("delta",)))))
    thrice = costs.cost_per_material(read_results(fill(synthetic_reports(4, ("delta",), seeds=3))))
    pd.testing.assert_frame_equal(once, thrice)
    curve = costs.savings(once, sorted(displaced_cells(i) for i in range(4)))
    assert curve["n"].tolist() == [4, 3, 2, 1]


def test_calculations_of_a_program_count_as_reference_phonons_and_curvature_does_not(fill):
    (report,) = synthetic_reports(1, ("delta",))
    extra = {"stage": "phonon", "wall_seconds": 7200.0, "cores": 48, "n_calculations": 3}
    report.costs += [Cost(name="displace tio2 reference", **extra), Cost(name="displace tio2 curvature", **extra)]
    (row,) = costs.cost_per_material(read_results(fill([report]))).to_dict("records")
    assert row["phonon_core_hours"] == pytest.approx(DISPLACEMENT_CORE_HOURS * displaced_cells(0) + 96)


def test_published_figures_are_labelled_and_can_be_left_out(fill, thirteen):
    label = "arXiv:2604.01017 (53 other materials, another data set)"
    assert thirteen["table1_phonon_mae"].blocks[1].caption == label
    assert f"Published, {label}" in thirteen["table1_phonon_mae"].markdown().replace("\\", "")
    store = fill(synthetic_reports(2, ("delta",)))
    alone = campaign_tables(store, published=False)
    assert all(len(table.blocks) == 1 and set(table.data["source"]) <= {"this store"} for table in alone.tables)
    assert not any("arXiv" in note for note in alone.notes)


def test_published_figures_are_those_of_the_transcription(shared):
    path = shared / "reference" / "grandel2026_tables.yaml"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    theirs = yaml.safe_load(path.read_text())
    ours = grandel2026()

    def renamed(values):
        return {"delta" if name == "equitrain" else name: value for name, value in values.items()}

    mae = theirs["table1_phonon_mae_thz"]
    for here, there in (("primitive", "primitive"), ("small", "small_supercell"), ("large", "large_supercell")):
        expected = renamed(mae[there])
        if here == "large":
            expected |= {"foundation": mae["foundation_mp_0b3"], "freeze1": mae["frozen_first_layer_large"]}
        assert {name: list(pair) for name, pair in ours.phonon_mae[here].items()} == expected
    errors = theirs["table2_large_supercell_percent"]
    for here, there in (
        ("omega_max_error_percent", "omega_max"),
        ("omega_mean_scaled_error_percent", "omega_mean"),
        ("dos_error_percent", "dos"),
    ):
        assert {name: list(pair) for name, pair in ours.phonon_errors[here].items()} == renamed(errors[there])
    assert {name: one.model_dump() for name, one in ours.stability.items()} == renamed(theirs["table3_stability"])
    for name, one in renamed(theirs["table4_new_phases"]).items():
        assert ours.phases[name].precision == pytest.approx(100 * one["precision"])
        assert ours.phases[name].recall == pytest.approx(100 * one["recall"])
        assert ours.phases[name].f1 == one["f1"]
    assert sorted(map(list, ours.foundations.values())) == sorted(theirs["table5_foundation_phonon_mae_thz"].values())
    money = theirs["cost"]
    assert ours.cost.phonon_hours == money["dft_phonon_hours_per_material"]
    assert ours.cost.label_hours == money["finetune_data_hours_per_material"]
    assert list(ours.cost.saving_percent.values()) == list(money["mean_saving_percent"].values())
    assert ours.cost.training_minutes == renamed(money["training_minutes_a100"])


def transitions(initial, *final):
    def phase(symbol, number_, atoms):
        return Phase(space_group=symbol, space_group_number=number_, n_atoms_primitive=atoms,
                     energy_difference_ev_per_atom=-0.01)  # fmt: skip

    return TransitionDoc(
        formula="X", method="m", initial=phase(*initial), modes=[], phases=[phase(*one) for one in final],
        manifest=Manifest(),
    )  # fmt: skip


def test_table_4_averages_over_materials(fill):
    reports = synthetic_reports(3, ("delta",))
    cubic, low, other = ("Fm-3m", 225, 2), ("R3m", 160, 2), ("Pnma", 62, 8)
    truth = [(low, other), (low,), ()]
    found = [(low,), (other,), (low,)]
    for report, ours, theirs in zip(reports, truth, found, strict=True):
        report.reference_result.transitions = transitions(cubic, *ours)
        report.strategies[0].transitions = transitions(cubic, *theirs)
    # the foundation's crystal has become another one: not comparable
    reports[0].foundation.transitions = transitions(low, other)
    found_tables = campaign_tables(fill(reports))
    table = next(one for one in found_tables.tables if one.key == "table4_new_phases")
    (row,) = table.data[table.data["source"] == "this store"].to_dict("records")
    # precision 1, 0, 0 of three; recall 1/2, 0 of the two with phases
    assert row["strategy"] == "delta"
    assert row["precision_percent"] == pytest.approx(100 / 3)
    assert row["recall_percent"] == pytest.approx(25)
    assert row["f1"] == pytest.approx(2 * (1 / 3) * 0.25 / (1 / 3 + 0.25))
    assert any("foundation, TiO2" in note for note in table.notes)
    assert table.blocks[1].texts[0][-1] == "68"


def ways(*pathways, q=(1 / 3, 1 / 3, 0), label="K", **options):
    """A followed mode; each pathway is the displaced symbol and the final phase with its energy in eV/atom."""

    def phase(symbol, number_, atoms, energy):
        return Phase(space_group=symbol, space_group_number=number_, n_atoms_primitive=atoms,
                     energy_difference_ev_per_atom=energy)  # fmt: skip

    start = GridMinimum(amplitudes=[1.0], energy_ev_per_atom=-1e-3)
    return FollowedMode(
        q=list(q), label=label, frequency_thz=-0.5, multiplicity=1, band_indices=[0], exact=True, n_atoms=24,
        pathways=[
            Pathway(
                start=start, displaced=phase(displaced, 1, 1, -1e-3), final=phase(*final), converged=True, n_steps=9
            )
            for displaced, final in pathways
        ],
        **options,
    )  # fmt: skip


def test_tables_6_and_9_list_the_ways_along_modes(fill):
    """Rows of the published tables 6 and 9: K3Sb by DFT and by Equitrain, and a mode with a single minimum."""
    reports = synthetic_reports(2, ("delta",))
    initial = ("P6_3/mmc", 194, 8)
    by_dft, by_delta = transitions(initial), transitions(initial)
    by_dft.modes = [
        ways(("P6_3cm", ("P6_3cm", 185, 24, -0.00090241))),
        ways(q=(0, 0, 0.35), label="", single_minimum=True),
        ways(q=(0.02, 0.02, 0), label="", skipped="the smallest commensurate supercell has 20000 atoms"),
    ]
    by_delta.modes = [ways(("P6_3cm", ("P6_3cm", 185, 24, -0.001109341)))]
    reports[0].reference_result.transitions, reports[0].strategies[0].transitions = by_dft, by_delta
    reports[1].reference_result.transitions = transitions(("Fm-3m", 225, 2))
    found = {table.key: table for table in campaign_tables(fill(reports)).tables}
    six, nine = found["table6_pathways_reference"], found["table9_pathways_delta"]
    rows = pd.read_csv(io.StringIO(six.csv()), keep_default_na=False).to_dict("records")
    first = next(row for row in rows if row["label"] == "K")
    assert (first["n_imaginary"], first["n_not_followed"], first["q"]) == (3, 1, "0.3333/0.3333/0")
    assert (first["initial_space_group"], first["initial_atoms"]) == ("P6_3/mmc", 8)
    assert (first["displaced_space_group"], first["final_space_group"], first["final_atoms"]) == (
        "P6_3cm",
        "P6_3cm",
        "24",
    )
    assert float(first["energy_gain_ev_per_atom"]) == pytest.approx(0.00090241)
    assert {row["q"]: row["outcome"] for row in rows} == {
        "0.3333/0.3333/0": "relaxed", "0/0/0.35": "single minimum", "": "no imaginary mode"
    }  # fmt: skip
    (row,) = nine.data.to_dict("records")
    assert row["energy_gain_ev_per_atom"] == pytest.approx(0.001109341)
    assert "P6\\_3cm" in nine.markdown()


def test_tables_are_of_ten_structures_where_sets_are_equally_frequent(fill):
    """As published; a store of both sizes used to be told by its larger one."""
    store = fill(synthetic_reports(3, ("delta",), sizes=(5, 10, 16)))
    assert campaign_tables(store).choice.training_set == "10"
    assert campaign_tables(store, training_set="16").choice.training_set == "16"


def test_table_5_has_every_foundation(fill):
    store = fill(synthetic_reports(4, ("delta",), foundations=("one", "two"), cells=("small", "large")))
    found = campaign_tables(store, foundation="two")
    data = next(one for one in found.tables if one.key == "table5_foundations").data
    ours = data[data["source"] == "this store"]
    assert ours["foundation"].tolist() == ["one", "two"]
    assert ours["n"].tolist() == [4, 4]
    assert found.choice == Choice("two", "10", "large")
    assert any("other foundations are in table 5 only: one" in note for note in found.notes)


def test_missing_results_change_the_numbers_they_belong_to(fill):
    lost = synthetic_reports(5, failed={"TiO2": ("delta",)})
    table = {one.key: one for one in campaign_tables(fill(lost)).tables}["table1_phonon_mae"]
    ours = table.data[table.data["source"] == "this store"].set_index("strategy")
    assert (ours.loc["delta", "n"], ours.loc["transfer", "n"]) == (4, 5)
    values = [part.phonons.mae_thz for report in lost for part in report.strategies if part.strategy == "delta"]
    assert ours.loc["delta", "median"] == pytest.approx(np.median(values))
    assert "4 to 5 materials" in " ".join(table.notes)


def test_outliers_are_named(fill):
    reports = synthetic_reports(9, ("delta",))
    part = next(report for report in reports if report.material == "SnSe").strategies[0]
    part.phonons.mae_thz = 2.5
    table = {one.key: one for one in campaign_tables(fill(reports)).tables}["outliers"]
    assert table.data[["material", "strategy", "metric", "value"]].to_numpy().tolist() == [
        ["SnSe", "delta", "phonon_mae_thz", 2.5]
    ]
    assert "1.5 IQR" in table.notes[0]


def test_production_mode_gives_what_it_can(fill):
    found = campaign_tables(fill(synthetic_reports(3, mode="production", elastic=False, sizes=(5, 10))))
    assert {table.key for table in found.tables} == {
        "training_times",
        "verdicts",
        "learning_curve_force",
        "learning_curve_energy",
        "learning_curve_stress",
        "paired_tests_force",
        "outliers",
    }


def test_only_foundations_and_nothing_at_all(fill):
    bare = campaign_tables(fill(synthetic_reports(3, ())))
    assert bare.choice == Choice("embedded", "", "large")
    assert "table1_phonon_mae" in {table.key for table in bare.tables}
    nothing = campaign_tables(fill([]))
    assert nothing.tables == []
    assert nothing.notes == ["the store holds no report of a material yet"]


def test_the_choice_can_be_made_and_a_wrong_one_names_what_there_is(fill):
    store = fill(synthetic_reports(2, ("delta",), sizes=(5, 10), cells=("primitive", "small")))
    assert campaign_tables(store).choice == Choice("embedded", "10", "small")
    assert campaign_tables(store, training_set="5", cell="primitive").choice == Choice("embedded", "5", "primitive")
    with pytest.raises(InputError, match="No result has training set '7'") as caught:
        campaign_tables(store, training_set="7")
    assert "10, 5" in caught.value.advice
    assert in_order(["zzz", "delta+pft", "freeze2", "foundation", "freeze1"]) == [
        "foundation",
        "freeze1",
        "freeze2",
        "delta+pft",
        "zzz",
    ]


TRICKY = CampaignTable(
    "tricky_key",
    "50 % of A_b & C^d",
    [Table("", ["name", "ω, THz"], [["a|b_{x}", "<1 $5 #"], ["back\\slash ~", "–"]])],
    pd.DataFrame({"source": ["this store"], "value": [0.1 + 0.2]}),
)


def test_formats(tmp_path):
    latex = TRICKY.latex()
    shown = " ".join(latex.split())
    assert r"50 \% of A\_b \& C\textasciicircum{}d" in latex
    assert r"a\textbar{}b\_\{x\} & \textless{}1 \$5 \# \\" in shown
    assert r"back\textbackslash{}slash \textasciitilde{} & -- \\" in shown
    # once commands are taken out no character with a meaning is left
    plain = re.sub(
        r"\\[a-zA-Z]+(\{\})?|\\[&%$#_{}]|\$[^$]*\$", "", latex.split("\\hline", 1)[1].split("\\end{tabular}")[0]
    )
    assert not set("$%#_^~<>|") & set(plain)
    assert escape_latex("Å³ ≥ 3") == r"\AA{}$^3$ $\geq$ 3"
    lines = TRICKY.markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {3}
    assert float(pd.read_csv(io.StringIO(TRICKY.csv()))["value"].iloc[0]) == 0.1 + 0.2
    files = write_tables([TRICKY], tmp_path / "new")
    assert sorted(path.name for path in files) == ["tables.md", "tricky_key.csv", "tricky_key.md", "tricky_key.tex"]
    assert (tmp_path / "new" / "tricky_key.tex").read_text() == latex


def test_a_table_without_rows_is_still_a_table():
    empty = Table("", ["name", "ω, THz"], [])
    assert empty.drawn("pipe", str).splitlines()[1].count("|") == 3
    assert empty.drawn("latex_raw", str).startswith(r"\begin{tabular}{lr}")


def test_numbers_as_text():
    assert [str(number(value, 1)) for value in (None, float("nan"), -0.04, 2.25, -1.0)] == [
        "–",
        "–",
        "0.0",
        "2.2",
        "-1.0",
    ]


def test_core_hours_as_text():
    assert [str(significant(value)) for value in (6480.0, 12.345, 0.000120178, 0.0, None)] == [
        "6480",
        "12.3",
        "0.000120",
        "0",
        "–",
    ]


def test_plan_learns_from_finished_labels(fill, tmp_path):
    from phonosmith.cli.main import app
    from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS

    reports = synthetic_reports(2, ("delta",))
    for report in reports:
        report.rehearsal, report.reference = False, "vasp PBE"
    points, notes = costs.calibration_points(fill(reports))
    assert notes == []
    assert [point.core_hours for point in points] == pytest.approx([LABEL_CORE_HOURS] * 2)
    by_name = {report.material: report for report in reports}
    for point in points:
        assert len(point.structure) == by_name[point.material].sampling.n_atoms
    model = costs.calibrated_model(points, kspacing=0.1, encut=520)
    works = [workload(point.structure, kspacing=0.1, encut=520, potcars=PBE_54_SYMBOLS).work for point in points]
    assert model.prefactor == pytest.approx(np.sqrt(np.prod([LABEL_CORE_HOURS / work for work in works])))
    path = costs.write_calibration(points, tmp_path / "calibration", kspacing=0.1)
    structure = tmp_path / "calibration" / "cell-000.vasp"
    answer = CliRunner().invoke(
        app, ["plan", str(structure), "--calibration", str(path), "--kspacing", "0.1", "--json"]
    )
    planned = json.loads(answer.stdout)
    assert planned["calibrated_on"] == 2
    plain = json.loads(CliRunner().invoke(app, ["plan", str(structure), "--kspacing", "0.1", "--json"]).stdout)
    # the same work costs more by the ratio of the prefactors
    assert planned["core_hours"] / plain["core_hours"] == pytest.approx(
        model.prefactor / CostModel().prefactor, rel=1e-6
    )


def test_rehearsals_and_other_engines_do_not_calibrate(fill):
    assert costs.calibration_points(fill(synthetic_reports(2, ("delta",))))[0] == []


def test_every_builder_survives_one_material(fill):
    found = campaign_tables(fill(synthetic_reports(1)))
    assert len(found.tables) > 10
    for table in found.tables:
        assert "nan" not in table.markdown()
        assert all(len(row) == len(block.columns) for block in table.blocks for row in block.rows)
    assert found.tables[0].blocks[0].texts == [["large", "0.270", "0.216", "0.068", "0.081", "0.054"]]
    assert found.tables[0].notes == [tables.QUARTILES, "1 material"]


def test_no_p_across_potentials_of_one_crystal(thirteen):
    """Five potentials of each of thirteen crystals are 65 numbers, but no 65 independent ones."""
    rows = thirteen["correlation_force_phonon"].data.set_index("potentials")
    assert rows.loc["all fine-tuned", "n"] > rows.loc["delta", "n"] == 13
    assert np.isnan(rows.loc["all fine-tuned", "spearman_p"])
    assert rows.loc["all fine-tuned", "spearman"] > 0
    assert 0 <= rows.loc["delta", "spearman_p"] <= 1
