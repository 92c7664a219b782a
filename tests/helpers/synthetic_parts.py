"""Valid documents around drawn numbers: the parts of a synthetic report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from phonosmith.analysis.documents import PhononSummary
from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.hashing import digest_json
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.mechanics.documents import (
    ElasticDoc,
    ElasticFit,
    ElasticModuli,
    EosDoc,
    EosFit,
    SlackConductivity,
)
from phonosmith.evaluation.mechanics.eos import birch_murnaghan_energy
from phonosmith.evaluation.phonons.documents import PhononComparison, PhononSide
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from helpers.synthetic_crystals import SyntheticMaterial

OMEGA_MAX, OMEGA_MEAN = 10.0, 6.0
HEAT_CAPACITY, ENTROPY, FREE_ENERGY = 40.0, 50.0, -4.0
BULK, SHEAR, SLACK = 90.0, 45.0, 8.0
_BULK_DERIVATIVE = 4.5


@dataclass
class Drawn:
    """Numbers of one potential; the side is what its phonons say.

    Attributes
    ----------
    values
        Errors against the reference by metric.
    reference_unstable, unstable
        What the reference and the potential say about dynamical stability.
    """

    values: Mapping[str, float]
    reference_unstable: bool
    unstable: bool
    side: PhononSide = field(init=False)

    def __post_init__(self) -> None:
        self.side = _side(self.values, unstable=self.unstable)

    @classmethod
    def reference(cls, unstable: bool) -> Drawn:
        """Return the reference itself: no errors."""
        return cls({}, unstable, unstable)


def _side(values: Mapping[str, float], *, unstable: bool) -> PhononSide:
    def off(value: float, metric: str) -> float:
        return value + abs(value) * values.get(metric, 0.0) / 100

    return PhononSide(
        omega_min_thz=-1.0 if unstable else 0.0,
        omega_max_thz=off(OMEGA_MAX, "omega_max_percent"),
        omega_mean_thz=off(OMEGA_MEAN, "omega_mean_percent"),
        heat_capacity=off(HEAT_CAPACITY, "heat_capacity_percent"),
        entropy=off(ENTROPY, "entropy_percent"),
        free_energy=off(FREE_ENERGY, "free_energy_percent"),
        volume=40.0,
        n_imaginary_commensurate=2 if unstable else 0,
        stable=not unstable,
        n_imaginary_practical=2 if unstable else 0,
        stable_practical=not unstable,
        imaginary_share=0.02 if unstable else 0.0,
        asr_residual=1e-8,
        space_group="P1",
        space_group_number=1,
    )


def comparison(material: SyntheticMaterial, structure: Structure, drawn: Drawn) -> PhononComparison:
    """Return a comparison with the drawn errors."""
    truth = _side({}, unstable=drawn.reference_unstable)
    symmetry = {"space_group": material.space_group, "space_group_number": material.number}
    mae, branches = drawn.values["phonon_mae_thz"], 3 * len(structure)
    return PhononComparison(
        formula=material.formula,
        mae_thz=mae,
        rmse_thz=1.3 * mae,
        scaled_rmse_thz=mae,
        relative_rmse=1.3 * mae / OMEGA_MEAN,
        omega_max_error_thz=drawn.side.omega_max_thz - truth.omega_max_thz,
        omega_max_error_percent=drawn.values["omega_max_percent"],
        omega_mean_error_percent=drawn.values["omega_mean_percent"],
        omega_min_error_thz=drawn.side.omega_min_thz - truth.omega_min_thz,
        omega_min_error_percent=None,
        omega_mean_scaled_thz=drawn.side.omega_mean_thz,
        dos_error_percent=drawn.values["dos_percent"],
        dos_smearing_thz=0.1,
        branch_mae_thz=[mae] * branches,
        branch_bias_thz=[-mae / 2] * branches,
        same_space_group=True,
        reference=truth.model_copy(update=symmetry),
        candidate=drawn.side.model_copy(update=symmetry),
        mesh=[20, 20, 20],
        n_qpoints=256,
        temperature=300.0,
        fc_calculator="symfc / symfc",
    )


def _nowhere(content: object, kind: str, suffix: str) -> ArtefactRef:
    """Return a reference to content nobody keeps."""
    return ArtefactRef(sha256=digest_json([kind, content]), kind=kind, suffix=suffix, size=0)


def summary(
    constants: ArtefactRef | None,
    material: SyntheticMaterial,
    structure: Structure,
    side: PhononSide,
    n_displacements: int,
) -> PhononSummary:
    """Return a phonon summary; its force constants are those given, or lead nowhere."""
    return PhononSummary(
        force_constants=constants or _nowhere(structure.formula, "force_constants", ".npz"),
        supercell_matrix=[[5, 0, 0], [0, 5, 0], [0, 0, 5]],
        n_atoms_supercell=125 * len(structure),
        n_displacements=n_displacements,
        space_group=material.space_group,
        omega_max_thz=side.omega_max_thz,
        stable=side.stable,
        seconds=5.0,
    )


def potential_ref(name: str, structure: Structure, sha256: str) -> PotentialRef:
    """Return the identity of a potential nobody trained."""
    elements = sorted({site.specie.symbol for site in structure}, key=_number)
    artefact = ArtefactRef(sha256=sha256, kind="model", suffix=".safetensors", size=0)
    return PotentialRef(
        sha256=sha256, name=name, architecture="mace", elements=elements, cutoff=6.0, artefact=artefact, parents=[]
    )


def _number(symbol: str) -> int:
    from pymatgen.core import Element

    return int(Element(symbol).Z)


def dataset_ref(name: str, structure: Structure, n_frames: int) -> DatasetRef:
    """Return the identity of labels nobody calculated."""
    artefact = _nowhere([name, n_frames], "frames", ".extxyz")
    return DatasetRef(
        sha256=artefact.sha256,
        name=name,
        n_frames=n_frames,
        n_atoms=64 * len(structure) * n_frames,
        elements=sorted({site.specie.symbol for site in structure}, key=_number),
        n_energies=n_frames,
        n_forces=n_frames,
        n_stresses=n_frames,
        functionals=["synthetic"],
        artefact=artefact,
    )


def elastic_document(structure: Structure, method: str, bulk: float, shear: float, slack: float) -> ElasticDoc:
    """Return an isotropic elastic tensor whose moduli and Slack conductivity are off by so many percent.

    A conductivity that would be negative is left out, as for an unstable tensor.
    """
    k, g = BULK * (1 + bulk / 100), SHEAR * (1 + shear / 100)
    tensor = np.diag([2 * g] * 3 + [g] * 3)
    tensor[:3, :3] += k - 2 * g / 3
    kappa = SLACK * (1 + slack / 100)
    moduli = ElasticModuli(bulk_voigt=k, bulk_reuss=k, bulk_vrh=k, shear_voigt=g, shear_reuss=g, shear_vrh=g)
    conductivity = SlackConductivity(
        kappa=kappa,
        temperature=300.0,
        gruneisen=1.5,
        poisson=0.25,
        v_transverse=3000.0,
        v_longitudinal=5000.0,
        v_mean=3300.0,
        debye_temperature=350.0,
        acoustic_debye_temperature=280.0,
        density=5000.0,
    )
    fit = ElasticFit(
        tensor=tensor.tolist(),
        moduli=moduli,
        eigenvalues=np.linalg.eigvalsh(tensor).tolist(),
        born_stable=bool(k > 0 and g > 0),
        v_transverse=3000.0,
        v_longitudinal=5000.0,
        density=5000.0,
        residual=0.001,
        reliable=True,
        n_deformations=24,
        equilibrium_stress=0.01,
    )
    return ElasticDoc(
        formula=structure.composition.reduced_formula,
        structure_sha256="0" * 64,
        method=method,
        fit=fit,
        slack=conductivity if kappa > 0 else None,
        n_unconverged=0,
        manifest=Manifest(wall_seconds=2.0),
    )


def eos_document(structure: Structure, method: str, bulk: float) -> EosDoc:
    """Return a Birch-Murnaghan curve whose bulk modulus is off by so many percent."""
    zero, energy, modulus = float(structure.volume), -5.0 * len(structure), BULK * (1 + bulk / 100)
    volumes = zero * np.linspace(0.95, 1.05, 11)
    return EosDoc(
        formula=structure.composition.reduced_formula,
        structure_sha256="0" * 64,
        method=method,
        n_atoms=len(structure),
        volumes=volumes.tolist(),
        energies=np.asarray(birch_murnaghan_energy(volumes, energy, zero, modulus, _BULK_DERIVATIVE)).tolist(),
        max_forces=[1e-5] * 11,
        converged=[True] * 11,
        fit=EosFit(
            energy=energy,
            volume=zero,
            bulk_modulus=modulus,
            bulk_modulus_derivative=_BULK_DERIVATIVE,
            rms_residual=0.0,
            n_points=11,
        ),
        manifest=Manifest(wall_seconds=1.0),
    )


def silicon_force_constants() -> dict[str, ArtefactRef]:
    """Keep force constants of silicon from the embedded empirical potentials in the artefact store.

    Returns
    -------
    dict
        ``reference`` (the potential that plays DFT), ``foundation`` (what the embedded foundation learned from) and
        ``tuned`` (nine parts of the one, one part of the other).
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
    from phonosmith.harmonic.model import store_force_constants
    from phonosmith.potentials.embedded import demo_structure, reference_bytes, teacher_bytes
    from phonosmith.potentials.empirical.potential import load_empirical

    structure = AseAtomsAdaptor.get_structure(demo_structure("Si"))
    matrix = [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    sources = {"reference": reference_bytes(), "foundation": teacher_bytes()}
    models = {
        name: harmonic_from_potential(structure, load_empirical(data), matrix, source=name)
        for name, data in sources.items()
    }
    kept = {name: store_force_constants(model, default_artefacts()) for name, model in models.items()}
    mixed = models["reference"]
    other = models["foundation"].phonon.force_constants
    mixed.phonon.force_constants = 0.9 * mixed.phonon.force_constants + 0.1 * other
    mixed.source = "tuned"
    return kept | {"tuned": store_force_constants(mixed, default_artefacts())}
