"""From a harmonic model to its document: the one place where phonon results of any origin are written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.core.artefacts import default_artefacts, write_atomic
from phonosmith.core.hashing import digest_structure
from phonosmith.evaluation.phonons.bands import band_structure, lo_to_splitting, standard_path
from phonosmith.evaluation.phonons.documents import PhononDoc
from phonosmith.evaluation.phonons.mesh import DEFAULT_MESH, Mesh, mesh_frequencies
from phonosmith.evaluation.phonons.stability import judge_stability
from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.harmonic.files import phonopy_yaml
from phonosmith.harmonic.model import HarmonicModel, store_force_constants, to_structure, unpack_force_constants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.core.manifest import Manifest
    from phonosmith.potentials.documents import PotentialRef


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
    return PhononDoc(
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
