"""The one call: fine-tune a foundation for one material and judge it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.core.artefacts import write_atomic
from phonosmith.core.errors import ConfigurationError
from phonosmith.study.request import Budget, campaign_text, read_request
from phonosmith.study.study import Study

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.reference.engines import ReferenceEngine

CAMPAIGN = "campaign.yaml"


def tune(
    crystal: str | Path | Structure,
    *,
    foundation: str | PotentialRef,
    reference: str | Path | PotentialRef | ReferenceEngine | None = None,
    strategy: str | Sequence[str] | None = None,
    budget: Budget = "quick",
    out: str | Path | None = None,
    run: bool = True,
    show: bool = True,
    trust: bool = False,
    training: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Study:
    """Fine-tune a foundation for one material, judge its phonons against a reference, and return the study.

    It says what it will cost, runs on this machine with a live table, and keeps everything in a folder: the same call
    goes on where it was interrupted, and costs nothing once it is done.

    Parameters
    ----------
    crystal
        A structure, its file (POSCAR, CIF, ...), ``embedded:Si``, or a ``phonopy.yaml`` with forces or force constants:
        then labels and reference come from it, and nothing is calculated anew.
    foundation
        Name (``7net-0``, ``MACE-MP-0b3``, ``embedded``), sha256 prefix or file.
    reference
        Who tells the truth: ``vasp``, ``gpaw``, a potential (name or file), or the ``phonopy.yaml`` of this crystal.
        Where VASP or GPAW is asked for and not on this machine, the study is returned as planned: its ``flow``, and
        ``campaign.yaml`` in its folder, are for a cluster.
    strategy
        One preset of training or several. None: ``phonosmith`` where labels are drawn from finished phonons, else
        ``transfer``.
    budget
        ``quick``: small cells, phonons in supercells of 10 Å, few epochs; ``paper``: the published protocol.
    out
        Folder; ``tuned-<material>`` by default.
    run
        False: only plan.
    show
        Show cost and progress.
    trust
        Open a foundation's foreign pickle, which can run any code.
    training, changes
        Settings of the strategies and of the material (fields of `MaterialSettings`) in place of the budget's.
    """
    study = planned(
        crystal,
        foundation=foundation,
        reference=reference,
        strategy=strategy,
        budget=budget,
        out=out,
        trust=trust,
        training=training,
        **changes,
    )
    if show:
        for line in (study.cost.words(), study.cost.recommendation, *study.cost.warnings):
            if line:
                print(line, file=sys.stderr)
    if not run:
        return study
    try:
        study.request.require_program()
    except ConfigurationError as error:
        print(f"{error} Planned only. {how_to_submit(study)}", file=sys.stderr)
        return study
    return study.run(show=show)


def planned(
    crystal: str | Path | Structure,
    *,
    foundation: str | PotentialRef,
    reference: str | Path | PotentialRef | ReferenceEngine | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> Study:
    """Return a study that is checked and not begun; ``options`` are those of `read_request`."""
    with warnings.catch_warnings():
        # of a library that draws no bar here
        warnings.filterwarnings("ignore", message="IProgress not found")
        request = read_request(crystal, foundation, reference, **options)
    return Study(request, Path(f"tuned-{request.key}") if out is None else out)


def how_to_submit(study: Study) -> str:
    """Write the campaign file that does the same elsewhere and return what to do with it."""
    crystal, path = "POSCAR", study.folder / CAMPAIGN
    write_atomic(study.folder / crystal, study.request.crystal.to(fmt="poscar").encode())
    write_atomic(path, campaign_text(study.request, crystal).encode())
    return (
        f"On a machine that has it: phonosmith run {path}, or phonosmith submit {path} --engine jobflow-remote; "
        "in Python study.flow is the flow to submit."
    )
