"""Progress bars: on standard error, in notebooks too, where rich by itself asks for widgets."""

import warnings

import pytest
import rich.console

from phonosmith.core.progress import progress_bar


@pytest.mark.parametrize("notebook", [False, True])
def test_a_bar_is_a_line_on_standard_error(notebook, monkeypatch, capsys):
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: notebook)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with progress_bar("labels", 3, stays=True) as move:
            move(3, 3, "labels")
    said = capsys.readouterr()
    assert said.out == ""
    assert "labels" in said.err
    assert "3/3" in said.err
