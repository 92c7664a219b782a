"""Energy against volume: what the figure shows."""

import numpy as np
import pytest

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.mechanics.documents import EosDoc
from phonosmith.evaluation.mechanics.eos import birch_murnaghan_energy, fit_birch_murnaghan
from phonosmith.report.figures.mechanics import energy_volume_figure
from phonosmith.report.figures.style import save_figure


def side(method, bulk=90.0, volume=40.0, zero=-10.0, *, spoiled=(), unconverged=(), formula="Si"):
    volumes = volume * np.linspace(0.95, 1.05, 11)
    energies = np.array(birch_murnaghan_energy(volumes, zero, volume, bulk, 4.2))
    energies[list(spoiled)] += 0.02
    good = [i for i in range(11) if i not in unconverged]
    fit = fit_birch_murnaghan(volumes[good].tolist(), energies[good].tolist(), 2)
    return EosDoc(
        formula=formula,
        structure_sha256="0",
        method=method,
        n_atoms=2,
        volumes=volumes.tolist(),
        energies=energies.tolist(),
        max_forces=[0.0] * 11,
        converged=[i in good for i in range(11)],
        fit=fit.model_copy(update={"excluded": [good[i] for i in fit.excluded]}),
        manifest=Manifest(),
    )


def points(axes, marker):
    return [line for line in axes.lines if line.get_marker() == marker]


def test_points_curves_and_minima_per_atom():
    reference, candidate = side("PBE"), side("MACE", 80.0, 41.0, zero=-300.0)
    (axes,) = energy_volume_figure([reference, candidate]).axes
    circles, squares = points(axes, "o")[0], points(axes, "s")[0]
    np.testing.assert_allclose(circles.get_xdata(), np.array(reference.volumes) / 2)
    # energies count from each side's own minimum, whatever its zero
    assert min(squares.get_ydata()) == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(circles.get_ydata(), 500 * (np.array(reference.energies) + 10.0), atol=1e-4)
    curves = [line for line in axes.lines if len(line.get_xdata()) == 200]
    for curve, doc in zip(curves, (reference, candidate), strict=True):
        lowest = curve.get_xdata()[np.argmin(curve.get_ydata())]
        assert lowest == pytest.approx(doc.fit.volume / 2, abs=0.02)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[0] == "PBE: $V_0$ = 20.000 Å³, $B_0$ = 90.0 GPa"
    assert texts[1].startswith("MACE: ")


def test_points_left_out_are_crossed_and_named():
    doc = side("PBE", spoiled=(2,), unconverged=(9,))
    assert doc.fit.excluded == [2]
    (axes,) = energy_volume_figure([doc]).axes
    np.testing.assert_allclose(points(axes, "x")[0].get_xdata(), np.array(doc.volumes)[[2, 9]] / 2)
    assert len(points(axes, "o")[0].get_xdata()) == 9
    assert "left out of the fit" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_two_materials_or_none_are_refused(tmp_path):
    with pytest.raises(MismatchError, match="do not belong in one figure"):
        energy_volume_figure([side("a"), side("b", formula="Ge")])
    with pytest.raises(InputError, match="no equation of state"):
        energy_volume_figure([])
    with pytest.raises(InputError, match="no image format"):
        save_figure(energy_volume_figure([side("a")]), tmp_path / "eos.txt")
    assert save_figure(energy_volume_figure([side("a")]), tmp_path / "eos.png").stat().st_size > 1000
