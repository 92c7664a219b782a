"""From a harmonic model to its document: the one place where phonon results of any origin are written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.core.artefacts import default_artefacts, write_atomic
from phonosmith.core.hashing import digest_structure
from phonosmith.evaluation.known import crystal_fields
from phonosmith.evaluation.phonons.bands import BandStructure, band_structure, lo_to_splitting, standard_path
from phonosmith.evaluation.phonons.documents import KnownPhonons, PhononDoc
from phonosmith.evaluation.phonons.dos import SMEARING_THZ, density_of_states, frequency_grid
from phonosmith.evaluation.phonons.mesh import DEFAULT_MESH, Mesh, MeshFrequencies, mesh_frequencies
from phonosmith.evaluation.phonons.stability import judge_stability
from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.harmonic.files import phonopy_yaml
from phonosmith.harmonic.model import HarmonicModel, store_force_constants, to_structure, unpack_force_constants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure

    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.core.manifest import Manifest
    from phonosmith.potentials.documents import PotentialRef

_KNOWN_TEMPERATURES = range(0, 500, 10)
"""Of atomate2's documents, K."""
_IMAGINARY_THZ = -1e-5
"""A frequency below is imaginary in atomate2's documents, THz."""
_CODES = {"vasp": "vasp", "gpaw": "gpaw", "forcefield": "forcefields"}
"""What atomate2 calls who computed, by engine."""
_DECIMALS = 8
"""Of frequencies and densities that are kept for plots; phonopy's files have ten."""


def summarise_phonons(
    model: HarmonicModel,
    manifest: Manifest,
    *,
    mesh: Mesh = DEFAULT_MESH,
    temperatures: Sequence[float] = (300.0,),
    artefacts: ArtefactStore | None = None,
    potential: PotentialRef | None = None,
    energy: float | None = None,
) -> PhononDoc:
    """Return the document of a harmonic model and keep its force constants in the artefact store.

    The structure's hash is added to the manifest's inputs. Mesh and temperatures (K) are for thermodynamics and the
    mean frequency, the energy is in eV per cell; ``potential`` is None for DFT, ``artefacts`` by default this
    installation's store.
    """
    phonon = model.phonon
    structure = to_structure(phonon.unitcell)
    manifest.inputs["structure"] = digest_structure(structure)
    sampled = mesh_frequencies(model, mesh)
    path = standard_path(model)
    bands = band_structure(model, path)
    symbol, number = model.space_group
    dataset = phonon.dataset or {}
    moved = dataset.get("first_atoms", [])
    known = known_phonons(model, structure, bands, sampled, energy)
    known.code = "forcefields" if potential is not None else _CODES.get(model.source)
    return PhononDoc(
        **dict(known),
        formula=model.formula,
        space_group=symbol,
        space_group_number=number,
        structure=json.loads(structure.to_json()),
        supercell_matrix=np.asarray(phonon.supercell_matrix).tolist(),
        primitive_matrix=np.asarray(phonon.primitive_matrix).tolist(),
        n_atoms_supercell=len(phonon.supercell),
        n_displacements=len(moved or dataset.get("displacements", ())),
        displacement=round(float(np.linalg.norm(moved[0]["displacement"])), 10) if moved else None,
        force_constants=store_force_constants(model, artefacts or default_artefacts()),
        fc_calculator=model.fc_calculator,
        asr_residual=model.asr_residual,
        lo_to_splitting_thz=lo_to_splitting(model, path),
        energy=energy,
        volume=float(phonon.primitive.volume),
        omega_min_thz=bands.lowest,
        omega_max_thz=bands.highest,
        omega_mean_thz=sampled.mean_of_real,
        thermal=thermal_properties(sampled.frequencies, sampled.weights, temperatures, mesh=sampled.mesh),
        stability=judge_stability(model),
        potential=potential,
        source=model.source,
        manifest=manifest,
    )


def known_phonons(
    model: HarmonicModel, structure: Structure, bands: BandStructure, sampled: MeshFrequencies, energy: float | None
) -> KnownPhonons:
    """Return what atomate2's documents say of phonons, from what has been computed for ours.

    Thermodynamics are sums over the mesh, which atomate2's integrals over a density of 201 points approach; the density
    is smeared by a Gaussian. The energy is in eV per cell.
    """
    from pymatgen.core import Lattice
    from pymatgen.phonon.bandstructure import PhononBandStructureSymmLine
    from pymatgen.phonon.dos import PhononDos

    primitive, path, charges = model.phonon.primitive, bands.path, model.phonon.nac_params or {}
    ends = zip(path.segments, path.labels, strict=True)
    lines = PhononBandStructureSymmLine(
        np.concatenate(path.segments),
        np.concatenate(bands.frequencies).T.round(_DECIMALS),
        # without 2π, as phonopy's and therefore atomate2's
        Lattice(np.linalg.inv(primitive.cell).T),
        has_nac=bool(charges),
        labels_dict={name: end for segment, names in ends for name, end in zip(names, segment[[0, -1]], strict=True)},
        structure=to_structure(primitive),
    )
    grid = frequency_grid([sampled.frequencies], step=SMEARING_THZ / 2)
    density = density_of_states(sampled.frequencies, sampled.weights, grid)
    _, units = structure.composition.get_reduced_composition_and_factor()
    thermal = thermal_properties(sampled.frequencies, sampled.weights, _KNOWN_TEMPERATURES)
    share = len(structure) / (len(primitive) * units)  # of a primitive cell in a formula unit
    free = 1000 * share * np.array(thermal.free_energy)
    entropy = share * np.array(thermal.entropy)
    return KnownPhonons(
        **crystal_fields(structure),
        phonon_bandstructure=lines.as_dict(),
        phonon_dos=PhononDos(grid.round(_DECIMALS).tolist(), density.round(_DECIMALS).tolist()).as_dict(),
        temperatures=list(_KNOWN_TEMPERATURES),
        free_energies=free.tolist(),
        entropies=entropy.tolist(),
        internal_energies=(free + np.array(_KNOWN_TEMPERATURES) * entropy).tolist(),
        heat_capacities=(share * np.array(thermal.heat_capacity)).tolist(),
        total_dft_energy=None if energy is None else energy / units,
        formula_units=round(units),
        volume_per_formula_unit=float(structure.volume) / units,
        has_imaginary_modes=bands.lowest < _IMAGINARY_THZ,
        born=None if "born" not in charges else np.asarray(charges["born"]).tolist(),
        epsilon_static=None if "dielectric" not in charges else np.asarray(charges["dielectric"]).tolist(),
        phonopy_settings={
            "npoints_band": len(path.segments[0]),
            "kpath_scheme": "seekpath",
            "kpoint_density_dos": int(np.prod(sampled.mesh)) * len(primitive),
        },
    )


def harmonic_from_document(document: PhononDoc, artefacts: ArtefactStore) -> HarmonicModel:
    """Rebuild the harmonic model of a stored document, with its Born charges where it has some."""
    return unpack_force_constants(artefacts.get_bytes(document.force_constants), nac=True)


def write_phonons(model: HarmonicModel, document: PhononDoc, folder: str | Path) -> dict[str, Path]:
    """Write ``phonopy.yaml`` and ``phonons.json`` (the document) to a folder, and return their paths by name."""
    target = Path(folder)
    files = {"phonopy": target / "phonopy.yaml", "document": target / "phonons.json"}
    write_atomic(files["phonopy"], (phonopy_yaml(model.phonon).rstrip("\n") + "\n").encode())
    write_atomic(files["document"], (document.model_dump_json(indent=1) + "\n").encode())
    return files
