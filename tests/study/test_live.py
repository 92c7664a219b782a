"""What a study shows while it runs: lines in a pipe, plain HTML in a notebook."""

import sys
from types import SimpleNamespace

from phonosmith.engines.local.outlook import Outlook, StageOutlook
from phonosmith.study import live


def moment(done, force=None):
    stage = StageOutlook("label", done=done, total=16, seconds_left=30.0)
    arrivals = live.Arrivals(None, 6, {"<delta>": live.Potential("training", force)})
    return live.sheet("Si", Outlook([stage], {}, 12.0), arrivals)


def test_a_pipe_gets_a_line_for_every_tenth_and_every_error(capsys):
    with live._lines() as paint:
        for done in (0, 1, 2, 2, 8):
            paint(moment(done))
        paint(moment(8, 12.34))
        paint(moment(8, 12.34))
    assert capsys.readouterr().err.splitlines() == [
        "label 1/16, 30 s left",
        "label 2/16, 30 s left",
        "label 8/16, 30 s left",
        "<delta>: force MAE 12.3 meV/Å",
    ]


def test_a_notebook_gets_one_table_that_changes(monkeypatch):
    shown = []
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    display = SimpleNamespace(HTML=str, display=lambda *_, **__: SimpleNamespace(update=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with live._notebook()() as paint:
        paint(moment(4, 12.34))
    assert len(shown) == 1
    assert "4/16" in shown[0]
    assert "12.3" in shown[0]
    assert "&lt;delta&gt;" in shown[0]
    assert "<delta>" not in shown[0]
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert live._notebook() is None
