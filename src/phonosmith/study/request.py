"""What a study is asked, read and checked before anything runs: crystal, foundation, reference, settings, cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError, MismatchError, PotentialError, did_you_mean
from phonosmith.flows.finished import FinishedPhonons, finished_phonons
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.flows.settings import MaterialSettings, material_settings, most_labels
from phonosmith.potentials.documents import PotentialRef
from phonosmith.training.spec import DEFAULT_STRATEGY, make_spec

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from phonosmith.reference.engines import ReferenceEngine
    from phonosmith.structures.preflight import MaterialPlan

Budget = Literal["quick", "paper"]
PROGRAMS = ("vasp", "gpaw")
SAMPLED_STRATEGY = "transfer"
"""Default for sampled labels, ten and few: the small steps of `DEFAULT_STRATEGY`, made for the many labels of finished
phonons, left silicon with 0.14 to 0.20 THz in eight times the time, `transfer` with 0.10 (embedded potentials)."""
QUICK_EPOCHS = 60
"""A quick training has as many epochs at most."""
_PHONOPY = re.compile(r"\.ya?ml(\.(gz|xz|lzma|bz2))?$", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """A study that can be carried out."""

    name: str
    crystal: Structure
    foundation: PotentialRef
    reference: ReferenceEngine
    settings: MaterialSettings

    @property
    def key(self) -> str:
        """What job names call the material."""
        return "-".join(self.name.lower().split())

    def maker(self) -> FineTuneMaterialMaker:
        """Return the Maker of its flow."""
        return FineTuneMaterialMaker(name="tune", engine=self.reference, settings=self.settings, campaign="")

    def require_program(self) -> None:
        """Refuse, in words that say what to install, a program that this machine does not have."""
        if self.reference.name == "gpaw":
            from phonosmith.reference.gpaw import require_gpaw

            require_gpaw()
        elif self.reference.name == "vasp":
            from phonosmith.reference.vasp.makers import require_vasp

            require_vasp(self.reference.protocol, {site.specie.symbol for site in self.crystal})


def read_request(
    crystal: str | Path | Structure,
    foundation: str | PotentialRef,
    reference: str | Path | PotentialRef | ReferenceEngine | None,
    strategy: str | Sequence[str] | None = None,
    budget: Budget = "quick",
    *,
    trust: bool = False,
    training: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Request:
    """Return what is asked; every mistake is an error that names it, before anything is computed.

    For the arguments see :func:`phonosmith.tune`.
    """
    if budget not in get_args(Budget):
        raise InputError(f"There is no budget {budget!r}.", "Choose quick or paper.")
    structure, name, engine = _crystal_and_reference(crystal, reference)
    if strategy is None:
        strategy = DEFAULT_STRATEGY if isinstance(engine, FinishedPhonons) else SAMPLED_STRATEGY
    strategies = strategy.split(",") if isinstance(strategy, str) else strategy
    specs = [make_spec(name.strip(), **(training or {})) for name in strategies]
    settings = {
        **_of_budget(budget, engine),
        "strategies": tuple(spec.strategy for spec in specs),
        "training": dict(training or {}) | (_few_epochs(specs) if budget == "quick" and not training else {}),
        **changes,
    }
    ref = foundation if isinstance(foundation, PotentialRef) else _resolved(foundation, trust=trust)
    request = Request(name, structure, ref, engine, material_settings(**settings))
    request.maker().check(structure, ref)
    return request


def _resolved(name: str, *, trust: bool) -> PotentialRef:
    from phonosmith.potentials.registry import resolve

    return resolve(name, trust=trust)


def _few_epochs(specs: Sequence[Any]) -> dict[str, Any]:
    # where epochs follow from the labels (visits) a training is short already
    slow = [spec.strategy for spec in specs if spec.visits is None and spec.epochs > QUICK_EPOCHS]
    return {strategy: {"epochs": QUICK_EPOCHS} for strategy in slow}


def _of_budget(budget: Budget, reference: ReferenceEngine) -> dict[str, Any]:
    """Return what differs from the published protocol."""
    if isinstance(reference, FinishedPhonons):
        return {"evaluate": ("phonons",) if budget == "quick" else ("phonons", "forgetting")}
    common = {"relax": True}
    if budget == "paper":
        return common
    return common | {"sampling": {"cell": "small"}, "min_length": 10.0, "evaluate": ("phonons",)}


def is_phonopy(source: object) -> bool:
    """Say whether something names phonopy's files: a YAML, or a folder."""
    return isinstance(source, str | Path) and (_PHONOPY.search(str(source)) is not None or Path(source).is_dir())


def _crystal_and_reference(
    crystal: str | Path | Structure, reference: str | Path | PotentialRef | ReferenceEngine | None
) -> tuple[Structure, str, ReferenceEngine]:
    """Return the crystal, its short name and who is the reference."""
    if is_phonopy(crystal):
        if reference is not None and not (is_phonopy(reference) and Path(str(reference)) == Path(str(crystal))):
            raise InputError(
                f"{crystal} holds phonons of its own, and {reference} is named as the reference as well.",
                "Leave the reference out; or give the crystal alone (POSCAR, CIF) with this reference.",
            )
        structure, finished = finished_phonons(Path(str(crystal)))
        return structure, structure.composition.reduced_formula, finished
    structure, name = _crystal(crystal)
    if reference is None:
        raise InputError(
            "Nobody is named as the reference.",
            f"Name {', '.join(PROGRAMS)}, a potential or a phonopy.yaml with forces.",
        )
    if is_phonopy(reference):
        theirs, finished = finished_phonons(Path(str(reference)))
        _require_same_crystal(structure, theirs, str(reference))
        return theirs, name, finished
    return structure, name, _engine(reference)


