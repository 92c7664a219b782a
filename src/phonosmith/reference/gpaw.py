"""GPAW in plane-wave mode: a free engine that needs no licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator

from phonosmith.core.errors import ConfigurationError
from phonosmith.reference.kept import KeepingCalculator
from phonosmith.reference.protocol import Calculation, Cell, ReferenceProtocol, kpoint_mesh
from phonosmith.settings import get_settings

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
    counts points per Å⁻¹ of the reciprocal vectors with 2π, hence 1/KSPACING. For a cell (rows in Å) the mesh is the
    protocol's own, which a relaxation that starts there keeps, as in VASP.
    """
    if calculation == "born":
        raise ConfigurationError("The gpaw engine computes no Born charges.", "Use the vasp engine for them.")
    points: dict[str, Any] = {"density": 1.0 / protocol.kspacing}
    if cell is not None:
        points = {"size": kpoint_mesh(protocol, calculation, cell)}
    else:
        # refuses displaced atoms whose k-points the cell decides
        protocol.gamma_only(calculation)
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
    needed where atoms are displaced: it decides the k-points. Where the settings name a ``reference_cache``, results
    are kept there and found again.
    """
    program = require_gpaw()
    vectors = None if cell is None else np.asarray(cell, dtype=float)
    parameters = gpaw_parameters(ReferenceProtocol.model_validate(protocol), calculation, vectors)
    parameters |= dict(overrides or {})

    def make() -> Calculator:
        from gpaw import GPAW

        return GPAW(**parameters)

    folder = get_settings().reference_cache
    if folder is None:
        return make()
    numbers = {name: value for name, value in parameters.items() if name != "txt"}
    return KeepingCalculator(make, f"gpaw {program}, gpaw-data {_data_version()}", numbers, folder)


def _data_version() -> str:
    try:
        return version("gpaw-data")
    except PackageNotFoundError:
        # data sets of the user's own: whoever changes them empties the folder
        return "own"
