"""Elastic constants, equation of state and Slack's conductivity of one crystal by one method."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phonosmith.core.document import Document, Missing
from phonosmith.core.manifest import Manifest
from phonosmith.evaluation.known import CrystalFields, PymatgenDict


class ElasticModuli(Document):
    """Polycrystalline averages of one elastic tensor."""

    bulk_voigt: float = Field(description="Voigt bulk modulus, GPa")
    bulk_reuss: float = Field(description="Reuss bulk modulus, GPa")
    bulk_vrh: float = Field(description="Voigt-Reuss-Hill bulk modulus, GPa")
    shear_voigt: float = Field(description="Voigt shear modulus, GPa")
    shear_reuss: float = Field(description="Reuss shear modulus, GPa")
    shear_vrh: float = Field(description="Voigt-Reuss-Hill shear modulus, GPa")


class ElasticFit(Document):
    """A fitted elastic tensor and what follows from it."""

    tensor: list[list[float]] = Field(description="elastic tensor in IEEE orientation, Voigt 6x6, GPa")
    moduli: ElasticModuli | None = Field(None, description="averages; none for a singular tensor")
    eigenvalues: list[float] = Field(description="eigenvalues of the 6x6 tensor, ascending, GPa")
    born_stable: bool = Field(description="all eigenvalues positive (necessary and sufficient, Mouhat & Coudert 2014)")
    v_transverse: float | None = Field(None, description="transverse sound velocity, m/s; none when unstable")
    v_longitudinal: float | None = Field(None, description="longitudinal sound velocity, m/s; none when unstable")
    density: float = Field(description="mass density, kg/m³")
    residual: float = Field(description="stress scatter about a quadratic in strain over stress size, dimensionless")
    reliable: bool = Field(description="residual below the limit")
    n_deformations: int = Field(description="strained cells calculated")
    equilibrium_stress: float = Field(description="largest stress component of the unstrained cell, GPa")
    warnings: list[str] = Field(default_factory=list, description="what a reader should know")


class EosFit(Document):
    """A fitted Birch-Murnaghan equation of state, per cell as given."""

    energy: float = Field(description="minimum energy E0, eV per cell")
    volume: float = Field(description="equilibrium volume V0, Å³ per cell")
    bulk_modulus: float = Field(description="bulk modulus B0, GPa")
    bulk_modulus_derivative: float = Field(description="dB0/dp, dimensionless")
    rms_residual: float = Field(description="root mean square of the energy residuals of the points used, eV per cell")
    n_points: int = Field(description="points used")
    excluded: list[int] = Field(default_factory=list, description="indices of points excluded as outliers")
    reasons: list[str] = Field(default_factory=list, description="why each excluded point was excluded")
    warnings: list[str] = Field(default_factory=list, description="what a reader should know")


class SlackConductivity(Document):
    """Slack's conductivity with every intermediate number."""

    kappa: float = Field(description="lattice thermal conductivity at the temperature, W/(m K)")
    temperature: float = Field(description="temperature, K")
    gruneisen: float = Field(description="average Grüneisen parameter γ from the Poisson ratio, dimensionless")
    poisson: float = Field(description="Poisson ratio ν, dimensionless")
    v_transverse: float = Field(description="transverse sound velocity, m/s")
    v_longitudinal: float = Field(description="longitudinal sound velocity, m/s")
    v_mean: float = Field(description="Debye mean sound velocity, m/s")
    debye_temperature: float = Field(description="Debye temperature Θ_D of all modes, K")
    acoustic_debye_temperature: float = Field(description="acoustic Debye temperature Θ_D n^(-1/3), K")
    density: float = Field(description="mass density, kg/m³")


class EosDoc(Document):
    """Equation of state of one crystal by one method."""

    formula: str = Field(description="reduced formula")
    structure_sha256: str = Field(description="identity of the cell the volumes were scaled from")
    method: str = Field(description="name of the potential or DFT protocol")
    n_atoms: int = Field(description="atoms in the cell")
    volumes: list[float] = Field(description="Å³ per cell, ascending")
    energies: list[float] = Field(description="energy after relaxing the atoms at fixed cell, eV per cell")
    max_forces: list[float] = Field(description="largest force left at each volume, eV/Å")
    converged: list[bool] = Field(description="forces below the criterion at each volume")
    fit: EosFit = Field(description="Birch-Murnaghan fit to the converged points")
    missing: list[Missing] = Field(default_factory=list, description="volumes whose calculations gave no energy")
    manifest: Manifest = Field(description="provenance")


class KnownElasticity(CrystalFields):
    """The fields of atomate2's ``ElasticDocument`` that an `ElasticDoc` has beside its own."""

    structure: PymatgenDict | None = Field(None, description="the unstrained cell, pymatgen Structure as a dictionary")
    volume: float | None = Field(None, description="of that cell, Å³")
    elastic_tensor: dict[str, list[list[float]]] | None = Field(
        None,
        description="raw: in the axes of the cell; ieee_format: in standard orientation, made symmetric by its group "
        "(`fit.tensor` is not). Voigt 6x6, GPa",
    )
    compliance_tensor: dict[str, list[list[float]]] | None = Field(
        None, description="inverses of elastic_tensor by the same names, 1/TPa; none for a singular tensor"
    )
    eq_stress: list[list[float]] | None = Field(None, description="stress of the unstrained cell, GPa")
    derived_properties: dict[str, float | None] | None = Field(
        None,
        description="k_voigt, k_reuss, k_vrh, g_voigt, g_reuss, g_vrh in GPa, and what pymatgen derives in SI "
        "units: y_mod, trans_v, long_v, debye_temperature, clarke_thermalcond, ...",
    )
    fitting_data: dict[str, list[Any] | None] | None = Field(
        None, description="strains, deformations and stresses (GPa) of the fit, uuids and folders of the calculations"
    )
    fitting_method: str | None = Field(None, description="pymatgen's name")
    order: int | None = Field(None, description="of the expansion in strain")
    warnings: list[str] | None = Field(None, description="of atomate2's fit; see `fit.warnings`")


class ElasticDoc(KnownElasticity):
    """Elastic properties of one crystal by one method."""

    formula: str = Field(description="reduced formula")
    structure_sha256: str = Field(description="identity of the unstrained cell")
    method: str = Field(description="name of the potential or DFT protocol")
    fit: ElasticFit = Field(description="tensor, averages, stability, quality")
    slack: SlackConductivity | None = Field(None, description="Slack conductivity at 300 K; none when unstable")
    n_unconverged: int = Field(description="strained cells whose atoms did not reach the force criterion")
    manifest: Manifest = Field(description="provenance")

    def brief(self) -> ElasticDoc:
        """Return a copy without the data of the fit and the cell, for documents about many potentials."""
        return self.model_copy(update={"fitting_data": None, "structure": None})
