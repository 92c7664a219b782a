from pathlib import Path

import pytest

from phonosmith.core.errors import ConfigurationError
from phonosmith.flows.campaign import read_campaign
from phonosmith.settings import Settings

GOOD = """\
name: test
materials:
  - embedded:Si
  - structure: embedded:Ge
    name: germanium
foundations: [embedded]
strategies:
  - delta
  - transfer
engine:
  name: forcefield
  potential: embedded-reference
training:
  epochs: 3
  delta: {lr: 0.002}
"""


def write(tmp_path, text):
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    return path


def test_a_good_file_is_a_campaign(tmp_path):
    found = read_campaign(write(tmp_path, GOOD))
    assert list(found.structures) == ["Si", "germanium"]
    assert [ref.name for ref in found.foundations] == ["embedded"]
    names = {job.name for job, _ in found.flow().iterflow()}
    assert {"train si delta", "train germanium transfer", "report si"} <= names


def test_displaced_cells_of_a_program_are_counted_before_anything_runs(tmp_path):
    pytest.importorskip("phono3py")
    assert read_campaign(write(tmp_path, GOOD)).calculations() == {}
    program = GOOD.replace("name: forcefield", "name: vasp\n  rehearsal: true") + "min_length: 10\n"
    found = read_campaign(write(tmp_path, program + "evaluate: [qha, kappa]\n"))
    # one displacement in silicon, at the relaxed and five further volumes; third order as in phono3py's example
    assert found.calculations()["Si"] == {"phonons": 1, "qha": 5, "kappa": 111}
    assert read_campaign(write(tmp_path, program)).calculations()["Si"] == {"phonons": 1}


def test_the_example_is_a_campaign():
    path = Path(__file__).parents[2] / "workflows" / "campaign.yaml"
    if not path.is_file():
        pytest.skip("the tests run without the rest of the source tree")
    found = read_campaign(path)
    assert "train si multihead 16" in {job.name for job, _ in found.flow().iterflow()}


def test_files_are_found_beside_the_campaign(tmp_path, monkeypatch):
    from ase.build import bulk

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    bulk("Si").write(folder / "mine.cif")
    path = write(folder, GOOD.replace("- embedded:Si", "- mine.cif"))
    monkeypatch.chdir(tmp_path)
    assert list(read_campaign(path).structures) == ["mine", "germanium"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("  - transfer", "  - trasnfer", 9, ("strategies[1]", "trasnfer", "Did you mean transfer?")),
        ("name: test", "nam: test", 1, ("nam: unknown field", "Did you mean name?")),
        ("    name: germanium", "    nme: germanium", 5, ("materials[1].nme", "Did you mean name?")),
        ("  name: forcefield", "  name: forcefeld", 11, ("engine.name", "Did you mean forcefield?")),
        ("delta: {lr: 0.002}", "delta: {lrr: 0.002}", 15, ("training.delta.lrr", "Did you mean lr?")),
        ("  epochs: 3", "  epochs: -3", 14, ("training.epochs", "-3")),
        ("  delta: {lr: 0.002}", "  lora: {lr: 0.002}", 15, ("training.lora", "not among the strategies")),
        ("- embedded:Si", "- Missing.cif", 3, ("materials[0]", "Missing.cif", "not a file")),
        ("- embedded:Si", "- embedded:Uo", 3, ("materials[0]", "Si, Ge, C, SiC")),
        ("[embedded]", "[embeded]", 6, ("foundations[0]", "Did you mean embedded?")),
        ("[embedded]", "[embedded, embedded]", 6, ("foundations[1]", "given twice")),
        ("  potential: embedded-reference\n", "", 10, ("engine", "needs a potential")),
        ("  name: germanium", "  name: si", 4, ("materials[1]", "second material")),
        ("foundations: [embedded]\n", "", 1, ("foundations: missing",)),
        ("name: test", "sampling: {n_selct: 3}", 1, ("sampling.n_selct", "Did you mean n_select?")),
        ("name: test", "evaluate: [elastc]", 1, ("evaluate[0]", "Did you mean elastic?")),
        ("name: test", "n_train: [0]", 1, ("n_train[0]",)),
        ("name: test", "supercell: cubc", 1, ("supercell", "Did you mean cubic?")),
        ("name: test", "nac: true", 1, ("nac", "the engine forcefield computes none")),
        ("name: test", "follow: {threshold: 0.05}", 1, ("follow.threshold", "Did you mean threshold_thz?")),
        ("name: test", "follow: {grid: {points: [20]}}", 1, ("Grid points (20,) are not odd",)),
        ("name: test", "sampling: {volume_of: nothing}", 1, ("sampling.volume_of", "distorted, supercell")),
        ("name: test", "name: test\nname: again", 2, ("given twice, first in line 1",)),
        ("name: test", "seeds: [-1]", 1, ("seeds[0]", "greater than or equal to 0")),
        ("name: test", "sampling_seed: 4294967296", 1, ("sampling_seed", "less than 4294967296")),
        ("name: test", "n_train: [4, 100000]", 1, ("n_train", "the sampling gives at most 16")),
        ("name: test", "mesh: 100000000", 1, ("mesh", "less than or equal to 100")),
        ("name: test", "min_length: 1.0e6", 1, ("min_length", "less than or equal to 100")),
        ("name: test", "min_length: 95", 1, ("min_length", "too many to choose from")),
        ("name: test", "min_length: .nan", 1, ("min_length",)),
        (
            "name: test",
            "sampling: {supercell_matrix: 2x2x2}",
            1,
            ("sampling.supercell_matrix", "three independent rows"),
        ),
        (
            "name: test",
            "sampling: {supercell_matrix: [[1, 0, 0], [1, 0, 0], [0, 0, 1]]}",
            1,
            ("three independent rows",),
        ),
        ("name: test", "supercell: 2x2x2", 1, ("supercell", "Known: cubic, compact")),
        ("delta: {lr: 0.002}", "delta: {true: 0.002}", 15, ("true: the name of a field is text",)),
        ("delta: {lr: 0.002}", "1: {lr: 0.002}", 15, ("1: the name of a field is text",)),
        ("delta: {lr: 0.002}", "? [a, b]\n  : 1", 15, ("unhashable key",)),
        ("  - transfer", "  - [transfer]", 9, ("strategies[1]",)),
        ("  - transfer", "  - {transfer: 1}", 9, ("strategies[1]",)),
        ("materials:", "materials: [", 15, ("not valid YAML",)),
        ("  name: forcefield", "  name: forcefield\n  protocol: {encutt: 400}", 12, ("protocol.encutt", "encut")),
    ],
)
def test_every_mistake_is_said_with_its_line_and_field(tmp_path, old, new, line, words):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        read_campaign(path)
    found = caught.value.message.splitlines()
    ours = [text for text in found if f"{path}, line {line}" in text or ("YAML" in text and "line" in text)]
    assert any(all(word in text for word in words) for text in ours), caught.value.message
    assert caught.value.exit_code == 2


