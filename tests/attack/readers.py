"""Every reader of files that others write, with valid examples and what must hold for whatever it lets through."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from phonosmith.core.errors import InputError, PhonosmithError

SEEDS = Path(__file__).parent / "seeds"
CAMPAIGN = b"""\
name: test
materials:
  - embedded:Si
  - structure: embedded:Ge
    name: germanium
foundations: [embedded-reference]
strategies: [transfer, delta]
n_train: [4, 16]
cells: [primitive, large]
seeds: [0, 1]
evaluate: [phonons, elastic]
min_length: 12.5
mesh: 12
sampling: {max_steps: 10, n_select: 4, volume_factors: [0.95, 0.97, 1.0, 1.03, 1.05]}
engine:
  name: forcefield
  potential: embedded-reference
  protocol: {encut: 520, kspacing: 0.1}
training:
  epochs: 3
  delta: {lr: 0.002}
"""
CIF = b"""\
data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na+ 0 0 0 1
Cl1 Cl- 0.5 0.5 0.5 1.0
"""
PHASES = b"""\
Si: {initial: [Fd-3m, 2], final: [[P6_3/mmc, 4], [R-3m, 1]]}
"NO":
  initial: [Fm-3m, 2]
  final: []
"""


@dataclass(frozen=True)
class Reader:
    """A function that reads a file, the name the file needs, valid contents, and what a result must satisfy."""

    read: Callable[[Path], Any]
    file: str
    seeds: Callable[[], list[bytes]]
    check: Callable[[Any], None] = lambda _: None


def refuses_or_is_right(reader: Reader, data: bytes) -> bool:
    """Let a reader read: whether it takes the file; everything but a clear refusal or a right result is raised."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / reader.file
        path.write_bytes(data)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                result = reader.read(path)
        except PhonosmithError as error:
            return _says_what_and_how(error)
        reader.check(result)
        return True


def _says_what_and_how(error: PhonosmithError) -> bool:
    assert error.message.strip()
    assert error.advice.strip(), f"no way out: {error.message}"
    return False


def _finite(*arrays: Any) -> None:
    for array in arrays:
        assert np.isfinite(np.asarray(array, dtype=float)).all()


# ---- labelled structures


def _frames(path: Path) -> Any:
    from phonosmith.structures.extxyz import read_frames

    return read_frames(path)


def _frame_seeds() -> list[bytes]:
    from ase.build import bulk
    from ase.calculators.singlepoint import SinglePointCalculator

    from phonosmith.structures.extxyz import format_frames

    frames = []
    for symbol in ("Si", "Ge"):
        atoms = bulk(symbol, "diamond", a=5.5)
        atoms.info["source"] = "a 'quoted' name"
        atoms.calc = SinglePointCalculator(
            atoms, energy=-1.5, forces=[[0.1, 0, 0], [-0.1, 0, 0]], stress=np.arange(6.0)
        )
        frames.append(atoms)
    plain = b'2\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T" energy=-3\nSi 0 0 0\nSi 1.3 1.3 1.3\n'
    mace = (
        b'1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-1.0 '
        b'REF_stress="0 0 0 0 0 0 0 0 0" pbc="T T T"\nCu 0 0 0 0 0 0\n'
    )
    return [format_frames(frames).encode(), format_frames(frames[:1]).encode(), plain, mace]


def _check_frames(frames: Any) -> None:
    from phonosmith.structures.extxyz import format_frames, parse_frames

    assert frames
    for atoms in frames:
        _finite(atoms.positions, atoms.cell.array, *getattr(atoms.calc, "results", {}).values())
        assert atoms.numbers.min() > 0
    # what was read can be written, and is then the same to the last bit
    text = format_frames(frames)
    assert format_frames(parse_frames(text, "again")) == text


# ---- phonons


def _phonons(path: Path) -> Any:
    from phonosmith.harmonic.files import load_harmonic

    return load_harmonic(path, fc_calculator="traditional")


@cache
def _phonopy_text() -> bytes:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    from phonosmith.harmonic.files import phonopy_yaml

    lattice = np.array([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]])
    crystal = PhonopyAtoms(["Na", "Cl"], cell=lattice, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]])
    phonon = Phonopy(crystal, np.diag([1, 1, 2]), primitive_matrix=np.eye(3))
    phonon.generate_displacements(distance=0.01)
    forces = np.zeros((len(phonon.displacements), 4, 3))
    for index, (atom, *move) in enumerate(phonon.displacements):
        forces[index, atom] = -2.0 * np.array(move)
        forces[index, (atom + 1) % 4] = 2.0 * np.array(move)
    phonon.forces = forces
    return phonopy_yaml(phonon).encode()


