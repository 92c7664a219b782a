"""The data of the interactive figure: packed curves unpack to the same, modes obey the force constants."""

import base64
import zlib

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from helpers.model_crystals import spring_crystal
from phonosmith.core.units import THZ_PER_SQRT_EV_PER_A2_AMU
from phonosmith.evaluation.phonons.bands import standard_path
from phonosmith.evaluation.phonons.mesh import sorted_frequencies
from phonosmith.harmonic.model import HarmonicModel, full_force_constants
from phonosmith.report.charts.data import pack
from phonosmith.report.charts.material import thermal_chart
from phonosmith.report.figures.phonons import drawing_mesh, phonon_curves
from phonosmith.report.page.crystal import conventional_crystal, drawn_points, modes_along


def springs(factor=1.0, **settings):
    phonon, constants = spring_crystal(3, **settings)
    phonon.force_constants = factor * constants
    return HarmonicModel(phonon, "symfc", "springs")


def unpacked(packed):
    """Undo `pack` as the page's script does."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed.data)), dtype=np.uint8).astype(int)
    half = len(planes) // 2
    second = (planes[:half] | planes[half:] << 8).reshape(packed.shape)
    whole = np.cumsum(np.cumsum(second, axis=1), axis=1)
    return ((whole + 2**15) % 2**16 - 2**15) * packed.step


@pytest.mark.parametrize("scale", [1e-4, 1.0, 40.0, 500.0])
def test_packed_numbers_are_off_by_half_a_step_at_most(scale):
    values = scale * np.random.default_rng(0).normal(size=(7, 300))
    found = pack(values, 1e-3)
    assert np.abs(unpacked(found) - values).max() <= 0.5001 * found.step
    assert found.step == pytest.approx(max(1e-3, np.abs(values).max() / 32000))


def test_curves_of_several_potentials_share_the_path_of_the_first():
    curves = phonon_curves({"reference": springs(1.0), "delta": springs(1.21), "scratch": springs(-0.04)})
    assert [side.name for side in curves.sides] == ["reference", "delta", "scratch"]
    reference, delta, scratch = curves.sides
    # frequencies go with the root of the force constants
    assert delta.bands.highest == pytest.approx(1.1 * reference.bands.highest)
    assert scratch.bands.lowest == pytest.approx(-0.2 * reference.bands.highest)
    step = curves.grid[1] - curves.grid[0]
    for side in curves.sides:
        assert side.dos.sum() * step == pytest.approx(3, abs=1e-3)
    labels = [panel.y.label for panel in thermal_chart(curves).panels]
    assert labels == ["Cᵥ (J/K/mol)", "S (J/K/mol)", "F (kJ/mol)"]
    # a band of 41 points takes about a byte a point, against 18 of text
    rows = np.concatenate(reference.bands.frequencies).T
    assert len(pack(rows, 1e-3).data) < 2.5 * rows.size


def test_a_side_of_another_crystal_is_left_out_by_name():
    curves = phonon_curves({"reference": springs(1.0), "other": springs(1.0, symbol="Cu")})
    assert [side.name for side in curves.sides] == ["reference"]
    assert list(curves.left_out) == ["other"]


def test_meshes_get_coarser_with_branches():
    assert [drawing_mesh(n) for n in (3, 6, 24, 120)] == [16, 16, 12, 7]


def test_corners_get_modes_before_what_lies_between():
    assert drawn_points(2, 5, 3) == [0, 4, 5]
    assert drawn_points(2, 5, 4) == drawn_points(2, 5, 5) == [0, 4, 5, 9]
    assert drawn_points(2, 5, 6) == [0, 2, 4, 5, 7, 9]
    assert drawn_points(2, 5, 100) == list(range(10))


@pytest.fixture(scope="module")
def carbide():
    """Give silicon carbide, two masses, by the embedded reference."""
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
    from phonosmith.potentials.embedded import demo_structure, reference_bytes
    from phonosmith.potentials.empirical.potential import load_empirical

    structure = AseAtomsAdaptor.get_structure(demo_structure("SiC"))
    potential = load_empirical(reference_bytes())
    return harmonic_from_potential(structure, potential, np.diag([2, 2, 2]).tolist(), source="embedded")


def test_modes_obey_the_force_constants(carbide):
    """Against the supercell itself: moved by a mode that fits into it, every atom feels the force -m ω² u."""
    path = standard_path(carbide, 5)
    found = modes_along("reference", carbide, path, 4000)
    assert found.points == drawn_points(len(path.segments), 5, 4000 // 72)
    parts = np.frombuffer(zlib.decompress(base64.b64decode(found.data)), dtype=np.int8) / 127
    modes = parts.reshape(len(found.points), 6, 2, 3, 2)
    phonon = carbide.phonon
    constants, cells = full_force_constants(phonon), phonon.supercell
    places = np.linalg.solve(phonon.primitive.cell.T, cells.positions.T).T
    sublattice = [phonon.primitive.p2p_map[i] for i in phonon.primitive.s2p_map]
    q_points = np.concatenate(path.segments)[found.points]
    checked = 0
    for q, at_q in zip(q_points, modes, strict=True):
        if np.abs(2 * q - np.rint(2 * q)).max() > 1e-8:
            continue  # the wave does not close in a supercell of two cells
        frequencies = sorted_frequencies(carbide, q[None])[0]
        for frequency, mode in zip(frequencies, at_q, strict=True):
            waves = (mode[..., 0] + 1j * mode[..., 1])[sublattice] * np.exp(2j * np.pi * places @ q)[:, None]
            assert np.abs(mode).max() <= 1
            moved = waves.real
            forces = -np.einsum("iajb,jb->ia", constants.transpose(0, 2, 1, 3), moved)
            expected = -((frequency / THZ_PER_SQRT_EV_PER_A2_AMU) ** 2) * cells.masses[:, None] * moved
            # displacements are in steps of 1/127 of the largest, and each of the stiff bonds (20 eV/Å²) feels that
            assert np.abs(forces - expected).max() < 0.6, (q, frequency)
            checked += np.abs(expected).max() > 6
    assert checked > 10


def test_too_little_room_gives_no_modes(carbide):
    assert modes_along("reference", carbide, standard_path(carbide, 5), 71) is None


def test_the_drawn_cell_is_the_conventional_one():
    rocksalt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    crystal = conventional_crystal(rocksalt.get_primitive_structure())
    assert [crystal.symbols.count(name) for name in ("Na", "Cl")] == [4, 4]
    assert np.linalg.norm(crystal.lattice, axis=1) == pytest.approx([5.6] * 3)
    assert crystal.elements["Cl"] == ["#1ff01f", 1.02, 35.453, 17]
