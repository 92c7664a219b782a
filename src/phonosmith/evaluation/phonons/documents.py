"""Documents of harmonic phonons: one potential's phonons, and the comparison of two."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.document import Document, Missing
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.known import CrystalFields, PymatgenDict
from phonosmith.potentials.documents import PotentialRef

LARGE = ("phonon_bandstructure", "phonon_dos")
"""Fields of a `PhononDoc` that lie in the ``data`` store."""


class ThermalProperties(Document):
    """Harmonic thermodynamics per mole of primitive cells, from the modes of a q-mesh."""

    temperatures: list[float] = Field(description="K")
    heat_capacity: list[float] = Field(description="heat capacity at constant volume, J/K/mol of primitive cells")
    entropy: list[float] = Field(description="vibrational entropy, J/K/mol of primitive cells")
    free_energy: list[float] = Field(
        description="vibrational Helmholtz energy with zero point, kJ/mol of primitive cells"
    )
    zero_point_energy: float = Field(description="zero-point energy, kJ/mol of primitive cells")
    n_modes: int = Field(description="modes (branches) per primitive cell")
    imaginary_share: float = Field(
        description="share of mesh modes that are not above the cutoff and were left out of every sum, 0 to 1"
    )
    cutoff_thz: float = Field(description="modes at or below this frequency are left out, THz")
    mesh: list[int] = Field(description="q-mesh the sums ran over")


class StabilityVerdict(Document):
    """Dynamical stability judged where a finite supercell is exact: at its commensurate q-points."""

    n_qpoints: int = Field(description="commensurate q-points of the supercell")
    omega_min_thz: float = Field(description="lowest commensurate frequency without the acoustic modes at Γ, THz")
    n_imaginary: int = Field(
        description="modes below minus strict_thz (degenerate ones counted), acoustic at Γ excluded"
    )
    n_imaginary_practical: int = Field(description="modes below minus practical_thz")
    stable: bool = Field(description="no mode below minus strict_thz")
    stable_practical: bool = Field(description="no mode below minus practical_thz")
    strict_thz: float = Field(description="strict threshold (of the published study), THz")
    practical_thz: float = Field(description="threshold above the noise of forces, THz")
    acoustic_gamma_thz: list[float] = Field(
        description="the three acoustic frequencies at Γ as the force constants give them, THz (0 = exact sum rule)"
    )


class KnownPhonons(CrystalFields):
    """The fields of atomate2's ``PhononBSDOSDoc`` that a `PhononDoc` has beside its own, per formula unit as there."""

    phonon_bandstructure: PymatgenDict | None = Field(
        None, description="bands along the standard path, pymatgen PhononBandStructureSymmLine as a dictionary, THz"
    )
    phonon_dos: PymatgenDict | None = Field(
        None, description="density of states, pymatgen PhononDos as a dictionary, per THz and primitive cell"
    )
    temperatures: list[int] | None = Field(None, description="of the four lists that follow, K")
    free_energies: list[float] | None = Field(None, description="vibrational Helmholtz energy, J/mol of formula units")
    entropies: list[float] | None = Field(None, description="vibrational entropy, J/K/mol of formula units")
    internal_energies: list[float] | None = Field(None, description="vibrational energy, J/mol of formula units")
    heat_capacities: list[float] | None = Field(None, description="heat capacity, J/K/mol of formula units")
    total_dft_energy: float | None = Field(None, description="energy, eV per formula unit")
    formula_units: int | None = Field(None, description="formula units in the cell")
    volume_per_formula_unit: float | None = Field(None, description="Å³")
    has_imaginary_modes: bool | None = Field(
        None, description="a frequency below -1e-5 THz on the band path; `stability` judges where a supercell is exact"
    )
    born: list[list[list[float]]] | None = Field(None, description="Born charges of the primitive cell's atoms, e")
    epsilon_static: list[list[float]] | None = Field(None, description="high-frequency dielectric tensor")
    code: str | None = Field(None, description="vasp, gpaw, or forcefields for a potential")
    phonopy_settings: dict[str, Any] | None = Field(
        None, description="points per segment of the path, its scheme, points of the mesh times atoms"
    )
    uuids: dict[str, Any] | None = Field(None, description="of the calculations behind, where there were any")
    jobdirs: dict[str, Any] | None = Field(None, description="of the calculations behind, where there were any")