def _check_phonons(model: Any) -> None:
    constants = np.asarray(model.phonon.force_constants)
    _finite(constants, model.phonon.primitive.cell, model.phonon.primitive.masses)
    assert np.abs(constants).max() > 0


# ---- outputs of VASP


def _vasprun(path: Path) -> Any:
    from phonosmith.reference.importers.frames import frames_of
    from phonosmith.reference.vasp.vasprun import parse_vasprun

    return frames_of(parse_vasprun(path.read_bytes(), path.name), path.name)


def _outcar(path: Path) -> Any:
    from phonosmith.reference.importers.frames import frames_of
    from phonosmith.reference.vasp.outcar import parse_outcar

    return frames_of(parse_outcar(path.read_bytes(), path.name), path.name)


def _check_labels(read: Any) -> None:
    # what gives no label says why
    assert read[0] or all(refusal.reason for refusal in read[1])
    for atoms in read[0]:
        _finite(atoms.positions, atoms.cell.array, *(atoms.calc.results[name] for name in ("energy", "forces")))


def _seed(name: str) -> Callable[[], list[bytes]]:
    return lambda: [(SEEDS / name).read_bytes()]


# ---- crystals


def _crystal(path: Path) -> Any:
    from phonosmith.structures.reading import read_structure, structure_warnings

    structure = read_structure(path)
    structure_warnings(structure)
    return structure


def _check_crystal(structure: Any) -> None:
    _finite(structure.frac_coords, structure.lattice.matrix)
    assert structure.is_ordered
    assert 0 < len(structure) <= 10_000
    assert structure.volume / len(structure) >= 0.5
    assert np.all((structure.frac_coords >= 0) & (structure.frac_coords < 1))


def _json_crystal() -> list[bytes]:
    from pymatgen.core import Lattice, Structure

    return [Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to_json().encode()]


# ---- settings and models


def _campaign(path: Path) -> Any:
    from phonosmith.flows.campaign import read_campaign

    return read_campaign(path)


def _check_campaign(campaign: Any) -> None:
    spec = campaign.spec
    assert spec.materials
    assert min(spec.seeds) >= 0
    assert max(spec.n_train, default=1) <= (len(spec.sampling.volume_factors) - 1) * spec.sampling.n_select
    assert 0 < spec.mesh <= 100


def _phases(path: Path) -> Any:
    from phonosmith.evaluation.modes.scores import read_phase_file

    return read_phase_file(path)


def _empirical(path: Path) -> Any:
    from phonosmith.potentials.registry import import_file

    return import_file(path)


def _empirical_seeds() -> list[bytes]:
    from phonosmith.potentials.embedded import reference_bytes

    return [reference_bytes()]


def _header(path: Path) -> Any:
    from phonosmith.potentials.container import read_header, read_tensors

    data = path.read_bytes()
    return read_header(data), read_tensors(data)


def _artefact() -> list[bytes]:
    import torch

    from phonosmith.potentials.container import pack

    header = {"architecture": "mace", "atomic_numbers": [14], "cutoff": 4.0, "description": {"r_max": 4.0}}
    return [pack({"w": torch.zeros(2), "v": torch.ones(1, 2)}, header)]


def _document(path: Path) -> Any:
    from phonosmith.harmonic.files import load_harmonic

    return load_harmonic(path)


def _documents() -> list[bytes]:
    return [json.dumps({"force_constants": {"sha256": "0" * 64, "size": 3, "kind": "force_constants"}}).encode()]


def _energies(path: Path) -> Any:
    from phonosmith.harmonic.collection import read_energies

    return read_energies(path)


def _replay_seeds() -> list[bytes]:
    frame = b'2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="T T T"\n'
    frame += b"Si 0 0 0 0.1 0 0\nSi 2 2 2 -0.1 0 0\n"
    return [frame, 3 * frame]


def _replay(path: Path) -> Any:
    from phonosmith.flows.replay_files import sample_replay

    return sample_replay(path, size=2, elements=["Si"], seed=0)[0]


def _eos(path: Path) -> Any:
    from phonosmith.core.reading import read_document
    from phonosmith.evaluation.mechanics.documents import EosDoc

    return read_document(path, EosDoc, "equation of state", "Give eos.json.")


