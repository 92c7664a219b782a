"""Sets of phases compared: which phases of the reference a potential finds, misses and makes up.

A phase counts as found when space group and number of atoms in the primitive cell agree. The initial phase is removed
from both sets first. Precision is averaged over the materials for which the potential finds a phase at all, recall over
those for which the reference does; F1 is the harmonic mean of the two averages.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError, MismatchError
from phonosmith.core.reading import check_yaml, load_json
from phonosmith.evaluation.modes.documents import Phase, TransitionDoc

_OLD_SYMBOLS = {"Abm2": 39, "Aba2": 41, "Cmca": 64, "Cmma": 67, "Ccca": 68}
"""Names from before the e-glide of 1992, still printed by many programs."""
_FORMAT = "Each material is written as: {initial: [Fm-3m, 2], final: [[R3m, 2], [Pmmn, 4]]}."


class NamedPhase(Document):
    """A phase by what the comparison looks at."""

    space_group: str = Field(description="international symbol as it was given")
    number: int = Field(description="international number")
    n_atoms: int = Field(description="atoms in the primitive cell")

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        """Take [space group, atoms], as files have it."""
        if isinstance(value, dict | cls):
            return value
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError(f"{value!r} is not [space group, atoms]")
        symbol, count = value
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{count!r} is no number of atoms: give a whole number above 0")
        number = space_group_number(symbol) if isinstance(symbol, str) else None
        if number is None:
            raise ValueError(f"{symbol!r} is no space group: give an international symbol such as P2_1/c")
        return {"space_group": symbol, "number": number, "n_atoms": count}

    @classmethod
    def of(cls, phase: Phase) -> NamedPhase:
        """Return what the comparison looks at of a phase."""
        return cls(space_group=phase.space_group, number=phase.space_group_number, n_atoms=phase.n_atoms_primitive)

    @property
    def key(self) -> tuple[int, int]:
        """What two equal phases share."""
        return self.number, self.n_atoms

    def __str__(self) -> str:
        return f"{self.space_group} {self.n_atoms}"


class MaterialPhases(Document):
    """Phases found along the imaginary modes of one material by one method."""

    model_config = ConfigDict(extra="forbid")

    initial: NamedPhase = Field(description="the crystal whose modes were followed")
    final: list[NamedPhase] = Field(description="phases found; repetitions and the initial phase do no harm")

    def new(self) -> dict[tuple[int, int], NamedPhase]:
        """Return the set of phases without the initial one."""
        return {phase.key: phase for phase in self.final if phase.key != self.initial.key}


class MaterialScore(Document):
    """Comparison of one material."""

    true_positives: list[str] = Field(description="phases both find: space group and atoms in the primitive cell")
    false_positives: list[str] = Field(description="phases only the potential finds")
    false_negatives: list[str] = Field(description="phases only the reference finds")
    precision: float | None = Field(description="share of the potential's phases that are the reference's; null: none")
    recall: float | None = Field(description="share of the reference's phases that are found; null: there are none")
    f1: float | None = Field(description="harmonic mean of the two; null where one is")


class PhaseScores(Document):
    """Comparison over all materials that both sides have."""

    precision: float | None = Field(description="mean over the materials for which the potential finds a phase")
    recall: float | None = Field(description="mean over the materials for which the reference finds a phase")
    f1: float | None = Field(description="harmonic mean of the two means")
    n_precision: int = Field(description="materials in the mean precision")
    n_recall: int = Field(description="materials in the mean recall")
    per_material: dict[str, MaterialScore] = Field(description="by material")
    only_in_reference: list[str] = Field(description="materials without a candidate: not scored")
    only_in_candidate: list[str] = Field(description="materials without a reference: not scored")


@cache
def _numbers() -> dict[str, int]:
    """Return the number of every symbol spglib knows, in every setting, spaces and underscores taken out."""
    import spglib

    numbers: dict[str, int] = {}
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        symbols = [kind.international_short, kind.international_full]
        if 3 <= kind.number <= 15:
            # P 1 2_1/a 1 is usually written P2_1/a
            symbols.append("".join(part for part in kind.international_full.split() if part != "1"))
        for symbol in symbols:
            numbers.setdefault(_plain(symbol), int(kind.number))
    return numbers | _OLD_SYMBOLS


def _plain(symbol: str) -> str:
    return symbol.replace("_", "").replace(" ", "")


def space_group_number(symbol: str) -> int | None:
    """Return the international number of a symbol in any setting (P2_1/c, P21/c, P 1 21/c 1), None when unknown."""
    return _numbers().get(_plain(symbol))


def score_material(reference: MaterialPhases, candidate: MaterialPhases) -> MaterialScore:
    """Compare the phases of one material; refuse two sides that started from different phases."""
    if reference.initial.key != candidate.initial.key:
        raise MismatchError(
            f"The reference started from {reference.initial}, the candidate from {candidate.initial}.",
            "Follow the modes of the same crystal with both.",
        )
    ours, theirs = reference.new(), candidate.new()
    shared = ours.keys() & theirs.keys()
    precision = len(shared) / len(theirs) if theirs else None
    recall = len(shared) / len(ours) if ours else None
    return MaterialScore(
        true_positives=[str(phase) for key, phase in ours.items() if key in shared],
        false_positives=[str(phase) for key, phase in theirs.items() if key not in shared],
        false_negatives=[str(phase) for key, phase in ours.items() if key not in shared],
        precision=precision,
        recall=recall,
        f1=_harmonic(precision, recall),
    )


def _harmonic(precision: float | None, recall: float | None) -> float | None:
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score_phases(reference: Mapping[str, MaterialPhases], candidate: Mapping[str, MaterialPhases]) -> PhaseScores:
    """Compare the phases of many materials; refuse sides without a common one, or that started differently."""
    shared = [name for name in reference if name in candidate]
    if not shared:
        raise MismatchError(
            f"No material is in both: {', '.join(reference) or 'none'} and {', '.join(candidate) or 'none'}.",
            "Use the same names in both files.",
        )
    scores = {}
    for name in shared:
        try:
            scores[name] = score_material(reference[name], candidate[name])
        except MismatchError as error:
            raise MismatchError(f"Material {name}: {error.message}", error.advice) from error
    precisions = [score.precision for score in scores.values() if score.precision is not None]
    recalls = [score.recall for score in scores.values() if score.recall is not None]
    precision, recall = (sum(values) / len(values) if values else None for values in (precisions, recalls))
    return PhaseScores(
        precision=precision,
        recall=recall,
        f1=_harmonic(precision, recall),
        n_precision=len(precisions),
        n_recall=len(recalls),
        per_material=scores,
        only_in_reference=[name for name in reference if name not in candidate],
        only_in_candidate=[name for name in candidate if name not in reference],
    )


class _Loader(yaml.SafeLoader):
    """Refuses a name given twice, of which plain YAML silently keeps the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    # YAML reads NO and On as truth values
    if any(isinstance(key, bool) or not isinstance(key, str | int | float) for key in keys):
        raise InputError(f"A name is no text (line {node.start_mark.line + 1} on).", f"Put it in quotes. {_FORMAT}")
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)} is given twice (line {node.start_mark.line + 1} on).", "Keep one.")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_phase_file(path: str | Path) -> dict[str, MaterialPhases]:
    """Read phases by material from a YAML file, or of one material from a transition document (JSON).

    Errors name the file, the material and the field.
    """
    file = Path(path)
    kind = "JSON" if file.suffix == ".json" else "YAML"
    try:
        return _materials(file.read_text(encoding="utf-8"), kind)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}.", "Give a YAML file of phases.") from error
    except ValidationError as error:
        words = []
        for one in error.errors():
            place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in one["loc"])
            words.append(f"{place}: {one['msg'].removeprefix('Value error, ')}")
        raise InputError(f"{file}: {'; '.join(words)}.", _FORMAT) from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file} is no valid {kind}: {' '.join(str(error).split())}.", _FORMAT) from error
    except InputError as error:
        raise InputError(f"{file}: {error.message}", error.advice) from error


def _materials(text: str, kind: str) -> dict[str, MaterialPhases]:
    # a transition document is long, and YAML's own parser takes seconds for what JSON's reads at once
    if kind == "YAML":
        check_yaml(text, "it")
    content = load_json(text, "it") if kind == "JSON" else yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    if not isinstance(content, dict) or not content:
        raise InputError("it holds no materials.", _FORMAT)
    if {"initial", "modes", "phases", "formula"} <= content.keys():
        document = TransitionDoc.model_validate(content)
        initial, *final = (NamedPhase.of(phase) for phase in (document.initial, *document.phases))
        return {document.formula: MaterialPhases(initial=initial, final=final)}
    return TypeAdapter(dict[str, MaterialPhases]).validate_python({str(name): one for name, one in content.items()})
