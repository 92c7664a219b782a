"""The one object that says how reference calculations are done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, ValidationError

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.core.hashing import digest_json
from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS
from phonosmith.structures.cost import kpoint_mesh as kspacing_mesh
from phonosmith.structures.cost import reciprocal_lengths

Calculation = Literal["static", "relax", "elastic_relax", "eos_relax", "displacement", "born"]
"""Kinds of calculation a protocol defines."""

Cell = NDArray[np.float64]

_GGA_TAG = {"PBE": "PE", "PBEsol": "PS"}
_OWN_TAGS = frozenset(
    {
        "GGA", "ENCUT", "EDIFF", "EDIFFG", "KSPACING", "KGAMMA", "ISMEAR", "SIGMA", "ISPIN", "MAGMOM", "PREC", "ALGO",
        "NELM", "LREAL", "LASPH", "LMAXMIX", "IBRION", "ISIF", "NSW", "LEPSILON", "LWAVE", "LCHARG",
    }
)  # fmt: skip


def _pairs(value: Any) -> Any:
    """Turn a mapping into sorted pairs: a frozen model holds nothing that can be changed in place."""
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else tuple(map(tuple, value))


SymbolPairs = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)]
NumberPairs = Annotated[tuple[tuple[str, float], ...], BeforeValidator(_pairs)]
TagPairs = Annotated[tuple[tuple[str, bool | int | float | str], ...], BeforeValidator(_pairs)]


class ReferenceProtocol(Document, frozen=True, extra="forbid"):
    """Settings of every reference calculation of a campaign; two equal protocols give one potential energy surface.

    Defaults are those of Grandel et al. (2026): PBE, 520 eV, EDIFF 1e-8 eV, k-point spacing 0.1 Å⁻¹, forces to
    0.5 meV/Å in relaxations. What the paper leaves open (smearing, spin, POTCAR variants) is a field here, never a
    default of a library.
    """

    schema_version: int = Field(1, description="version of this record's layout")
    functional: Literal["PBE", "PBEsol"] = Field("PBE", description="exchange-correlation functional, no +U")
    encut: float = Field(520.0, gt=0, description="plane-wave cutoff, eV (VASP tag ENCUT)")
    ediff: float = Field(1e-8, gt=0, description="electronic convergence: |dE| of the last step below this, eV (EDIFF)")
    kspacing: float = Field(
        0.1,
        gt=0,
        description="k-point spacing in VASP's convention, Å⁻¹ (KSPACING): N_i = max(1, ceil(|b_i| / kspacing)) with "
        "|b_i| including 2π, mesh centred on Γ. A spacing quoted without 2π is this divided by 2π; GPAW's density is "
        "1/kspacing points per Å⁻¹ of the same |b_i|",
    )
    displacement_kpoints: Literal["gamma", "kspacing"] = Field(
        "gamma",
        description="k-points of displaced supercells: Γ only where they are at least gamma_min_length thick, or the "
        "mesh that kspacing gives in all of them",
    )
    gamma_min_length: float = Field(
        18.0,
        gt=0,
        description="displaced supercells thinner than this in any direction (2π over a reciprocal vector) get the "
        "mesh of kspacing, Å: the published ones are 20 Å or more, and a relaxation may shrink a cell afterwards",
    )
    ismear: int = Field(0, ge=-5, le=5, description="smearing (ISMEAR): 0 Gaussian, -1 Fermi, n > 0 Methfessel-Paxton")
    sigma: float = Field(0.05, gt=0, description="smearing width, eV (SIGMA)")
    spin_polarized: bool = Field(False, description="spin-polarised (ISPIN = 2) or not")
    magmoms: NumberPairs = Field(
        (),
        description="initial moment by element, μB, for elements that are named; only with spin_polarized. Empty: "
        "pymatgen's table for the Materials Project; 0.6 for an element in neither; moments of a frame come first "
        "(MAGMOM)",
    )
    nelm: int = Field(
        200, gt=1, description="most electronic steps; a calculation that has not converged by then is refused (NELM)"
    )
    algo: str = Field("Normal", description="electronic minimisation (ALGO); custodian may change it, the PES stays")
    prec: str = Field("Accurate", description="grids (PREC)")
    lreal: bool = Field(False, description="projection in real space (LREAL)")
    lasph: bool = Field(True, description="aspherical gradient corrections in the spheres (LASPH)")
    relax_fmax: float = Field(
        5e-4, gt=0, description="forces below this end a relaxation of cell and atoms, or of atoms at a volume, eV/Å"
    )
    elastic_fmax: float = Field(1e-3, gt=0, description="forces below this end a relaxation in a strained cell, eV/Å")
    relax_steps: int = Field(200, gt=0, description="most ionic steps of a relaxation (NSW, ISIF 3)")
    elastic_steps: int = Field(99, gt=0, description="most ionic steps in a strained or scaled cell (NSW, ISIF 2)")
    mode_encut: float = Field(400.0, gt=0, description="plane-wave cutoff where imaginary modes are followed, eV")
    mode_ediff: float = Field(1e-7, gt=0, description="electronic convergence where imaginary modes are followed, eV")
    potcar_functional: str = Field("PBE_54", description="POTCAR library, pymatgen's name")
    potcar_overrides: SymbolPairs = Field((), description="POTCAR symbol by element where it is not the table's")
    extra_incar: TagPairs = Field(
        (), description="further INCAR tags, part of the identity (not NCORE, KPAR and the like)"
    )

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Refuse contradictions before anything is run."""
        taken = sorted(key for key, _ in self.extra_incar if key.upper() in _OWN_TAGS)
        if taken:
            raise ConfigurationError(
                f"extra_incar sets {', '.join(taken)}, which a field of the protocol already says.",
                "Use the field (encut, ediff, kspacing, ismear, ...), so that there is one value.",
            )
        if self.magmoms and not self.spin_polarized:
            raise ConfigurationError("magmoms are given for a calculation without spin.", "Set spin_polarized: true.")

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """Canonical sha256 of every field."""
        return digest_json(self.model_dump(mode="json"))

    def fmax(self, calculation: Calculation) -> float | None:
        """Return the force threshold of a calculation, eV/Å; None where atoms do not move."""
        thresholds: dict[Calculation, float] = {
            "relax": self.relax_fmax, "elastic_relax": self.elastic_fmax, "eos_relax": self.relax_fmax
        }  # fmt: skip
        return thresholds.get(calculation)

    def gamma_only(self, calculation: Calculation, cell: Cell | None = None) -> bool:
        """Tell whether a calculation is done at Γ alone; the cell (rows in Å) decides where atoms are displaced."""
        if calculation != "displacement" or self.displacement_kpoints != "gamma":
            return False
        if cell is None:
            raise InputError("The k-points of displaced atoms depend on the cell.", "Give the cell's vectors.")
        thickness = 2 * np.pi / reciprocal_lengths(np.asarray(cell, dtype=float))
        return bool(thickness.min() >= self.gamma_min_length)

    def for_modes(self) -> ReferenceProtocol:
        """Return the protocol of calculations along imaginary modes: the same with a cheaper basis and threshold."""
        return self.model_copy(update={"encut": self.mode_encut, "ediff": self.mode_ediff})

    def potcar_map(self, elements: Iterable[str] | None = None) -> dict[str, str]:
        """Return the POTCAR symbol of each element; of every element with one unless some are given."""
        table = PBE_54_SYMBOLS | dict(self.potcar_overrides)
        wanted = sorted(set(table if elements is None else elements))
        if missing := [element for element in wanted if element not in table]:
            raise ConfigurationError(
                f"The protocol names no POTCAR for {', '.join(missing)}.", "Add them to potcar_overrides."
            )
        return {element: table[element] for element in wanted}


