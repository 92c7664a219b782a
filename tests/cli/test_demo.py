import json
import os

import pytest
from typer.testing import CliRunner

from phonosmith.cli.main import app


@pytest.mark.slow
def test_the_demonstration_ends_with_verdicts_and_continues_where_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv("PHONOSMITH_ARTEFACTS", raising=False)
    arguments = ["demo", "--out", str(tmp_path), "--strategies", "delta", "--epochs", "25", "--json"]
    try:
        first = CliRunner().invoke(app, arguments)
        assert first.exit_code == 0, first.output
        found = json.loads(first.stdout)
        (delta,) = found["strategies"]
        assert delta["phonon_mae_thz"] < 0.5 * found["foundation"]["phonon_mae_thz"]
        assert {"phonon_mae_thz", "omega_max_error_percent", "verdict"} <= set(delta)
        assert found["foundation"]["omega_max_error_percent"] < -3
        assert (tmp_path / "figures" / "si-delta.png").stat().st_size > 10_000
        assert (tmp_path / "si-delta.model").is_file()
        assert str(tmp_path / "report.html") in found["files"]
        page = (tmp_path / "report.html").read_text()
        assert "delta" in page
        assert found["foundation"]["valid_force_mae_mev_per_angstrom"] > delta["valid_force_mae_mev_per_angstrom"] > 0
        again = CliRunner().invoke(app, arguments)
        assert json.loads(again.stdout)["jobs_run"] == 0
        assert json.loads(again.stdout)["strategies"] == found["strategies"]
    finally:
        os.environ.pop("PHONOSMITH_ARTEFACTS", None)


def test_an_unknown_material_or_strategy_is_said_at_once(tmp_path):
    for arguments, word in ((["--material", "Unobtainium"], "Si"), (["--strategies", "detla"], "delta")):
        result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), *arguments, "--json"])
        os.environ.pop("PHONOSMITH_ARTEFACTS", None)
        assert result.exit_code == 2
        assert word in json.loads(result.stdout)["advice"]
