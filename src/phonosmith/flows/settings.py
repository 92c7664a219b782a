"""What is to be done with a material: one description for campaign files, Makers and the parts they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, did_you_mean
from phonosmith.evaluation.modes.follow import FollowOptions
from phonosmith.evaluation.thermal.kappa import ThirdOrderCells
from phonosmith.evaluation.verdict import GivenLimits
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.sampling.documents import SamplingSettings
from phonosmith.structures.supercell import SupercellRule
from phonosmith.training.spec import TrainSpec, make_spec

DEFAULT_STRATEGIES = ("transfer", "delta")
PUBLISHED_SIZE = 10
"""Training structures behind the published tables 1 to 4."""
Evaluation = Literal["phonons", "elastic", "eos", "forgetting", "transitions", "qha", "kappa"]
NO_ORDER: tuple[Evaluation, ...] = ("elastic", "transitions", "kappa")
"""What the reference does not compute of a crystal with a magnetic order."""
Mode = Literal["comparison", "production"]
Pack = Literal["none", "material"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""


def _right_handed(matrix: _Rows) -> _Rows:
    if round(float(np.linalg.det(np.array(matrix, dtype=float)))) < 1:
        raise ValueError("give three independent, right-handed vectors, e.g. [[2, 0, 0], [0, 2, 0], [0, 0, 2]]")
    return matrix


_Row = tuple[int, int, int]
_Rows = tuple[_Row, _Row, _Row]
SupercellMatrix = Annotated[_Rows, AfterValidator(_right_handed)]


MIN_TRAIN = 2
"""Labels a training needs at least."""


class AdaptiveOptions(Document):
    """How labels are made a few at a time, where a committee disagrees, until its phonons agree."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: int = Field(3, ge=1, description="training configurations labelled in the first round, outermost first")
    step: int = Field(1, ge=1, description="those of every later round, where forces are furthest apart")
    n_valid: int = Field(1, ge=1, description="validation configurations, labelled in the first round")
    committee: int = Field(
        3,
        ge=1,
        description="trainings per round: the first has all labels and is the result, each of the others goes without "
        "a part of them (a jackknife), so that they show what the labels do not decide",
    )
    spread_thz: float | None = Field(
        None,
        ge=0,
        description="mean phonon MAE between pairs of the committee at which it ends, THz; by default that which keeps "
        "the phonon MAE it leaves open within the limit of the verdict",
    )
    change_thz: float = Field(
        0.05, ge=0, description="without a committee: change of the phonons from round to round at which it ends, THz"
    )
    max_rounds: int | None = Field(None, ge=1, description="rounds at most; null: until everything sampled is labelled")

    @model_validator(mode="after")
    def _enough_for_each(self) -> AdaptiveOptions:
        if self.committee > 1 and self.first <= MIN_TRAIN:
            raise ValueError(
                f"with a committee the first round needs {MIN_TRAIN + 1} training labels or more, first is {self.first}"
                ": each member goes without some, and could not be trained on fewer"
            )
        return self


def _at_least_one(number: int) -> int:
    if number < 1:
        raise ValueError(f"a training set of {number} structures cannot be")
    return number


