import json
import lzma

import numpy as np
import pytest

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.evaluation.thermal.kappa import relaxation_time_conductivity, sre, srme


def test_symmetric_errors_by_hand():
    assert sre([3.0, 1.0], [1.0, 1.0]) == pytest.approx([1.0, 0.0])
    assert srme([[2.0, 0.0]], [[0.0, 2.0]]) == 2.0
    assert srme([[1.0, 1.0]], [[1.0, 1.0]]) == 0.0
    assert srme([[1.0, 2.0]], [[1.0, 1.0]]) == pytest.approx(2 * 1 / 5)
    assert srme(None, [[1.0]]) == 2.0
    assert srme([[np.nan]], [[1.0]]) == 2.0


def test_mode_error_is_never_below_the_total_error():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.random((4, 6)), rng.random((4, 6))
        assert srme(a, b) >= abs(sre(a.sum(), b.sum())) - 1e-12


def test_bad_input():
    with pytest.raises(MismatchError, match="shapes"):
        srme(np.ones((2, 3)), np.ones((2, 6)))
    with pytest.raises(InputError, match="positive"):
        sre([1.0], [0.0])


def test_published_conductivities_obey_our_definitions(shared):
    # matbench-discovery's own files: kappa of 103 compounds by DFT and by about 40 potentials, with their SRME
    path = shared / "data" / "matbench" / "kappa-103-analysis.jsonl.xz"
    with lzma.open(path, "rt") as lines:
        base, *models = [json.loads(line) for line in lines]
    reference = np.array(base["_base"]["kappa_dft"])
    for model in models:
        published = np.array(model["srme"], dtype=float)
        censored = np.array(model["srme_censored"])
        assert np.all(published[censored] == 2.0), model["key"]
        totals = [
            (k, r, s)
            for k, r, s, bad in zip(model["kappa_ml"], reference, published, censored, strict=True)
            if k is not None and k > 0 and not bad
        ]
        kappa, ref, error = (np.array(column) for column in zip(*totals, strict=True))
        # the triangle inequality ties SRME to SRE; figures are rounded to four digits
        assert np.all(np.abs(sre(kappa, ref)) <= error + 1e-3), model["key"]


@pytest.mark.slow
def test_silicon_from_vasp_forces(shared):
    phono3py = pytest.importorskip("phono3py")
    import tarfile
    import xml.etree.ElementTree as ET

    folder = shared / "data" / "phono3py"
    forces = {}
    with lzma.open(folder / "vasprun_xmls.tar.lzma") as packed, tarfile.open(fileobj=packed) as archive:
        for member in archive:
            if member.name.rpartition("/")[2].startswith("vasprun") and member.isfile():
                root = ET.parse(archive.extractfile(member)).getroot()
                rows = root.findall(".//calculation/varray[@name='forces']/v")
                forces[member.name] = [[float(x) for x in row.text.split()] for row in rows]
    phonon = phono3py.load(folder / "phono3py_disp.yaml", produce_fc=False, is_nac=False)
    phonon.forces = np.array([forces[name] for name in sorted(forces)])
    phonon.produce_fc3()
    phonon.produce_fc2()
    found = relaxation_time_conductivity(phonon, (9, 9, 9))
    # PBE silicon by others in the same approximation: 100 to 140 W/(m K) at 300 K, depending on the mesh
    assert 100 < found.kappa < 140
    assert np.sum(found.mode_kappa) == pytest.approx(found.kappa, rel=1e-9)
    assert srme(found.mode_kappa, found.mode_kappa) == 0
    assert found.n_imaginary == 0


def test_conductivity_of_a_potential():
    pytest.importorskip("phono3py")
    from ase.build import bulk
    from ase.calculators.morse import MorsePotential

    from phonosmith.evaluation.thermal.kappa import third_order_phonon
    from phonosmith.potentials.ase_potential import AsePotential

    atoms = bulk("Ar", "fcc", a=4.0)
    calculator = lambda: MorsePotential(epsilon=0.02, r0=4.0 / np.sqrt(2), rho0=6.0, rcut1=1.15, rcut2=1.25)  # noqa: E731
    potential = AsePotential(calculator, ["Ar"])
    results = [
        relaxation_time_conductivity(third_order_phonon(atoms, potential, np.diag([n] * 3)), (5, 5, 5)) for n in (2, 3)
    ]
    # nearest-neighbour forces: a 3x3x3 cell holds them without images, and a cubic crystal conducts equally in x, y, z
    assert np.allclose(results[1].tensor[:3], results[1].kappa, rtol=1e-6)
    assert np.allclose(results[1].tensor[3:], 0, atol=1e-6 * results[1].kappa)
    assert results[1].kappa > 0
    # bonds four times as stiff with the same shape
    stiff = AsePotential(
        lambda: MorsePotential(epsilon=0.08, r0=4.0 / np.sqrt(2), rho0=6.0, rcut1=1.15, rcut2=1.25), ["Ar"]
    )
    hot = relaxation_time_conductivity(
        third_order_phonon(atoms, stiff, np.diag([3] * 3)), (5, 5, 5), temperature=3000.0
    )
    cold = relaxation_time_conductivity(
        third_order_phonon(atoms, potential, np.diag([3] * 3)), (5, 5, 5), temperature=3000.0
    )
    # four times the energy doubles frequencies: classical kappa scales as eps^(3/2) / T at fixed shape
    assert hot.kappa / cold.kappa == pytest.approx(8.0, rel=0.02)