def moment_table(protocol: ReferenceProtocol) -> dict[str, float]:
    """Return initial moments by element, μB: the protocol's, or pymatgen's for the Materials Project."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    return dict(protocol.magmoms) or dict(MPRelaxSet.CONFIG["INCAR"]["MAGMOM"])


def load_protocol(data: Mapping[str, Any] | None) -> ReferenceProtocol:
    """Build a protocol from a mapping, naming each field that is wrong."""
    try:
        return ReferenceProtocol.model_validate(dict(data or {}))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigurationError(
            f"The reference protocol is invalid: {wrong}.",
            f"Fields: {', '.join(ReferenceProtocol.model_fields)}.",
        ) from error


def incar_tags(protocol: ReferenceProtocol, calculation: Calculation, cell: Cell | None = None) -> dict[str, Any]:
    """Return every INCAR tag of a calculation (MAGMOM, an atom-resolved list, comes on top for magnetic runs).

    Nothing else is written, so what is not here has VASP's own default. The cell (rows in Å) is needed where atoms are
    displaced, see `mesh_tags`.
    """
    return dict(sorted((electronic_tags(protocol, calculation) | mesh_tags(protocol, calculation, cell)).items()))


def mesh_tags(
    protocol: ReferenceProtocol, calculation: Calculation, cell: Cell | None = None
) -> dict[str, float | bool]:
    """Return the INCAR tags of the k-mesh, none where a calculation of a cell (rows in Å) is done at Γ alone."""
    return {} if protocol.gamma_only(calculation, cell) else {"KSPACING": protocol.kspacing, "KGAMMA": True}


def electronic_tags(protocol: ReferenceProtocol, calculation: Calculation) -> dict[str, Any]:
    """Return the INCAR tags that no cell decides, all but those of the k-mesh.

    LMAXMIX is 6 for every material: it only concerns charge mixing, and one value keeps one INCAR.
    """
    tags: dict[str, Any] = {
        "ALGO": protocol.algo,
        "EDIFF": protocol.ediff,
        "ENCUT": protocol.encut,
        "GGA": _GGA_TAG[protocol.functional],
        "ISMEAR": protocol.ismear,
        "ISPIN": 2 if protocol.spin_polarized else 1,
        "LASPH": protocol.lasph,
        "LCHARG": False,
        "LMAXMIX": 6,
        "LREAL": protocol.lreal,
        "LWAVE": False,
        "NELM": protocol.nelm,
        "PREC": protocol.prec,
        "SIGMA": protocol.sigma,
    }
    # IBRION is always written: emmet reads it in an error path and fails the job when it is absent
    motion: dict[str, dict[str, Any]] = {
        "relax": {"IBRION": 2, "ISIF": 3, "NSW": protocol.relax_steps, "EDIFFG": -protocol.relax_fmax},
        "elastic_relax": {"IBRION": 2, "ISIF": 2, "NSW": protocol.elastic_steps, "EDIFFG": -protocol.elastic_fmax},
        "eos_relax": {"IBRION": 2, "ISIF": 2, "NSW": protocol.elastic_steps, "EDIFFG": -protocol.relax_fmax},
        "born": {"IBRION": 8, "ISIF": 2, "NSW": 1, "LEPSILON": True},
    }
    tags |= motion.get(calculation, {"IBRION": -1, "ISIF": 2, "NSW": 0})
    if protocol.spin_polarized:
        tags["LORBIT"] = 11  # without it VASP tells no moments of atoms
    return tags | {key.upper(): value for key, value in protocol.extra_incar}


def kpoint_mesh(protocol: ReferenceProtocol, calculation: Calculation, cell: Cell) -> tuple[int, int, int]:
    """Return the subdivisions along each reciprocal vector for a cell (rows in Å)."""
    if protocol.gamma_only(calculation, cell):
        return (1, 1, 1)
    return kspacing_mesh(np.asarray(cell, dtype=float), protocol.kspacing)
