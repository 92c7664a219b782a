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


def test_a_training_tells_the_foundations_forces_too():
    known = {"before": 70.7, "after": 9.5}

    class Store:
        def query_one(self, criteria, properties):
            *_, when, name = properties[0].split(".")
            return {"output": {"metrics": {"valid": {when: {name: known[when]}}}}}

    row = SimpleNamespace(
        name="train si transfer",
        metadata={"stage": "train", "strategy": "transfer"},
        state="done",
        uuid="u",
        key=("u", 1),
    )
    arrivals = live.Arrivals(Store(), 6)
    arrivals.look([row], {})
    assert {name: one.force_mae for name, one in arrivals.known.items()} == {"transfer": 9.5, "foundation": 70.7}


def test_what_is_done_has_no_time_left():
    done, arrivals = StageOutlook("label", done=16, total=16, seconds_left=0.0), live.Arrivals(None, 6, {})
    assert "left" not in live.sheet("Si", Outlook([done], {}, 12.0), arrivals).head
    assert "left" in live.sheet("Si", Outlook([StageOutlook("label", done=4, total=16, seconds_left=30.0)], {}, 12.0),
                                arrivals).head  # fmt: skip


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
