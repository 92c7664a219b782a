"""Custodian for reference calculations: only corrections that keep the potential energy surface, fresh for each job."""

from __future__ import annotations

from typing import Any

# Messages whose fixes change mixing, algorithm, bands, symmetry use or step length. Left out on purpose: everything
# that changes smearing (tet, dentet, algo_tet), the k-mesh (ksymm, incorrect_shift, bravais, ibzkpt, ...), or the
# structure (triple_product, zpotrf).
SAFE_MESSAGES = (
    "brmix", "zbrent", "edddav", "eddrmm", "eddiag", "zheev", "pssyevx", "pdsyevx", "subspacematrix", "inv_rot_mat",
    "symprec_noise", "rhosyg", "posmap", "point_group", "pricel", "rot_matrix", "too_few_bands", "real_optlay",
    "rspher", "nicht_konv", "amin", "coef", "brions", "dfpt_ncore", "grad_not_orth",
)  # fmt: skip

CORRECTABLE_TAGS = frozenset(
    {
        "ALGO", "IALGO", "ISEARCH", "IMIX", "AMIX", "BMIX", "AMIN", "AMIX_MAG", "BMIX_MAG", "NELMDL", "NELMIN", "NELM",
        "TIME", "NBANDS", "ISTART", "ICHARG", "SYMPREC", "ISYM", "LWAVE", "LCHARG",
    }
)  # fmt: skip
"""INCAR tags a correction may change in any calculation: the converged energy and forces stay the same."""
RELAXATION_TAGS = frozenset({"IBRION", "POTIM"})
"""INCAR tags a correction may change where atoms move: the path, not the end."""


def fresh_handlers(frozen_timeout: float = 7200.0) -> list[Any]:
    """Return new handler objects; shared ones would carry counts from one job of a process to the next.

    A calculation without output for ``frozen_timeout`` seconds is stopped and started again.
    """
    from custodian.vasp import handlers

    known = [name for name in SAFE_MESSAGES if name in handlers.VaspErrorHandler.error_msgs]
    return [
        handlers.VaspErrorHandler(errors_subset_to_catch=known),
        handlers.UnconvergedErrorHandler(),
        handlers.NonConvergingErrorHandler(),
        handlers.FrozenJobErrorHandler(timeout=frozen_timeout),
        handlers.StdErrHandler(),
    ]