def _crystal(source: str | Path | Structure) -> tuple[Structure, str]:
    """Return a crystal and its short name: that of its file, or the formula."""
    if not isinstance(source, str | Path):
        return source, source.composition.reduced_formula
    from phonosmith.potentials.embedded import read_crystal

    structure = read_crystal(source)
    formula = structure.composition.reduced_formula
    words = re.split(r"[^A-Za-z0-9]+", Path(str(source).removeprefix("embedded:")).name.partition(".")[0])
    # files are called POSCAR more often than by their material
    return structure, formula if words[0].upper() in ("POSCAR", "CONTCAR", "STRUCTURE", "") else "-".join(words)


def _require_same_crystal(ours: Structure, theirs: Structure, source: str) -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    if not StructureMatcher().fit(ours, theirs):
        formulas = ours.composition.reduced_formula, theirs.composition.reduced_formula
        raise MismatchError(
            f"The crystal given ({formulas[0]}) is another one than that of {source} ({formulas[1]}).",
            "Give the phonons of this crystal, or leave the crystal out: phonopy's file has it.",
        )


def _engine(reference: str | Path | PotentialRef | ReferenceEngine) -> ReferenceEngine:
    from phonosmith.reference.engines import ReferenceEngine, make_engine

    if isinstance(reference, ReferenceEngine):
        return reference
    if isinstance(reference, PotentialRef):
        return make_engine("forcefield", potential=reference)
    name = str(reference)
    if name.lower() in PROGRAMS:
        return make_engine(name.lower())
    try:
        return make_engine("forcefield", potential=name)
    except PotentialError as error:
        hint = did_you_mean(name, [*PROGRAMS, "embedded-reference"])
        raise InputError(
            f"{name!r} is neither a program, a potential, nor a phonopy.yaml that is there.",
            f"{hint}Name {', '.join(PROGRAMS)}, a potential ('phonosmith models list') or a phonopy.yaml with forces.",
        ) from error


class StudyCost(Document):
    """What a study will take."""

    n_labels: int = Field(description="calculations of labels; 0: made from force constants that exist")
    n_displacements: int | None = Field(None, description="displaced supercells; null where a potential takes them")
    n_trainings: int = Field(description="trainings")
    epochs: int = Field(description="epochs of the longest, at most")
    core_hours: float | None = Field(None, description="of DFT; null: there is none")
    core_hours_spread: float | None = Field(None, description="factor by which they are typically off")
    recommendation: str = Field("", description="which calculations to pay for")
    warnings: list[str] = Field(default_factory=list, description="what to look at before paying")

    def words(self) -> str:
        """Return it in a sentence or two."""
        trainings = f"{self.n_trainings} training{'s' * (self.n_trainings != 1)} of at most {self.epochs} epochs"
        if self.core_hours is None:
            return f"{self.n_labels} labels, {trainings}; no DFT."
        return (
            f"{self.n_labels} DFT labels, {self.n_displacements} displaced DFT supercells, {trainings}: about "
            f"{self.core_hours:,.0f} core-hours of DFT (× or ÷ {self.core_hours_spread or 1:.0f}; 'phonosmith plan "
            "--calibration' makes this sharper)."
        )


def cost_of(request: Request) -> StudyCost:
    """Return what a study will take; DFT by the estimate of ``phonosmith plan``."""
    settings, specs = request.settings, request.settings.specs()
    trainings = {"n_trainings": len(specs), "epochs": max(spec.epochs for spec in specs.values())}
    if isinstance(request.reference, FinishedPhonons):
        return StudyCost(n_labels=0, n_displacements=0, **trainings)
    total = most_labels(settings.sampling)
    needed = min(max(settings.sizes, default=total), total) + settings.sampling.n_select
    if request.reference.name not in PROGRAMS:
        return StudyCost(n_labels=needed, **trainings)
    plan, spread = dft_plan(request, needed)
    return StudyCost(
        n_labels=needed,
        n_displacements=plan.n_phonon_displacements,
        core_hours=plan.core_hours,
        core_hours_spread=spread,
        recommendation=plan.recommendation,
        warnings=plan.warnings,
        **trainings,
    )


def dft_plan(request: Request, n_labels: int) -> tuple[MaterialPlan, float]:
    """Return the plan of the DFT calculations and by which factor its core-hours may be off."""
    from phonosmith.reference.vasp.potcar_symbols import PBE_54_SYMBOLS
    from phonosmith.structures.cost import CostModel
    from phonosmith.structures.preflight import PlanSettings, plan_material

    settings, protocol = request.settings, request.reference.protocol
    asked = PlanSettings(
        cells=[settings.sampling.cell],
        frames_per_cell=n_labels,
        training_frames=n_labels - settings.sampling.n_select,
        kspacing=protocol.kspacing,
        encut=protocol.encut,
        phonon_length=settings.min_length,
        supercell=settings.supercell,
        gamma_min_length=protocol.gamma_min_length,
        max_atoms=settings.sampling.max_atoms,
    )
    return plan_material(request.crystal, request.name, asked, potcars=PBE_54_SYMBOLS), CostModel().spread


def campaign_text(request: Request, structure_file: str) -> str:
    """Return the campaign file that does the same on a cluster (``phonosmith submit``)."""
    import yaml

    own = request.settings.model_dump(mode="json", exclude_defaults=True)
    sampling = own.pop("sampling", {})
    cell = sampling.pop("cell", "large")
    content = {
        "name": request.key,
        "materials": [{"structure": structure_file, "name": request.name}],
        "foundations": [request.foundation.name or request.foundation.sha256],
        "cells": [cell],
        "engine": {"name": request.reference.name},
        **({"sampling": sampling} if sampling else {}),
        **own,
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
