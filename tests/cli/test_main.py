import functools
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from phonosmith.cli.common import CAMPAIGNS, DATA, EVALUATION, JSON, MODELS, START, TRAINING, explained, print_json
from phonosmith.cli.main import app
from phonosmith.core.errors import InputError


def test_help_imports_no_numerical_library():
    code = (
        "import sys; from typer.testing import CliRunner; from phonosmith.cli.main import app;"
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output;"
        "heavy = ('torch', 'numpy', 'ase', 'pymatgen', 'phonopy', 'jobflow', 'matplotlib', 'maggma');"
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_every_command_has_help_that_teaches():
    runner = CliRunner()
    for command in typer.main.get_command(app).commands:
        result = runner.invoke(app, [command, "--help"])
        assert result.exit_code == 0, command
        assert len(result.output) > 200, command


@functools.cache
def commands():
    """Return every command of the program by its words."""

    def walk(group, words):
        for name, one in group.commands.items():
            yield from walk(one, (*words, name)) if hasattr(one, "commands") else [((*words, name), one)]

    return {" ".join(words): one for words, one in walk(typer.main.get_command(app), ())}


def options(one):
    """Return the options of a command by their longest spelling."""
    return {max(each.opts, key=len): each for each in one.params if each.param_type_name == "option"}


SAME = {
    *(
        "--json",
        "--relax",
        "--supercell",
        "--protocol",
        "--workdir",
        "--attempts",
        "--rehearsal",
        "--set",
        "--walltime",
    ),
    *("--project", "--launchpad", "--routing", "--store", "--campaign", "--workers", "--slots", "--time-limit"),
    *("--allow-rehearsal",),
}
"""Options that mean the same wherever they stand: the words of their help are the same, too."""

OTHER_WORDS = {"no-relax", "strategies", "temperatures", "jobstore", "phonon-length", "plot", "output", "count", "size"}
"""What options of the same meaning were called somewhere: not again."""


def test_an_option_has_one_spelling_and_one_kind_everywhere():
    kinds, words = {}, {}
    for name, one in commands().items():
        for spelling, option in options(one).items():
            assert spelling.removeprefix("--") not in OTHER_WORDS, (name, spelling)
            kind = (option.is_flag, tuple(option.secondary_opts), spelling == "--set" or None)
            assert kinds.setdefault(spelling, kind) == kind, (name, spelling)
            if spelling in SAME:
                assert words.setdefault(spelling, option.help) == option.help, (name, spelling)
    assert kinds.keys() >= SAME


def test_what_opens_a_model_may_be_told_to_trust_it():
    opens = {name for name, one in commands().items() if {"--potential", "--foundation"} & options(one).keys()}
    # compares what reports say of foundations; opens none
    opens.remove("tables")
    opens |= {"models show", "models export", "models card"}
    assert len(opens) > 15
    assert [name for name in sorted(opens) if "--trust" not in options(commands()[name])] == []


@pytest.mark.parametrize("name", commands())
def test_help_says_what_each_option_is_and_gives_an_example(name):
    one = commands()[name]
    assert "--json" in options(one)
    assert f"Example: phonosmith {name}" in " ".join(one.help.split())
    for option in one.params:
        assert option.help.endswith((".", ")", "?")), (option.name, option.help)
        # what stands in square brackets would be taken for markup and not be shown
        assert "[" not in option.help, (option.name, option.help)
        if getattr(option, "multiple", False):
            assert "(repeatable)" in option.help or "as in" in option.help, (option.name, option.help)


def test_old_spellings_are_still_understood_but_not_shown():
    found = {}
    for name, one in commands().items():
        current = (one.context_settings or {}).get("token_normalize_func")
        if current is not None:
            found |= {(name, old): current(old) for old in ("strategies", "frames", "phonon-length", "train", "valid")}
            for old in OTHER_WORDS | {"frames", "train", "valid"}:
                if current(old) != old:
                    assert f"--{current(old)}" in options(one), (name, old)
                    assert f"--{old}" not in options(one)
    assert found["demo", "strategies"] == "strategy"
    assert (found["plan", "frames"], found["plan", "phonon-length"]) == ("n-frames", "min-length")
    assert (found["from-phonons", "train"], found["from-phonons", "valid"]) == ("n-train", "n-valid")
    # through the parser, which names the new one
    refused = CliRunner().invoke(app, ["plan", "Si.cif", "--frames", "many"], env={"COLUMNS": "120"})
    assert "'--n-frames'" in refused.output


def test_init_cluster_asks_for_what_its_options_say():
    from phonosmith.engines.queues.configuration import Cluster

    for spelling, option in options(commands()["init-cluster"]).items():
        name = spelling.removeprefix("--").replace("-", "_")
        if name in Cluster.model_fields:
            asked = str(Cluster.model_fields[name].description)
            assert option.help.rstrip(".") == asked[0].upper() + asked[1:]


def test_help_is_in_groups_and_the_shell_can_complete():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    places = [shown.index(panel) for panel in (START, DATA, TRAINING, EVALUATION, CAMPAIGNS, MODELS)]
    assert places == sorted(places)
    assert "--install-completion" in shown
    assert {one.rich_help_panel for name, one in commands().items() if " " not in name} <= {
        START, DATA, TRAINING, EVALUATION, CAMPAIGNS, MODELS,
    }  # fmt: skip


def test_brackets_and_paragraphs_of_help_come_out_as_written():
    def shown(command):
        return " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "100"}).output.split())

    assert "GeTe: {initial: [Fm-3m, 2], final: [[R3m, 2], [Pmmn, 4]]}" in shown("score-phases")
    # no line ends within a paragraph but at the end of the terminal
    assert "with phonopy's quasi-harmonic fits. Volumes with" in shown("qha")


def test_errors_become_one_line_with_advice_and_a_code(capsys):
    mini = typer.Typer()

    @mini.command()
    @explained
    def fail(json_output: bool = JSON) -> None:
        raise InputError("Si.cif is empty.", "Give a CIF with atoms.")

    result = CliRunner().invoke(mini, ["--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {"error": "Si.cif is empty.", "advice": "Give a CIF with atoms."}
    assert "Give a CIF" in result.stderr
    assert "Traceback" not in result.output


def test_a_file_the_system_refuses_is_one_line(tmp_path):
    mini = typer.Typer()

    @mini.command()
    @explained
    def fail(json_output: bool = JSON) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "file" / "below").write_text("")

    result = CliRunner().invoke(mini, ["--json"])
    assert result.exit_code == 2
    assert "Not a directory" in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.output


def test_ctrl_c_is_one_line_and_json_wherever_it_comes():
    single = typer.Typer()

    @single.command()
    @explained
    def endless(json_output: bool = JSON) -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(single, ["--json"])
    assert result.exit_code == 130
    assert json.loads(result.stdout)["error"] == "Stopped."
    assert "the same command again" in result.stderr


def test_json_is_one_strict_object(capsys):
    import numpy as np

    print_json({"a": np.float64(1.5), "b": [float("nan"), np.arange(2)], "c": np.bool_(True)})
    assert json.loads(capsys.readouterr().out) == {"a": 1.5, "b": [None, [0, 1]], "c": True}


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.output.strip().count(".") == 2


@pytest.mark.parametrize("word", ["plann", "mdoels"])
def test_an_unknown_command_is_refused(word):
    assert CliRunner().invoke(app, [word]).exit_code == 2
