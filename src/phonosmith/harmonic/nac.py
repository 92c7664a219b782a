"""Born charges and the dielectric constant of polar crystals, for the non-analytic term that splits LO from TO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.harmonic.matching import Integers, find_transforms, pair_sites
from phonosmith.harmonic.model import NAC_FACTOR, composition_of

if TYPE_CHECKING:
    from phono3py import Phono3py
    from phonopy import Phonopy

CHARGE_SUM_TOLERANCE = 0.5
"""|e| the Born charges of a cell may miss neutrality by; calculations leave some hundredths."""


class NacParams(TypedDict):
    """What phonopy needs for the non-analytic term."""

    born: NDArray[np.float64]
    """Born effective charges of the atoms of the primitive cell, e, shape (n, 3, 3)."""
    dielectric: NDArray[np.float64]
    """High-frequency dielectric tensor, dimensionless."""
    factor: float
    """e²/(4πε0), eV Å."""


def checked_charges(params: Any, phonon: Phonopy | Phono3py, where: str) -> NacParams:
    """Return charges and dielectric tensor of ``where`` in our form; those no crystal can have are refused."""
    born, dielectric = (np.asarray(params[name], dtype=float) for name in ("born", "dielectric"))
    count = len(phonon.primitive)
    if born.shape != (count, 3, 3) or dielectric.shape != (3, 3):
        raise MismatchError(
            f"{where}: Born charges of shape {born.shape} and a dielectric tensor of shape {dielectric.shape} do not "
            f"belong to a primitive cell of {count} atoms.",
            "Give those of this crystal.",
        )
    if not (np.isfinite(born).all() and np.isfinite(dielectric).all()):
        raise InputError(f"{where}: a Born charge or the dielectric tensor is not finite.", "Repeat the calculation.")
    if np.linalg.eigvalsh((dielectric + dielectric.T) / 2).min() < 1:
        raise InputError(
            f"{where}: a dielectric constant below 1 is impossible.",
            "Is the first line of BORN the unit, the second ε?",
        )
    missing = float(np.abs(born.sum(axis=0)).max())
    if missing > CHARGE_SUM_TOLERANCE:
        raise InputError(
            f"{where}: the Born charges of the cell sum to {missing:.2f} e, not to zero.",
            "Give charges of all atoms of this crystal; repeat their calculation with a denser k-mesh.",
        )
    return {"born": born, "dielectric": dielectric, "factor": float(params.get("factor") or NAC_FACTOR)}


def carried_charges(reference: Phonopy, candidate: Phonopy | Phono3py, transform: Integers) -> NacParams:
    """Return the reference's charges for the atoms and axes of another calculation of the crystal.

    The unimodular integer ``transform`` M brings the candidate's lattice onto the reference's (see `CellMatch`).
    """
    ours, theirs = reference.primitive, candidate.primitive
    params = checked_charges(reference.nac_params, reference, "the reference")
    # rows of the lattices: reference = (M candidate) F, and F is a rotation times a small strain
    rotation = polar(np.linalg.inv(transform @ theirs.cell) @ ours.cell)[0]
    _, counterparts = pair_sites(ours, theirs, transform)
    born = np.empty_like(params["born"])
    born[counterparts] = rotation @ params["born"] @ rotation.T
    return {"born": born, "dielectric": rotation @ params["dielectric"] @ rotation.T, "factor": params["factor"]}


def charges_of(source: Phonopy, phonon: Phonopy | Phono3py, where: str) -> NacParams:
    """Return the charges of another calculation of the crystal, in any setting; ``where`` names it in messages."""
    transforms = find_transforms(source.primitive, phonon.primitive)
    if not transforms:
        raise MismatchError(
            f"The charges of {where} belong to another crystal ({composition_of(source.primitive).formula}) than "
            f"{composition_of(phonon.primitive).formula}.",
            "Give the BORN file or phonopy.yaml of this crystal.",
        )
    return carried_charges(source, phonon, transforms[0])
