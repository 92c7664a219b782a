"""What a VASP run computed, from its tags: functional, the settings that shape the energy surface, POTCARs, k-mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.hashing import digest_json
from phonosmith.structures.cost import reciprocal_lengths
from phonosmith.structures.labels import SPIN

CORRECTABLE_TAGS = frozenset(
    {
        "ALGO", "IALGO", "ISEARCH", "IMIX", "AMIX", "BMIX", "AMIN", "AMIX_MAG", "BMIX_MAG", "NELMDL", "NELMIN", "NELM",
        "TIME", "NBANDS", "ISTART", "ICHARG", "SYMPREC", "ISYM", "LWAVE", "LCHARG",
    }
)  # fmt: skip
"""INCAR tags a correction may change in any calculation: the converged energy and forces stay the same."""
RELAXATION_TAGS = frozenset({"IBRION", "POTIM"})
"""INCAR tags a correction may change where atoms move: the path, not the end."""
_GGA = {
    "PE": "PBE", "PS": "PBEsol", "RP": "RPBE", "RE": "revPBE", "91": "PW91", "AM": "AM05", "CA": "LDA", "PZ": "LDA",
    "PW": "LDA", "VW": "LDA", "WI": "LDA", "B3": "B3LYP", "B5": "B3LYP", "BF": "BEEF",
}  # fmt: skip
_DISPERSION = {1: "D2", 10: "D2", 11: "D3", 12: "D3(BJ)", 13: "D4", 2: "TS", 20: "TS", 21: "TS", 4: "dDsC", 202: "MBD"}
_FAMILY = {"PAW_PBE": "PBE", "PAW_GGA": "PW91", "PAW": "LDA"}
_EXCHANGE = {"PE": "PBE", "91": "PW91", "CA": "LDA", "PZ": "LDA"}
_SHAPING = ("NUPDOWN", "PSTRESS", "EFIELD")
"""Further tags that move the surface where they are not zero (VASP prints -1 for a free NUPDOWN)."""
STANDIN_MARK = "standin"
"""Part of the version the stand-in prints."""
INVENTED_MARK = "INVENTED"
"""Part of the title of every invented POTCAR."""


def is_rehearsal(version: str, titles: Sequence[str]) -> bool:
    """Tell whether an output was made by the stand-in or with invented POTCARs."""
    return STANDIN_MARK in version.lower() or any(INVENTED_MARK in title for title in titles)


@dataclass(frozen=True)
class VaspSettings:
    """Settings of one run.

    Attributes
    ----------
    tags : INCAR tags, those VASP worked with where it lists them, else those given
    potcars : POTCAR titles in the order of the species blocks
    mesh : k-point divisions, None for an explicit list of several points
    shifted : the mesh misses Γ
    charge : of the cell, e, where NELECT and the valences of the POTCARs are known
    """

    version: str
    tags: Mapping[str, Any]
    potcars: Sequence[str]
    mesh: tuple[int, int, int] | None = None
    shifted: bool = False
    charge: float = 0.0

    def number(self, name: str, default: float) -> float:
        """Return a tag as a number."""
        try:
            return float(self.tags.get(name, default))
        except (TypeError, ValueError):
            return default

    def flag(self, name: str) -> bool:
        """Return a tag as a logical."""
        return str(self.tags.get(name, "F")).strip().upper().strip(".")[:1] == "T"

    @property
    def spin_polarized(self) -> bool:
        """Whether spins up and down were free to differ (ISPIN = 2)."""
        return int(self.number("ISPIN", 1)) == 2

    def text(self, name: str) -> str:
        """Return a tag as text; VASP's ``--`` means not set."""
        value = str(self.tags.get(name, "")).strip()
        return "" if value in ("--", "") or value.lower() in ("none", "null") else value


def element_of(title: str) -> str:
    """Return the element a POTCAR title names, e.g. Na of ``PAW_PBE Na_pv 19Sep2006``; empty when there is none."""
    words = title.split()
    return words[1].split("_")[0] if len(words) > 1 else ""


def functional_of(settings: VaspSettings) -> str | None:
    """Name the functional from GGA, METAGGA, hybrid, dispersion and +U tags and the POTCARs; None when unknown."""
    # OUTCAR of VASP 5 prints a logical METAGGA of another meaning
    meta = settings.text("METAGGA").upper().strip(".")
    meta = "" if meta in ("F", "T", "FALSE", "TRUE") else meta
    base = {"R2SCAN": "r2SCAN", "RTPSS": "revTPSS"}.get(meta, meta) if meta else _gga_name(settings)
    if base is None:
        return None
    if settings.flag("LHFCALC"):
        screening, mixing = settings.number("HFSCREEN", 0.0), settings.number("AEXX", 0.25)
        quarter = base == "PBE" and abs(mixing - 0.25) < 1e-6
        if quarter and abs(screening - 0.2) < 0.011:
            base = "HSE06"
        else:
            base = "PBE0" if quarter and screening == 0 else f"{base}-hybrid({mixing:g},{screening:g})"
    if settings.flag("LUSE_VDW"):
        base += "+vdW-DF"
    dispersion = int(settings.number("IVDW", 0))
    if dispersion or settings.flag("LVDW"):
        base += f"+{_DISPERSION.get(dispersion or 1, f'IVDW{dispersion}')}"
    return base + "+U" if settings.flag("LDAU") else base