def test_limits_of_the_verdicts_travel_with_the_report_and_mistakes_are_named(tmp_path):
    found = read_campaign(write(tmp_path, GOOD + "verdict: {phonon_mae_thz: 0.08}\n"))
    (report,) = [job for job, _ in found.flow().iterflow() if job.name == "report si"]
    subject = report.function_args[0]
    assert (subject.limits, subject.thresholds.phonon_mae_thz) == ({"phonon_mae_thz": 0.08}, 0.08)
    assert subject.thresholds.thermal_percent == Settings().verdict_thermal_percent
    with pytest.raises(ConfigurationError) as error:
        read_campaign(write(tmp_path, GOOD + "verdict: {phonon_mae: 0.08, thermal_percent: -1}\n"))
    assert "line 16: verdict.phonon_mae: 'phonon_mae' is not known. Did you mean phonon_mae_thz?" in str(error.value)
    assert "line 16: verdict.thermal_percent: Input should be greater than 0" in str(error.value)


def _tower(levels):
    """Each level holds the one below nine times: 9 to the power of the levels when written out."""
    rows = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(["l0: &l0 [x, x]", *rows, f"name: *l{levels - 1}"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: &a [*a]\n", "holds itself"),
        ("a: &a {b: &b {c: *a}}\n", "holds itself"),
        ("name: " + "[" * 100_000, "nested more than"),
        ("- " * 100_000, "nested more than"),
        (_tower(9), "through its aliases"),
        ("name: \x00", "not valid YAML"),
        ("name: 2001-99-99", "not valid YAML"),
        ("name: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: 1\n" * 300_000, "MiB"),
        ("[]", "must hold"),
    ],
    ids=["itself", "far itself", "flow", "block", "aliases", "null", "date", "code", "long", "list"],
)
def test_a_file_that_is_a_trap_ends_with_a_reason(tmp_path, text, words):
    with pytest.raises(ConfigurationError, match=words):
        read_campaign(write(tmp_path, text))


def test_aliases_are_fine(tmp_path):
    text = GOOD.replace("    name: germanium", "    name: &ge germanium").replace("name: test", "name: test", 1)
    text = text.replace("name: test\n", "", 1) + "name: *ge\n"
    assert read_campaign(write(tmp_path, text)).spec.name == "germanium"


def test_all_mistakes_are_said_at_once(tmp_path):
    text = GOOD.replace("- transfer", "- trasnfer").replace("[embedded]", "[embeded]").replace("epochs: 3", "epochs: 0")
    with pytest.raises(ConfigurationError) as caught:
        read_campaign(write(tmp_path, text))
    assert len(caught.value.message.splitlines()) == 3


def test_a_foundation_that_lacks_an_element_is_refused_with_the_material(tmp_path):
    from ase.build import bulk

    bulk("Au").write(tmp_path / "gold.cif")
    with pytest.raises(ConfigurationError, match=r"line 3: materials\[0\]: gold: the foundation embedded .* Au"):
        read_campaign(write(tmp_path, GOOD.replace("- embedded:Si", "- gold.cif")))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        read_campaign(tmp_path / "no.yaml")
    with pytest.raises(ConfigurationError, match="field: value"):
        read_campaign(write(tmp_path, "- a\n- b\n"))
