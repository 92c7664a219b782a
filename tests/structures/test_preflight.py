from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from phonosmith.core.errors import InputError
from phonosmith.structures.cost import HBAR2_OVER_2M, calibrate, kpoint_mesh, valence_electrons, workload
from phonosmith.structures.preflight import PlanSettings, combine, missing_potcars, plan_material


def silicon() -> Structure:
    return Structure.from_spacegroup(227, Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])


def salt() -> Structure:
    return Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


QUICK = PlanSettings(cells=["small"], phonon_length=8.0)


def test_kpoint_mesh_is_vasps():
    # 2π / 5.43 / 0.1 = 11.57
    assert kpoint_mesh(np.eye(3) * 5.43, 0.1) == (12, 12, 12)
    assert kpoint_mesh(np.diag([2 * np.pi, 30.0, 100.0]), 0.1) == (10, 3, 1)
    with pytest.raises(InputError):
        kpoint_mesh(np.eye(3), 0.0)


def test_plane_waves_agree_with_counting_them():
    cell = silicon()
    reciprocal = 2 * np.pi * np.linalg.inv(cell.lattice.matrix).T
    grid = np.array(np.meshgrid(*[np.arange(-12, 13)] * 3)).reshape(3, -1).T
    count = int(np.sum(HBAR2_OVER_2M * np.sum((grid @ reciprocal) ** 2, axis=1) <= 520.0))
    assert workload(cell, kspacing=None).n_plane_waves == pytest.approx(count, rel=0.02)


def test_kpoints_after_time_reversal_agree_with_counting_them():
    load = workload(silicon(), kspacing=0.3)
    mesh = np.array(load.kpoints)
    points = {tuple(index) for index in np.ndindex(*mesh)}
    pairs = {min(point, tuple(-np.array(point) % mesh)) for point in points}
    assert load.n_kpoints == len(pairs)


@pytest.mark.parametrize(
    ("potcar", "electrons"),
    # ZVAL of the PBE_54 data sets
    [("Si", 4), ("Na_pv", 7), ("Cl", 7), ("K_sv", 9), ("Sb", 5), ("Sn_d", 14), ("Se", 6), ("Ge_d", 14), ("Te", 6),
     ("Ga_d", 13), ("Zn", 12), ("Ti_sv", 12), ("O", 6), ("Li_sv", 3), ("Ca_sv", 10), ("Bi_d", 15), ("Cu", 11),
     ("H", 1), ("Ce", 12), ("Hf_pv", 10)],
)  # fmt: skip
def test_valence_electrons(potcar, electrons):
    # the estimate leaves the rare earths and Hf a shell short, nothing else
    tolerance = 8 if potcar == "Ce" else 0
    assert abs(valence_electrons(potcar.split("_")[0], potcar) - electrons) <= tolerance


def test_work_grows_faster_than_linearly_with_the_cell():
    one = workload(silicon(), kspacing=None)
    eight = workload(silicon() * (2, 2, 2), kspacing=None)
    assert 8**2 * 0.99 < eight.work / one.work < 8**3
    assert eight.memory_gb / one.memory_gb == pytest.approx(64, rel=0.01)


def test_calibration_recovers_a_known_machine():
    works = np.array([0.1, 0.5, 2.0, 4.0])
    model = calibrate(works, 42.0 * works * np.array([1.1, 0.9, 1.0, 1 / (1.1 * 0.9)]))
    assert model.prefactor == pytest.approx(42.0)
    assert 1.0 < model.spread < 1.2
    assert model.n_calibration == 4
    for bad in (([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0])):
        with pytest.raises(InputError):
            calibrate(*bad)


@pytest.mark.parametrize(("cell", "displacements"), [(silicon, 1), (salt, 2)])
def test_plan_counts_what_phonopy_asks_for(cell, displacements):
    plan = plan_material(cell(), "x.cif", QUICK)
    assert plan.n_phonon_displacements == displacements
    assert plan.n_statics == 20
    assert plan.cells["small"].n_atoms == 8
    assert plan.training_steps == 200 * 4
    assert plan.core_hours == pytest.approx(plan.core_hours_statics + plan.core_hours_phonons)
    assert plan.core_hours_statics == pytest.approx(20 * plan.cells["small"].core_hours_each)
    assert plan.phonon is not None
    # thin displaced cells get the mesh, those of the published size Γ alone
    assert plan.phonon.kpoints != [1, 1, 1]
    thick = plan_material(cell(), "x.cif", QUICK.model_copy(update={"phonon_length": 20.0}))
    assert thick.phonon is not None
    assert thick.phonon.kpoints == [1, 1, 1]


def test_warnings_of_one_material():
    plan = plan_material(
        salt(),
        settings=PlanSettings(cells=["small"], phonon_length=12.0, oversized_static=5, oversized_phonon=10),
        elements=["Na"],
    )
    text = " | ".join(plan.warnings)
    for part in ("not primitive", "oversized: the small cell", "oversized: the phonon", "does not know Cl"):
        assert part in text


def test_residual_forces_and_pressure_are_reported():
    quiet = plan_material(salt(), settings=QUICK, residual=lambda _: (0.001, 0.5))
    loud = plan_material(salt(), settings=QUICK, residual=lambda _: (0.3, -12.0))
    assert not any("perhaps not relaxed" in note for note in quiet.warnings)
    assert any("0.30 eV/Å" in note and "-12.0 GPa" in note for note in loud.warnings)


def test_duplicates_and_totals():
    materials = [plan_material(cell(), name, QUICK) for cell, name in ((silicon, "a"), (salt, "b"), (silicon, "c"))]
    total = combine(materials, [silicon(), salt(), silicon()])
    assert total.warnings[0] == "the same crystal more than once: a, c"
    assert [note.partition(":")[0] for note in total.warnings[1:]] in ([], ["POTCARs not found"])
    assert materials[2].warnings[-1] == "duplicate of a"
    assert total.n_statics == 60
    assert total.n_phonon_displacements == 4
    assert total.core_hours == pytest.approx(sum(item.core_hours for item in materials))


def test_potcars_that_are_not_there_are_named(monkeypatch, tmp_path):
    from pymatgen.core import SETTINGS

    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path))
    assert missing_potcars(["Si", "Na_pv"]) == ["Si", "Na_pv"]
    total = combine([plan_material(salt(), "b", QUICK)], [salt()], potcars={"Na": "Na_pv", "Cl": "Cl"})
    assert total.warnings[0].startswith("POTCARs not found: Cl, Na_pv")