def _gga_name(settings: VaspSettings) -> str | None:
    tag = settings.text("GGA").upper()
    if tag:
        return _GGA.get(tag, f"GGA-{tag}")
    families = {pseudopotential_family(title) for title in settings.potcars}
    return families.pop() if len(families) == 1 else None


def pseudopotential_family(title: str) -> str | None:
    """Return the functional a POTCAR was made with by the first word of its title, e.g. PBE of ``PAW_PBE Si``."""
    words = title.split()
    return _FAMILY.get(words[0]) if words else None


def exchange_of(code: str) -> str | None:
    """Return the functional that LEXCH of a POTCAR stands for."""
    return _EXCHANGE.get(code.strip().upper())


def charge_of(tags: Mapping[str, Any], valence: float | None) -> float:
    """Return the charge of a cell, e, from NELECT and the electrons of the neutral cell; 0 where one is unknown."""
    try:
        return 0.0 if valence is None else round(valence - float(tags["NELECT"]), 6)
    except (KeyError, TypeError, ValueError):
        return 0.0


def surface_settings(settings: VaspSettings) -> dict[str, Any]:
    """Return what shapes the potential-energy surface beside functional, POTCARs and k-mesh.

    EDIFF, NELM, algorithm and parallel layout are absent on purpose: converged results do not depend on them.
    """
    surface: dict[str, Any] = {
        "encut": round(settings.number("ENMAX", settings.number("ENCUT", 0.0)), 3),
        "prec": settings.text("PREC").lower()[:4] or "norm",
        "ismear": int(settings.number("ISMEAR", 1)),
        "ispin": int(settings.number("ISPIN", 1)),
        "lreal": settings.text("LREAL").upper().strip(".")[:1] not in ("", "F"),
        "lasph": settings.flag("LASPH"),
        "lsorbit": settings.flag("LSORBIT"),
        "shifted": settings.shifted,
        "charge": round(settings.charge, 3),
        "potcars": sorted({str(pseudopotential_family(title)) for title in settings.potcars}),
    }
    for name in _SHAPING:
        if settings.number(name, 0.0) not in (0.0, -1.0):
            surface[name.lower()] = round(settings.number(name, 0.0), 6)
    if surface["ismear"] >= -1:
        surface["sigma"] = round(settings.number("SIGMA", 0.2), 6)
    if settings.flag("LDAU"):
        surface["ldau"] = [str(settings.tags.get(name, "")) for name in ("LDAUTYPE", "LDAUL", "LDAUU", "LDAUJ")]
    return surface


def settings_digest(settings: VaspSettings) -> str:
    """Return twelve digits that are equal for runs on the same surface (POTCARs are compared element by element)."""
    return digest_json({"functional": functional_of(settings), **surface_settings(settings)})[:12]


def mesh_spacing(cell: NDArray[np.float64], mesh: Sequence[int]) -> float:
    """Return the coarsest spacing of a k-mesh in VASP's convention (2π included), Å⁻¹."""
    return float(np.max(reciprocal_lengths(cell) / np.asarray(mesh, dtype=float)))


def provenance(settings: VaspSettings, cell: NDArray[np.float64]) -> dict[str, Any]:
    """Return the ``atoms.info`` entries that an audit compares."""
    titles = {element: title for title in settings.potcars if (element := element_of(title))}
    info: dict[str, Any] = {
        SPIN: settings.spin_polarized,
        "functional": functional_of(settings),
        "settings": settings_digest(settings),
        "encut": surface_settings(settings)["encut"],
        "ediff": settings.number("EDIFF", 1e-4),
        "code": f"VASP {settings.version}".strip(),
        "potcar": ";".join(f"{element}:{title}" for element, title in sorted(titles.items())) or None,
        "rehearsal": True if is_rehearsal(settings.version, settings.potcars) else None,
    }
    if settings.mesh is not None:
        info["kmesh"] = "x".join(map(str, settings.mesh)) + ("s" if settings.shifted else "")
        info["kspacing"] = round(mesh_spacing(cell, settings.mesh), 6)
    return info
