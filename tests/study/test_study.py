"""One material in one call, from crystal or from finished phonons to the verdict."""

import numpy as np
import pytest

import phonosmith as ps
from phonosmith.core.errors import PhonosmithError
from phonosmith.evaluation.phonons.comparison import compare_phonons
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.harmonic.files import load_harmonic
from phonosmith.harmonic.model import to_structure
from phonosmith.potentials.registry import load, resolve
from phonosmith.reference.importers.beside import calculations_beside


@pytest.mark.slow
def test_five_lines_from_a_crystal_to_a_verdict(tmp_path, capsys):
    small = {"training": {"epochs": 2}, "min_length": 6.0, "mesh": 6}
    small["sampling"] = {"cell": "primitive", "max_steps": 60, "energy_tolerance": 1.0}

    def tuned(show):
        potentials = {"foundation": "embedded", "reference": "embedded-reference"}
        return ps.tune("embedded:Si", out=tmp_path / "si", show=show, **potentials, **small)

    study = tuned(show=True)
    said = capsys.readouterr().err
    assert "labels, 1 training" in said
    assert f"force MAE {study.best.entry.valid_force_mae:.1f} meV/Å" in said
    assert f"phonon MAE {study.best.entry.phonons.mae_thz:.3f} THz" in said
    assert list(study.table["strategy"]) == ["foundation", study.best.strategy]
    assert study.table["phonon_mae_thz"][1] == study.best.entry.phonons.mae_thz == study.numbers[0].value
    assert study.verdict.fit == (not study.verdict.reasons)
    assert "in the place of DFT" in study.basis
    assert study.report().stat().st_size > 10_000
    page = study._repr_html_()
    assert page.count("<img") == 1
    assert ("not fit" in page) == (not study.verdict.fit)
    assert len(repr(study)) < 500
    assert len(repr(study._material)) < 1000
    # the calculator, the saved file and the report are one potential
    atoms = study.request.crystal.to_ase_atoms(msonable=False)
    atoms.rattle(0.05, seed=1)
    (expected,) = load(study.best.entry.potential).evaluate([atoms])
    saved = resolve(str(study.best.save(tmp_path / "best.model")), trust=True)
    (written,) = load(saved).evaluate([atoms])
    atoms.calc = study.best.calculator()
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-10)
    np.testing.assert_allclose(written.forces, expected.forces, atol=1e-6)  # plain files may be float32 inside
    again = tuned(show=False)
    assert again.outcome.summary.executed == 0
    assert again.numbers == study.numbers


@pytest.mark.slow
def test_before_and_after_from_finished_phonons(shared, tmp_path):
    file = shared / "data" / "phonopy" / "Si" / "phonopy_disp.yaml"
    study = ps.tune(file, foundation="embedded", out=tmp_path / "si", training={"epochs": 5}, mesh=8, show=False)
    before, after = study.table["phonon_mae_thz"]
    assert after < before
    assert "phonopy_disp.yaml" in study.basis
    # the truth is that of the file, the foundation's error that of the foundation against it
    truth = load_harmonic(file, calculations=calculations_beside)
    relaxed = study._material.foundation.phonons
    assert relaxed.reference.omega_max_thz == pytest.approx(
        compare_phonons(truth, truth, 8).reference.omega_max_thz, abs=1e-6
    )
    unrelaxed = harmonic_from_potential(
        to_structure(truth.phonon.unitcell), load(resolve("embedded")), truth.phonon.supercell_matrix
    )
    # the cell of the file is not the foundation's, which shifts frequencies by a few percent
    assert before == pytest.approx(compare_phonons(truth, unrelaxed, 8).mae_thz, abs=0.5)
    assert study.plot_parity().axes[0].get_xlabel().startswith("reference")


def test_a_study_that_has_not_run_says_so(tmp_path):
    study = ps.tune(
        "embedded:Si", foundation="embedded", reference="embedded-reference", out=tmp_path, run=False, show=False
    )
    with pytest.raises(PhonosmithError, match="no report yet"):
        _ = study.verdict
    assert "no report yet" in repr(study)
    assert "labels" in study._repr_html_()
