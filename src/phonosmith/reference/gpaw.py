"""GPAW in plane-wave mode: a free engine that needs no licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator

from phonosmith.core.errors import ConfigurationError
from phonosmith.reference.protocol import Calculation, Cell, ReferenceProtocol

GPAW_CALCULATOR = "phonosmith.reference.gpaw.gpaw_calculator"


def require_gpaw() -> str:
    """Return GPAW's version."""
    try:
        return version("gpaw")
    except PackageNotFoundError as error:
        raise ConfigurationError(
            "GPAW is not installed in this environment.",
            "Run tools/install_gpaw.sh (it builds the extra 'gpaw' and fetches the PAW data sets).",
        ) from error


def occupations(protocol: ReferenceProtocol) -> dict[str, Any]:
    """Return GPAW's smearing that equals VASP's ISMEAR and SIGMA.

    Gaussian smearing of width SIGMA is Methfessel-Paxton of order 0. The tetrahedron method is refused: its forces are
    not the derivative of its energy in metals.
    """
    if protocol.ismear >= 0:
        return {"name": "methfessel-paxton", "order": protocol.ismear, "width": protocol.sigma}
    if protocol.ismear == -1:
        return {"name": "fermi-dirac", "width": protocol.sigma}
    raise ConfigurationError(
        f"ISMEAR = {protocol.ismear} (tetrahedra) has no counterpart for forces in GPAW.", "Use ismear: 0, -1 or 1."
    )


def gpaw_parameters(protocol: ReferenceProtocol, calculation: Calculation, cell: Cell | None = None) -> dict[str, Any]:
    """Return the arguments of ``gpaw.GPAW`` that correspond to a protocol (for a test to compare line by line).

    GPAW converges the energy per valence electron, so EDIFF is at least as strict as in VASP; its k-point density
    counts points per Å⁻¹ of the reciprocal vectors with 2π, hence 1/KSPACING.
    """
    if calculation == "born":
        raise ConfigurationError("The gpaw engine computes no Born charges.", "Use the vasp engine for them.")
    points = {"size": (1, 1, 1)} if protocol.gamma_only(calculation, cell) else {"density": 1.0 / protocol.kspacing}
    spin = {"spinpol": True} if protocol.spin_polarized else {}
    return spin | {
        "mode": {"name": "pw", "ecut": protocol.encut},
        "xc": protocol.functional,
        "kpts": points | {"gamma": True},
        "occupations": occupations(protocol),
        "convergence": {"energy": protocol.ediff},
        "maxiter": protocol.nelm,
        "txt": "gpaw.txt",
    }


def gpaw_calculator(
    protocol: Mapping[str, Any],
    calculation: Calculation = "static",
    overrides: Mapping[str, Any] | None = None,
    cell: Sequence[Sequence[float]] | None = None,
) -> Calculator:
    """Return a GPAW calculator of a protocol, as JSON (the dotted path the Makers carry).

    ``overrides`` are further arguments of ``gpaw.GPAW``: communicator, mixer, nbands, ...; ``cell`` (rows in Å) is
    needed where atoms are displaced: it decides the k-points.
    """
    require_gpaw()
    from gpaw import GPAW

    vectors = None if cell is None else np.asarray(cell, dtype=float)
    parameters = gpaw_parameters(ReferenceProtocol.model_validate(protocol), calculation, vectors)
    return GPAW(**parameters | dict(overrides or {}))