@cache
def _eos_text() -> bytes:
    from pymatgen.core import Lattice, Structure

    from phonosmith.evaluation.mechanics.fastpath import evaluate_eos
    from phonosmith.potentials.registry import load, resolve

    silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).get_primitive_structure()
    potential = load(resolve("embedded-reference"))
    return evaluate_eos(silicon, potential, method="embedded").model_dump_json().encode()


def _expectations(path: Path) -> Any:
    from phonosmith.reference.importers.collect import read_expectations

    return read_expectations([str(path)])


def _imported(path: Path) -> Any:
    from phonosmith.reference.importers.collect import import_source

    frames, report = import_source(path)
    if not frames:
        raise InputError(report.refused[0].reason, "Every refusal of an import is listed.")
    return frames, report.refused


def _labelled_structures() -> list[bytes]:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.51, 0.52, 0.53]]).as_dict()
    forces = [[0.1023, 0.0411, 0.0217], [-0.1023, -0.0411, -0.0217]]
    outputs = {"energy": -7.2, "forces": forces, "virial_stress": [1.1, 2.2, 3.3, 0.12, 0.23, 0.34]}
    return [json.dumps([{"structure": structure, "outputs": outputs}]).encode()]


KEPT_NAME = "f77407598d75c97adfc1eeb8aab4ba48e10fd6ed5a412db3ade456aaec80eb6a.json"
KEPT = (
    b'{"calculated":{"program":"gpaw 1","settings":{"xc":"PBE"},"symbols":["He"],"cell":[[4,0,0],[0,4,0],[0,0,4]],'
    b'"positions":[[0,0,0]],"pbc":[true,true,true]},"numbers":{"energy":-1.5,"energy_sigma0":-1.5,'
    b'"forces":[[0,0,0]],"stress":[0.1,0.1,0.1,0.1,0.1,0.1],"wall_seconds":1,"processor_seconds":0.5},'
    b'"digest":"35f733d231418b1e028a676a1e527abe4df6938ae734126036f2123db89ed4d6"}'
)


def _kept(path: Path) -> Any:
    from phonosmith.reference.kept import read_result

    return read_result(path)


def _check_kept(kept: Any) -> None:
    # nothing can be changed but spaces and the spelling of numbers
    assert (kept.numbers.energy, kept.numbers.stress[0], kept.calculated.program) == (-1.5, 0.1, "gpaw 1")


READERS: dict[str, Reader] = {
    "energies": Reader(_energies, "energies.csv", lambda: [b"material,energy_ev\nmp-149,-10.8\nmp-22862,-6.8\n"]),
    "replay": Reader(_replay, "replay.xyz", _replay_seeds),
    "extxyz": Reader(_frames, "frames.xyz", _frame_seeds, _check_frames),
    "phonopy": Reader(_phonons, "phonopy.yaml", lambda: [_phonopy_text()], _check_phonons),
    "vasprun": Reader(_vasprun, "vasprun.xml", _seed("vasprun.xml"), _check_labels),
    "outcar": Reader(_outcar, "OUTCAR", _seed("OUTCAR"), _check_labels),
    "campaign": Reader(_campaign, "campaign.yaml", lambda: [CAMPAIGN], _check_campaign),
    "cif": Reader(_crystal, "crystal.cif", lambda: [CIF], _check_crystal),
    "poscar": Reader(_crystal, "POSCAR", _seed("POSCAR"), _check_crystal),
    "xyz": Reader(_crystal, "crystal.xyz", lambda: _frame_seeds()[1:3], _check_crystal),
    "json": Reader(_crystal, "crystal.json", _json_crystal, _check_crystal),
    "phases": Reader(_phases, "phases.yaml", lambda: [PHASES]),
    "kept result": Reader(_kept, KEPT_NAME, lambda: [KEPT], _check_kept),
    "empirical": Reader(_empirical, "potential.json", _empirical_seeds),
    "artefact": Reader(_header, "model.safetensors", _artefact),
    "phonon document": Reader(_document, "phonons.json", _documents),
    "equation of state": Reader(_eos, "eos.json", lambda: [_eos_text()]),
    "expectations": Reader(_expectations, "e.json", lambda: [b'[{"id": "mp-2", "formula": "Ge2Sb2"}]', b'{"a": "Si"}']),
    "import": Reader(_imported, "labels.json", _labelled_structures, _check_labels),
}