class MaterialSettings(Document):
    """Everything about one material but crystal, potentials, engine and seed of training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategies: tuple[str, ...] = Field(DEFAULT_STRATEGIES, min_length=1, description="presets of training")
    training: dict[str, Any] = Field(
        default_factory=dict, description="settings that replace those of every preset, or of one below its name"
    )
    sampling: SamplingSettings = Field(
        default_factory=lambda: SamplingSettings.model_validate({}), description="what differs from the protocol"
    )
    sampling_seed: Seed | None = Field(
        None, description="seed of the sampling: trainings with different seeds share one set of labels when given"
    )
    n_train: tuple[Annotated[int, AfterValidator(_at_least_one)], ...] = Field(
        (),
        description="training-set sizes: nested sets of the first so many labels, outermost first; by default 10, as "
        "in the published tables (in production mode half of all and all: the difference shows whether phonons have "
        "converged)",
    )
    learning_curve: tuple[Annotated[int, AfterValidator(_at_least_one)], ...] = Field(
        (), description="training-set sizes in place of n_train, two or more, with a report on what they show"
    )
    adaptive: AdaptiveOptions | None = Field(
        None, description="make labels a few at a time, where a committee disagrees, until its phonons agree"
    )
    relax: bool = Field(
        default=False,
        description="relax the crystal with the reference first, where it has not been",
    )
    evaluate: tuple[Evaluation, ...] = Field(
        ("phonons", "forgetting"),
        description="what to compute of reference, foundation and every fine-tuned potential; phonons always",
    )
    mode: Mode = Field(
        "comparison",
        description="comparison with reference phonons, or production without: the verdict then rests on validation "
        "errors, convergence with the training set and a few displaced cells",
    )
    nac: bool = Field(
        default=False,
        description="non-analytic term (LO-TO splitting): the reference calculates Born charges and dielectric tensor, "
        "which both sides of every comparison use",
    )
    n_checks: int = Field(2, ge=0, le=3, description="displaced cells the reference calculates in production mode")
    check_min_length: float = Field(10.0, gt=0, le=100, description="shortest edge of their supercell, Å")
    min_length: float = Field(20.0, gt=0, le=100, description="shortest edge of phonon supercells, Å")
    kappa_min_length: float = Field(10.0, gt=0, le=100, description="shortest edge of third-order supercells, Å")
    kappa_cells: ThirdOrderCells = Field(
        "pairs",
        description="displaced cells of third order, on both sides: every pair of displacements, or (random) all atoms "
        "displaced in as many cells as a fit needs, far fewer where the symmetry is low",
    )
    kappa_mesh: int = Field(11, gt=1, le=100, description="q-points along each axis of conductivities")
    supercell: SupercellRule | SupercellMatrix = Field(
        "cubic",
        description="phonon supercells: with right angles as published, the smallest near-cubic ones, or this one "
        "(phonopy's matrix for the cell as given) whatever the lengths say",
    )
    follow: FollowOptions = Field(
        default_factory=FollowOptions, description="how transitions are looked for and followed"
    )
    curvature_min_length: float = Field(
        5.0, gt=0, le=100, description="shortest edge of supercells whose force constants supervise curvature, Å"
    )
    mesh: int = Field(20, gt=0, le=100, description="q-mesh of comparisons")
    verdict: GivenLimits = Field(
        default_factory=dict, description="limits of the verdicts in place of those of the settings"
    )
    walltime: float | None = Field(
        None, gt=0, description="longest time of one training job, after which the next one goes on, s"
    )
    pack: Pack = Field(
        "none",
        description="none: every training is a job of its own; material: all trainings of a material (strategies, "
        "sizes, foundations, cells, seeds) run side by side in one job on every GPU it gets, with the same results",
    )

    @field_validator("n_train", "learning_curve")
    @classmethod
    def _within_the_labels(cls, sizes: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        sampling = info.data.get("sampling")
        if sampling is not None and sizes and max(sizes) > most_labels(sampling):
            raise ValueError(
                f"a training set of {max(sizes)} structures cannot be: the sampling gives at most "
                f"{most_labels(sampling)} (n_select from every volume but that of validation)"
            )
        return sizes

    @model_validator(mode="after")
    def _one_way_to_labels(self) -> MaterialSettings:
        if len(set(self.learning_curve)) == 1:
            raise ValueError("learning_curve needs two training-set sizes or more, e.g. [4, 8, 16]")
        ways = [name for name in ("n_train", "learning_curve", "adaptive") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other: each says which labels are made")
        if self.adaptive is not None and len(self.strategies) > 1:
            raise ValueError("adaptive labels for one strategy: give strategies: [transfer], or another one")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Training-set sizes, ascending; empty: one training with all labels."""
        if asked := self.n_train or self.learning_curve:
            return tuple(sorted(set(asked)))
        if self.adaptive is not None:
            return ()
        total = most_labels(self.sampling)
        if self.mode == "production":
            return (max(1, total // 2), total)
        return (PUBLISHED_SIZE,) if total > PUBLISHED_SIZE else ()

    @property
    def adaptive_labels(self) -> tuple[int, int]:
        """Fewest and most labels of a material when they are made a few at a time, validation included."""
        assert self.adaptive is not None
        rules, pool = self.adaptive, most_labels(self.sampling)
        most = pool if rules.max_rounds is None else min(pool, rules.first + rules.step * (rules.max_rounds - 1))
        n_valid = min(rules.n_valid, self.sampling.n_select)
        return min(rules.first, pool) + n_valid, most + n_valid

    def require_of(self, engine: ReferenceEngine) -> None:
        """Refuse what the reference cannot compute."""
        magnetic = [kind for kind in NO_ORDER if kind in self.evaluate] if engine.order is not None else []
        if magnetic and self.mode == "comparison":
            raise ConfigurationError(
                f"evaluate: {', '.join(magnetic)} knows the symmetry without moments only, and moments are given.",
                "Leave it out for this material, or set mode: production, where potentials alone have it.",
            )
        if self.nac and self.mode == "production":
            raise ConfigurationError(
                "nac: true needs phonons of the reference, which production mode does without.",
                "Leave nac out, or set mode: comparison.",
            )
        if self.nac and engine.born() is None:
            raise ConfigurationError(
                f"nac: true needs Born charges, and the engine {engine.name} computes none.",
                "Use the vasp engine, or leave nac out: phonosmith compare --nac --born FILE takes them from a file.",
            )

    def specs(self) -> dict[str, TrainSpec]:
        """Return the full settings of every strategy; those ``training`` names must be asked for."""
        for name in strategies_named(self.training):
            if name not in self.strategies:
                raise ConfigurationError(
                    f"The training settings name {name!r}, which is not among the strategies.",
                    f"{did_you_mean(name, self.strategies)}Strategies asked: {', '.join(self.strategies)}.",
                )
        specs = {name: make_spec(name, **training_of(self.training, name)) for name in self.strategies}
        if self.adaptive is not None:
            for name, spec in specs.items():
                require_labels_alone(name, spec)
        return specs


def require_labels_alone(strategy: str, spec: TrainSpec) -> None:
    """Refuse a strategy that cannot be trained before all labels are made."""
    if spec.uses_replay or spec.uses_curvature:
        raise ConfigurationError(
            f"Strategy {strategy!r} needs replay structures or reference force constants.",
            "To label a few configurations at a time use one that trains on labels alone, e.g. delta or transfer.",
        )


def most_labels(sampling: SamplingSettings) -> int:
    """Return how many structures there are to train on when every trajectory gives all of its frames."""
    return (len(sampling.volume_factors) - 1) * sampling.n_select


def strategies_named(training: Mapping[str, Any]) -> list[str]:
    """Return the strategies that training settings have entries of their own for."""
    return [name for name, value in training.items() if isinstance(value, Mapping) and not _is_setting(name)]


def training_of(training: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """Return the training settings of one strategy: those for all, then its own."""
    common = {key: value for key, value in training.items() if not isinstance(value, Mapping) or _is_setting(key)}
    return common | dict(training.get(strategy, {}))


def _is_setting(name: str) -> bool:
    return name in TrainSpec.model_fields


def problems(error: ValidationError, model: type[BaseModel] | None) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what pydantic found, each as the place and a sentence with what is known there."""
    for item in error.errors():
        # pydantic's mark of a wrong key of a dictionary
        place = tuple(part for part in item["loc"] if part != "[key]")
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, place[:-1])
            words = f"Known: {', '.join(known)}." if known else ""
            yield place, f"unknown field. {did_you_mean(str(place[-1]), known)}{words}".strip()
        elif item["type"] == "literal_error":
            known = [word.strip("'") for word in str(item["ctx"]["expected"]).replace(" or ", ", ").split(", ")]
            hint = did_you_mean(str(item["input"]), known)
            yield place, f"{item['input']!r} is not known. {hint}Known: {', '.join(known)}."
        elif item["type"] == "missing":
            yield place, "missing, and there is no default"
        else:
            yield place, f"{item['msg']} (got {item['input']!r})"


def explained(error: ValidationError, model: type[BaseModel]) -> str:
    """Return all that pydantic found in one line."""
    return "; ".join(f"{'.'.join(map(str, place))}: {words}" for place, words in problems(error, model))


def _fields_at(model: type[BaseModel] | None, loc: Sequence[str | int]) -> list[str]:
    """Return the fields of the model that a location is in."""
    for part in loc:
        if model is None or isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *get_args(annotation)]
        model = next((kind for kind in options if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return list(model.model_fields) if model is not None else []


def material_settings(base: MaterialSettings | None = None, **changes: Any) -> MaterialSettings:
    """Return settings with some fields replaced; an error names every field that is wrong."""
    kept = {} if base is None else {name: getattr(base, name) for name in MaterialSettings.model_fields}
    try:
        return MaterialSettings.model_validate(kept | changes)
    except ValidationError as error:
        raise ConfigurationError(explained(error, MaterialSettings), "Correct the setting.") from error
