import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from phonosmith.cli.common import JSON, explained, print_json
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