class PhononDoc(KnownPhonons):
    """Harmonic phonons of one crystal from one source of forces."""

    formula: str = Field(description="reduced formula")
    space_group: str = Field(description="international symbol of the relaxed cell")
    space_group_number: int = Field(description="international number of the relaxed cell")
    structure: PymatgenDict = Field(
        description="the cell phonons were computed for, pymatgen Structure as a dictionary"
    )
    supercell_matrix: list[list[int]] = Field(description="supercell of that cell")
    primitive_matrix: list[list[float]] = Field(description="primitive cell in that cell's basis")
    n_atoms_supercell: int = Field(description="atoms of the displaced cells")
    n_displacements: int = Field(description="displaced cells evaluated")
    displacement: float | None = Field(None, description="displacement length, Å")
    missing: list[Missing] = Field(
        default_factory=list, description="displaced cells without forces; the others determine the force constants"
    )
    force_constants: ArtefactRef = Field(description="compact force constants with the cells they belong to (npz)")
    fc_calculator: str = Field(description="symfc or traditional")
    asr_residual: float = Field(description="largest violation of the acoustic sum rule over either index, eV/Å²")
    lo_to_splitting_thz: float | None = Field(
        None, description="largest rise of a mode at Γ by the non-analytic term, THz; none without Born charges"
    )
    energy: float | None = Field(None, description="energy of the cell, eV")
    volume: float = Field(description="volume of the primitive cell, Å³")
    omega_min_thz: float = Field(description="lowest frequency on the band path, THz (imaginary negative)")
    omega_max_thz: float = Field(description="highest frequency on the band path, THz")
    omega_mean_thz: float = Field(description="mean of the real (positive) mesh modes, THz")
    thermal: ThermalProperties
    stability: StabilityVerdict
    relaxation: dict[str, Any] | None = Field(None, description="steps, largest force and stress of the relaxation")
    potential: PotentialRef | None = Field(None, description="the potential, absent for DFT")
    source: str = Field("", description="where the forces come from: potential name, code or file name")
    manifest: Manifest


class PhononSide(Document):
    """What is reported about each side of a comparison."""

    omega_min_thz: float = Field(description="lowest frequency on the band path, THz (imaginary negative)")
    omega_max_thz: float = Field(description="highest frequency on the band path, THz")
    omega_mean_thz: float = Field(description="weighted mean of the positive frequencies of the mesh, THz")
    heat_capacity: float = Field(description="C_v at the given temperature, J/K/mol of primitive cells")
    entropy: float = Field(description="S at the given temperature, J/K/mol of primitive cells")
    free_energy: float = Field(description="F at the given temperature, kJ/mol of primitive cells")
    volume: float = Field(description="volume of the primitive cell, Å³")
    n_imaginary_commensurate: int = Field(description="commensurate modes below -1e-4 THz, acoustic at Γ excluded")
    stable: bool = Field(description="n_imaginary_commensurate is zero")
    n_imaginary_practical: int = Field(description="commensurate modes below the practical threshold")
    stable_practical: bool = Field(description="n_imaginary_practical is zero")
    imaginary_share: float = Field(description="share of mesh modes left out of C_v, S and F because they are not real")
    asr_residual: float = Field(description="largest violation of the acoustic sum rule, eV/Å²")
    space_group: str = Field(description="international symbol")
    space_group_number: int = Field(description="international number")
    lo_to_splitting_thz: float | None = Field(
        None, description="largest rise of a mode at Γ by the non-analytic term, THz; none without Born charges"
    )


class PhononComparison(Document):
    """Candidate phonons against reference phonons, both through the same code on the same q-points."""

    formula: str
    mae_thz: float = Field(description="mean |Δω| over mesh and branches (sorted), THz")
    rmse_thz: float = Field(description="root mean square Δω, THz")
    scaled_rmse_thz: float = Field(
        description="rmse after scaling the candidate to the reference's highest mesh frequency: shape of bands, THz"
    )
    relative_rmse: float = Field(description="rmse over the root mean square of the reference's frequencies")
    omega_max_error_thz: float = Field(description="candidate minus reference, THz")
    omega_max_error_percent: float | None
    omega_mean_error_percent: float | None
    omega_min_error_thz: float = Field(description="candidate minus reference, THz")
    omega_min_error_percent: float | None = Field(
        description="error over |reference|; null where |reference| < 0.01 THz and a percentage has no meaning"
    )
    omega_mean_scaled_thz: float = Field(
        description="candidate's mean after scaling to the reference's maximum (the published tables list this), THz"
    )
    dos_error_percent: float = Field(
        description="100 ∫|g_candidate - g_reference| dω / ∫ g_reference dω, equal Gaussian smearing and grid"
    )
    dos_smearing_thz: float
    branch_mae_thz: list[float] = Field(description="mean |Δω| of every branch, lowest first, THz")
    branch_bias_thz: list[float] = Field(description="mean Δω of every branch, lowest first, THz")
    same_space_group: bool
    reference: PhononSide
    candidate: PhononSide
    mesh: list[int]
    n_qpoints: int = Field(description="q-points after reduction by symmetry common to both sides")
    temperature: float = Field(description="K")
    fc_calculator: str
    notes: list[str] = Field(default_factory=list, description="what a reader should know about this pair")
