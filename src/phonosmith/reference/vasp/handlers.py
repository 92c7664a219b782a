"""Custodian for reference calculations: only corrections that keep the potential energy surface, fresh for each job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from custodian.vasp.handlers import WalltimeHandler

# Messages whose fixes change mixing, algorithm, bands, symmetry use or step length. Left out on purpose: everything
# that changes smearing (tet, dentet, algo_tet), the k-mesh (ksymm, incorrect_shift, bravais, ibzkpt, ...), or the
# structure (triple_product, zpotrf).
SAFE_MESSAGES = (
    "brmix", "zbrent", "edddav", "eddrmm", "eddiag", "zheev", "pssyevx", "pdsyevx", "subspacematrix", "inv_rot_mat",
    "symprec_noise", "rhosyg", "posmap", "point_group", "pricel", "rot_matrix", "too_few_bands", "real_optlay",
    "rspher", "nicht_konv", "amin", "coef", "brions", "dfpt_ncore", "grad_not_orth",
)  # fmt: skip

LONGEST_MARGIN = 300.0
"""Time kept for the last step and for the files, s; a tenth of all the time where that is less."""


class StopInTime(WalltimeHandler):  # type: ignore[misc]  # custodian has no type information
    """Asks VASP to stop while there is time to write its files, counted from when this object is made.

    Custodian's own one waits for an OUTCAR that can be read, which a long first step does not give it.
    """

    def __init__(self, seconds: float, electronic: bool = False) -> None:
        """Stop within ``seconds``: after an ionic step or, where there is only one, after an electronic one."""
        super().__init__(seconds, min(LONGEST_MARGIN, 0.1 * seconds), electronic_step_stop=electronic)
        self.seconds, self.electronic, self.start_time = seconds, electronic, datetime.now()

    def check(self, directory: str = "./") -> bool:
        """Tell whether it is time."""
        passed = (datetime.now() - self.start_time).total_seconds()
        return self.seconds - passed < self.buffer_time or bool(super().check(directory))


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
