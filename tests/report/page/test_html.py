"""The page as a document: everything in it, everything escaped, nothing from elsewhere."""

import base64
import itertools
import json
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from helpers.synthetic import synthetic_reports
from phonosmith.analysis.table import number
from phonosmith.core.errors import InputError
from phonosmith.report.page.html import write_report
from phonosmith.report.page.texts import formula_text, space_group_text, typeset, unique_slugs
from phonosmith.report.page.verdicts import tiles

HOSTILE = "<script>alert('x')</script>\"'&<img src=x onerror=alert(1)> Si\u202eₓ‑{{7*7}}"


class Outline(HTMLParser):
    """Keeps what the tests look at: tags with attributes, headings, ids, visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._inside, self.scripts = [], [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._inside):
            self.text.append(data)
        elif self._inside[-1] == "script" and "id" in self.tags[-1][1]:
            self.scripts[self.tags[-1][1]["id"]] = data

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]


def outline(path):
    return Outline(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    reports = synthetic_reports(2, strategies=("transfer", "delta"), sizes=(4, 10), failed={})
    found = write_report(reports, folder / "report.html", title="Two materials", unfinished={"late": "sampled"})
    return found, outline(found.path)


def data(found, name):
    """Return the data a page holds under an id."""
    return json.loads(zlib.decompress(base64.b64decode(found.scripts[name])))


def test_headings_descend_one_by_one_and_every_figure_has_words(page):
    _, found = page
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(len(picture["alt"]) > 20 for picture in found.all("img"))
    assert all(picture["src"].startswith("data:image/webp;base64,") for picture in found.all("img"))
    for attrs in found.all("section"):
        if attrs.get("class") == "material":
            charts = data(found, f"{attrs['id']}-data")["charts"]
            assert {"sampling", "training", "labels", "elastic", "eos"} <= {chart["key"] for chart in charts}
            assert all(len(chart["alt"]) > 20 for chart in charts)
    assert len(found.all("figcaption")) == len(found.all("figure"))


def test_a_screen_reader_finds_its_way(page):
    _, found = page
    assert found.all("html")[0]["lang"] == "en"
    assert found.all("a")[0] == {"class": "skip", "href": "#main"}
    assert all(head["scope"] in {"col", "row"} for head in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table"))
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [link["href"][1:] for link in found.all("a") if link["href"].startswith("#")]
    assert set(targets) <= set(ids)
    named = [attrs["aria-labelledby"] for _, attrs in found.tags if "aria-labelledby" in attrs]
    assert set(named) <= set(ids)


def test_nothing_is_loaded_from_elsewhere(page):
    written, found = page
    policy = next(attrs["content"] for attrs in found.all("meta") if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    addresses = [attrs[name] for _, attrs in found.tags for name in ("src", "href") if name in attrs]
    assert not [address for address in addresses if re.match(r"(https?:)?//", address)]
    assert "@import" not in written.path.read_text(encoding="utf-8")


def test_every_part_of_a_material_is_there_or_named_as_missing(page):
    _, found = page
    text = " ".join(found.text)
    for word in ("Phonons", "Thermal", "Stability", "Elastic", "Equation of state", "Structure", "Sampling",
                 "Labels and audit", "Training", "Costs", "Provenance"):  # fmt: skip
        assert word in text, word
    assert "Not part of this report: phase transitions, thermal expansion and conductivity, forgetting." in text
    assert "late" in text
    # the references of these reports lead nowhere: said, not hidden
    assert "cannot be drawn" in text


def test_numbers_on_the_page_are_those_of_the_documents(tmp_path):
    (report,) = synthetic_reports(1, strategies=("transfer", "delta"))
    page = outline(write_report([report], tmp_path / "a.html").path)
    text = " ".join(page.text)
    for entry in [report.foundation, *report.strategies]:
        assert f"{entry.phonons.mae_thz:.3f}" in text
        assert f"{entry.phonons.omega_max_error_percent:+.2f}".replace("-", "\N{MINUS SIGN}") in text
    # digests are short, with the whole one to copy
    copied = {attrs["data-copy"] for attrs in page.all("code")}
    assert {report.labels.train.sha256, report.foundation.potential.sha256} <= copied
    assert report.labels.train.sha256[:12] in text
    assert report.labels.train.sha256 not in text


def hostile_report():
    (report,) = synthetic_reports(1, strategies=("delta",))
    changed = report.model_dump()
    changed.update(material=HOSTILE, space_group=HOSTILE, reference=HOSTILE, notes=[HOSTILE], failed=[HOSTILE],
                   cell=HOSTILE, campaign=HOSTILE)  # fmt: skip
    changed["labels"]["findings"] = [HOSTILE]
    changed["strategies"][0]["strategy"] = HOSTILE
    changed["strategies"][0]["potential"]["name"] = HOSTILE
    changed["strategies"][0]["verdict"]["reasons"] = [HOSTILE]
    changed["strategies"][0]["verdict"]["fit"] = False
    changed["strategies"][0]["curve"]["stop_reason"] = HOSTILE
    changed["manifest"]["settings"] = {HOSTILE: HOSTILE}
    changed["manifest"]["packages"] = {HOSTILE: HOSTILE}
    changed["sampling"]["warnings"] = [HOSTILE]
    changed["costs"][0]["name"] = HOSTILE
    return type(report).model_validate(changed)


def test_hostile_names_stay_text(tmp_path):
    found = write_report(
        [hostile_report()],
        tmp_path / "a.html",
        title=HOSTILE,
        files=True,
        notes=[HOSTILE],
        unfinished={HOSTILE: HOSTILE},
    )
    page = outline(found.path)
    # one script, ours, beside data; no picture but embedded ones; no event handlers
    scripts = page.all("script")
    assert [attrs for attrs in scripts if attrs.get("type") != "text/plain"] == [{}]
    assert len(scripts) == 4
    sections = [data(page, name) for name in page.scripts]
    assert len(sections) == 3
    assert all(image["src"].startswith("data:image/webp") for image in page.all("img"))
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert typeset(HOSTILE) in "".join(page.text)
    assert "49" not in re.findall(r"Si\S*", "".join(page.text))
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"[a-z0-9.+/-]+", name) for name in written)
    for link in page.all("a"):
        if not link["href"].startswith("#"):
            assert (tmp_path / link["href"]).is_file(), link


def test_names_become_safe_addresses_and_numbers_readable():
    assert unique_slugs(["Si", "si", "Bi₂Te₃ (R-3m)", "../..", "<b>", ""]) == [
        "si", "si-2", "bi-te-r-3m", "material", "b", "material-2",
    ]  # fmt: skip
    assert [number(value, 2).text for value in (-0.004, 1.005, None, float("nan"))] == ["0.00", "1.00", "–", "–"]
    assert space_group_text("P4_2/mnm") == "P4₂/mnm"
    assert [formula_text(one) for one in ("Bi2Te3", "Ca(OH)2", "Li0.5CoO2", "Si")] == [
        "Bi₂Te₃", "Ca(OH)₂", "Li₀.₅CoO₂", "Si",
    ]  # fmt: skip
    assert typeset("ω_max off by -5.1 %, MACE-MP-0b3 on 2026-01-01, Fd-3m") == (
        "ωₘₐₓ off by −5.1 %, MACE-MP-0b3 on 2026-01-01, Fd-3m"
    )


def test_no_report_at_all_is_a_page_that_says_so(tmp_path):
    found = write_report([], tmp_path / "none.html")
    assert "There is no finished material yet." in "".join(outline(found.path).text)
    assert found.problems == []


def headline_of(found):
    """Return what stands before the first figure."""
    return " ".join(found.text).split("Phonon MAE")[0]


def test_only_dft_makes_a_claim_about_the_material(tmp_path):
    """The same numbers: a stand-in, a potential in the place of DFT, DFT, and DFT without phonons."""
    (played,) = synthetic_reports(1, strategies=("delta",), elastic=False)
    played.strategies[0].verdict = played.strategies[0].verdict.model_copy(update={"fit": True, "reasons": []})
    (blind,) = synthetic_reports(1, strategies=("delta",), elastic=False, mode="production")
    toy = played.model_copy(update={"rehearsal": False, "reference": "embedded-reference"})
    real = toy.model_copy(update={"reference": "vasp PBE"})
    blind = blind.model_copy(update={"rehearsal": False, "reference": "vasp PBE"})
    texts = {}
    for name, report in (("played", played), ("toy", toy), ("real", real), ("blind", blind)):
        page = outline(write_report([report], tmp_path / f"{name}.html").path)
        texts[name] = " ".join(page.text)
        sizes = {attrs["class"] for attrs in page.all("p") if attrs.get("class") in ("headline", "grounds")}
        assert sizes == {"headline", "grounds"}
    for name, words in (("played", "a program that stands in for VASP"), ("toy", "no evidence about the real crystal")):
        assert words in texts[name]
        assert "fit to a toy" in texts[name]
        assert "be trusted" not in texts[name]
    assert "delta can be trusted for harmonic phonons" in texts["real"]
    assert "fit to a toy" not in texts["real"]
    assert "stands in" not in texts["real"]
    assert "no reference phonons. Judged by validation forces" in texts["blind"]
    for name in ("played", "toy", "real"):
        assert "small demonstration model" in texts[name]


def test_numbers_of_the_verdict_stand_beside_limits_and_spread(tmp_path):
    reports = synthetic_reports(1, strategies=("delta",), seeds=3, elastic=False)
    found = [report.strategies[0].phonons.mae_thz for report in reports]
    page = outline(write_report(reports, tmp_path / "a.html").path)
    text = " ".join(" ".join(page.text).split())
    assert f"limit {0.1:g} THz" in text
    assert f"3 seeds: {min(found):.3f} to {max(found):.3f} THz" in text
    assert f"foundation {reports[0].foundation.phonons.mae_thz:.3f} THz" in text
    # the interval of a committee, where a report has one
    sure = reports[0].strategies[0].model_copy(update={"expected_mae_thz": SimpleNamespace(low=0.0511, high=0.0622)})
    one = reports[0].model_copy(update={"strategies": [sure]})
    assert "committee: 0.051 to 0.062 THz" in [line for tile in tiles(one, reports) for line in tile.lines]
    alone = " ".join(outline(write_report(reports[:1], tmp_path / "b.html").path).text)
    assert "one seed: spread not known" in alone


def test_a_damaged_part_does_not_cost_the_page(tmp_path):
    (report,) = synthetic_reports(1, strategies=("delta",), elastic=False)
    broken = report.model_copy(update={"structure": {"lattice": "nonsense"}})
    text = " ".join(outline(write_report([broken], tmp_path / "a.html").path).text)
    assert "This part could not be made" in text
    assert report.labels.train.sha256[:12] in text


@pytest.mark.slow
def test_production_mode_shows_what_the_verdict_rests_on(tmp_path):
    reports = synthetic_reports(1, strategies=("delta",), sizes=(4, 10), mode="production", elastic=False)
    last = next(entry for entry in reports[0].strategies if entry.n_train == 10)
    assert last.phonon_change_thz is None  # no phonons are compared in these reports
    last.phonon_change_thz, last.verdict.reasons = 0.0123, ["because"]
    text = " ".join(outline(write_report(reports, tmp_path / "a.html").path).text)
    assert "0.012" in text
    assert "phonons moved with the last labels by, THz" in text


def test_a_material_without_any_potential_is_said(tmp_path):
    (report,) = synthetic_reports(1, strategies=("delta",), elastic=False)
    bare = report.model_copy(update={"strategies": [], "failed": ["delta"], "best": None, "gain": None})
    text = " ".join(outline(write_report([bare], tmp_path / "a.html").path).text)
    assert "No potential was finished" in text
    assert "delta has no result" in text


def test_the_name_must_be_that_of_a_page(tmp_path):
    with pytest.raises(InputError, match="HTML"):
        write_report([], tmp_path / "report.pdf")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError, match="folder"):
        write_report([], tmp_path / "folder.html")


@pytest.mark.slow
def test_a_reader_without_a_display(tmp_path):
    """Figures need neither pyplot nor a backend that opens windows."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from phonosmith.report.page.html import write_report\n"
        "from helpers.synthetic import synthetic_reports\n"
        "reports = synthetic_reports(2, strategies=('delta',))\n"
        f"found = write_report(reports, Path({str(tmp_path)!r}) / 'a.html')\n"
        "assert 'data:image/webp' in found.path.read_text()\n"
        "assert 'tkinter' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | {"MPLBACKEND": "TkAgg"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_transitions_and_forgetting_have_tables_and_figures(tmp_path):
    from phonosmith.core.manifest import Manifest
    from phonosmith.evaluation.forgetting.documents import ForgettingDoc, ForgettingSet
    from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Pathway, Phase, TransitionDoc

    start = Phase(
        space_group="P6_3/mmc", space_group_number=194, n_atoms_primitive=8, energy_difference_ev_per_atom=0.0
    )
    low = start.model_copy(update={"space_group": "P6_3cm", "space_group_number": 185, "n_atoms_primitive": 24,
                                   "energy_difference_ev_per_atom": -0.0123})  # fmt: skip
    minimum = GridMinimum(amplitudes=[2.0], energy_ev_per_atom=-0.01)
    mode = FollowedMode(
        q=[1 / 3, 1 / 3, 0.0], label="K", frequency_thz=-1.234, multiplicity=1, band_indices=[0], exact=True,
        grid_shape=[5], amplitudes=[-4.0, -2.0, 0.0, 2.0, 4.0], energies=[0.03, -0.01, 0.0, -0.01, 0.03],
        minima=[minimum],
        pathways=[Pathway(start=minimum, displaced=low, final=low, converged=True, n_steps=10)],
    )  # fmt: skip
    found = TransitionDoc(
        formula="K3Sb", method="delta", initial=start, modes=[mode], phases=[low], manifest=Manifest()
    )
    elsewhere = ForgettingSet(name="other material Ge", kind="other", n_structures=5, truth="reference",
                              foundation_force_mae=80.0, tuned_force_mae=120.0)  # fmt: skip
    forgotten = ForgettingDoc(potential_sha256="a", foundation_sha256="b", sets=[elsewhere],
                              skipped=["replay pool: no labels"], manifest=Manifest())  # fmt: skip
    (report,) = synthetic_reports(1, strategies=("delta",))
    report.strategies[0].transitions, report.strategies[0].forgetting = found, forgotten
    report.reference_result.transitions = found.model_copy(update={"method": "DFT"})
    page = outline(write_report([report], tmp_path / "a.html").path)
    text = " ".join(page.text)
    for word in ("−1.234", "−12.30", "P6₃cm (185)", "120.0", "1.50", "replay pool: no labels"):
        assert word in text, word
    charts = {chart["key"]: chart for chart in data(page, f"{page.all('section')[1]['id']}-data")["charts"]}
    assert {"modes", "pathways", "forgetting"} <= charts.keys()
    assert charts["modes"]["panels"][0]["series"][0]["y"] == [30, -10, 0, -10, 30]
