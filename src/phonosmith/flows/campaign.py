"""A campaign: materials × foundations × strategies × training-set sizes × cells × seeds, as data and as a flow.

A campaign file is YAML whose every mistake is reported with line and field, before any job exists.
"""

from __future__ import annotations

import dataclasses
import itertools
import pydoc
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import numpy as np
import yaml
from jobflow import Flow
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from phonosmith.core.changing import HoldingMaker
from phonosmith.core.document import schemas_once
from phonosmith.core.errors import ConfigurationError, InputError, PhonosmithError, did_you_mean
from phonosmith.core.reading import MIB, Limits, load_yaml, read_bounded, yaml_loader
from phonosmith.core.references import references_found_quickly
from phonosmith.flows.jobs import collect_committees
from phonosmith.flows.material import FineTuneMaterialMaker, Variant
from phonosmith.flows.settings import MaterialSettings, Seed, material_settings, problems, strategies_named, training_of
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.engines import ReferenceEngine, decoded
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.sampling.documents import CellSize
from phonosmith.structures.magnetic import MagneticOrder, given_moments
from phonosmith.structures.supercell import phonon_supercell, require_buildable
from phonosmith.training.spec import make_spec

if TYPE_CHECKING:
    from pymatgen.core import Structure

LIMITS = Limits(member_bytes=MIB)
"""A campaign of a thousand materials takes a tenth of it."""

Place = tuple[str | int, ...]
P = ParamSpec("P")
T = TypeVar("T")


class MaterialSpec(BaseModel):
    """One crystal."""

    model_config = ConfigDict(extra="forbid")

    structure: str = Field(description="structure file, relative to the campaign file; or 'embedded:Si'")
    magmoms: list[float] | None = Field(
        None,
        description="moment of each atom in the structure file, μB, signs are directions: the magnetic order that "
        "every calculation starts from, whose cell is kept. Needs spin_polarized: true in the engine's protocol",
    )
    name: str = Field("", description="short name in job names and reports; the file's name by default")

    @model_validator(mode="after")
    def _named(self) -> MaterialSpec:
        if not self.name:
            self.name = Path(self.structure.removeprefix("embedded:")).name.partition(".")[0]
        if not re.fullmatch(r"[A-Za-z0-9_.+()-]+", self.name):
            raise ValueError(f"the name {self.name!r} may hold letters, digits and _ . + ( ) - only: give 'name'")
        return self


GivenObject = str | dict[str, Any]
"""A Maker or input set: where Python finds it, or its JSON."""


class EngineSpec(BaseModel):
    """Who plays or is DFT."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["vasp", "forcefield", "gpaw"] = Field("vasp", description="program")
    potential: str | None = Field(None, description="potential of the forcefield engine, or of a rehearsal")
    rehearsal: bool = Field(False, description="play VASP with the stand-in: a test of everything but DFT")
    protocol: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the published ones")
    wall_time: int | None = Field(
        None, gt=0, description="VASP is asked to stop after so many seconds of a job, and goes on in another"
    )
    frozen_timeout: float | None = Field(None, gt=0, description="VASP without output for so long is started again, s")
    user_incar_settings: dict[str, Any] = Field(
        default_factory=dict,
        description="INCAR tags: NCORE, KPAR and the like are free, all others change the protocol",
    )
    run_vasp_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="arguments of atomate2's run_vasp: vasp_cmd, handlers, scratch_dir, ..."
    )
    input_set_generator: GivenObject | None = Field(
        None,
        description="own input set of atomate2, which the protocol follows: package.module.NAME to import, or JSON",
    )
    static_maker: GivenObject | None = Field(None, description="own StaticMaker, whose inputs every calculation has")
    phonon_maker: GivenObject | None = Field(None, description="own PhononMaker of VASP for the reference")
    elastic_maker: GivenObject | None = Field(None, description="own ElasticMaker of VASP for the reference")


class CampaignSpec(MaterialSettings):
    """What a campaign file may say: what to do with a material, and the lists that a campaign goes through."""

    name: str = Field("campaign", description="name of the campaign in reports")
    materials: list[MaterialSpec] = Field(min_length=1, description="crystals, relaxed unless relax: true")
    foundations: list[str] = Field(min_length=1, description="potentials to start from: names, sha256 or files")
    cells: list[CellSize] = Field(["large"], min_length=1, description="sizes of the sampling cell")
    seeds: list[Seed] = Field([0], min_length=1, description="training seeds")
    sampling_seed: Seed = Field(0, description="seed of the sampling, shared by all training seeds")
    sampler: str | None = Field(None, description="foundation that relaxes the configurations; the first by default")
    engine: EngineSpec = Field(default_factory=EngineSpec, description="who computes labels and reference results")
    replay: str | None = Field(None, description="replay structures (extended XYZ), relative to the campaign file")

    @model_validator(mode="after")
    def _one_committee(self) -> CampaignSpec:
        if self.adaptive is not None and len(self.seeds) > 1:
            raise ValueError("adaptive trains a committee of its own: give one of seeds")
        return self

    @field_validator("materials", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Accept ``- Si.cif`` for ``- structure: Si.cif``."""
        return [{"structure": item} if isinstance(item, str) else item for item in value] if value else value


@dataclass
class CampaignMaker(HoldingMaker):
    """Every material with every foundation, strategy, size, cell and seed; what can be shared is computed once.

    Reference results belong to a material. Labels belong to a material and a sampling cell: one potential relaxes the
    configurations for all foundations. Names of jobs of the first foundation, cell and seed carry the material alone,
    those of others say what differs, so that appending to a list changes no job there was before.

    ``maker`` holds everything else: engine, strategies, sizes, settings; ``seeds`` are those of training.
    """

    name: str = "campaign"
    maker: FineTuneMaterialMaker = field(default_factory=FineTuneMaterialMaker)
    cells: tuple[str, ...] = ("large",)
    seeds: tuple[int, ...] = (0,)

    def make(
        self,
        materials: Mapping[str, Structure],
        foundations: Sequence[PotentialRef],
        sampler: PotentialRef | None = None,
    ) -> Flow:
        """Return the flow of crystals by short name and potentials to start from; output: a list of ``MaterialReport``.

        ``sampler`` relaxes the configurations, by default the first foundation. Two materials or foundations of one
        name are refused, and all that ``FineTuneMaterialMaker`` refuses.
        """
        flows = [*self.flows(materials, foundations, sampler)]
        return Flow(flows, output=[report for flow in flows for report in flow.output], name=self.name)

    def flows(
        self,
        materials: Mapping[str, Structure],
        foundations: Sequence[PotentialRef],
        sampler: PotentialRef | None = None,
    ) -> Iterator[Flow]:
        """Return the flows of the materials, each made when it is asked for; what `make` refuses is refused at once."""
        slugs = [_slug(ref.name) for ref in foundations]
        for kind, called in {"materials": [name.lower() for name in materials], "foundations": slugs}.items():
            double = sorted(name for name, count in Counter(called).items() if count > 1)
            if double:
                raise ConfigurationError(f"Two {kind} are called {double[0]!r}.", "Give each its own name.")
        settings = self.maker.settings
        if settings.sampling_seed is None:
            settings = material_settings(settings, sampling_seed=self.seeds[0])
        maker = dataclasses.replace(self.maker, campaign=self.name, settings=settings)
        for structure, potential in itertools.product(
            materials.values(), [*foundations, *([sampler] if sampler else [])]
        ):
            maker.check(structure, potential)
        return (
            self._of_material(maker, label, structure, foundations, sampler or foundations[0])
            for label, structure in materials.items()
        )

    @schemas_once()
    @references_found_quickly()
    def _of_material(
        self,
        maker: FineTuneMaterialMaker,
        label: str,
        structure: Structure,
        foundations: Sequence[PotentialRef],
        sampler: PotentialRef,
    ) -> Flow:
        key = label.lower()
        parts, variants = maker.parts(structure, key), []
        for cell, foundation, seed in itertools.product(self.cells, foundations, self.seeds):
            of_cell = "" if cell == self.cells[0] else f"-{cell}"
            base = key if foundation is foundations[0] else f"{key}-{_slug(foundation.name)}"
            variant = Variant(
                foundation=foundation,
                sampler=sampler,
                sampling=maker.settings.sampling.model_copy(update={"cell": cell}),
                seed=seed,
                labels=f"{key}{of_cell}",
                base=base,
                name=f"{base}{of_cell}" + ("" if seed == self.seeds[0] else f"-s{seed}"),
            )
            variants.append(variant)
        reports = maker.add_variants(parts, variants, label)
        of_seeds = [slice(place, place + len(self.seeds)) for place in range(0, len(reports), len(self.seeds))]
        for chosen in of_seeds if len(self.seeds) > 1 else []:
            # seeds are the innermost loop; the first seed's name is that of all
            committee = collect_committees([one.output for one in reports[chosen]], maker.settings.mesh)
            parts.add(committee, "committee", variants[chosen][0].name)
        return Flow(parts.jobs, output=[report.output for report in reports], name=f"{self.name} {key}")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass
class Campaign:
    """A campaign file whose every input has been found and checked; crystals are known by their names."""

    spec: CampaignSpec
    path: Path
    structures: dict[str, Structure]
    foundations: list[PotentialRef]
    sampler: PotentialRef | None
    engine: ReferenceEngine
    replay: DatasetRef | None = None
    makers: dict[str, Any] = field(default_factory=dict)

    def flow(self) -> Flow:
        """Return the flow of the whole campaign."""
        return self._campaign.make(self.structures, self.foundations, self.sampler)

    def flows(self) -> Iterator[Flow]:
        """Return the flow of each material, each made when it is asked for."""
        return self._campaign.flows(self.structures, self.foundations, self.sampler)

    @property
    def _campaign(self) -> CampaignMaker:
        spec = self.spec
        return CampaignMaker(name=spec.name, maker=self._maker, cells=tuple(spec.cells), seeds=tuple(spec.seeds))

    def calculations(self) -> dict[str, dict[str, int]]:
        """Count the displaced cells of each material that jobs of the campaign will ask a reference program for."""
        counts = {
            name: self._maker.parts(crystal, name.lower()).calculations() for name, crystal in self.structures.items()
        }
        return {name: count for name, count in counts.items() if count}

    @property
    def _maker(self) -> FineTuneMaterialMaker:
        return FineTuneMaterialMaker(
            name=self.spec.name, engine=self.engine, settings=self.spec, replay=self.replay, **self.makers
        )


OWN_MAKERS = ("static_maker", "phonon_maker", "elastic_maker")
_GIVEN_ADVICE = "Give package.module.NAME of what Python can import here, or JSON with @module and @class."
_NAMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


class _Reader:
    """Keeps where everything stands in a file and collects what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Place, int] = {(): 1}
        self.problems: list[tuple[int, str]] = []
        self.odd_names = False

    def add(self, place: Place, message: str) -> None:
        """Note a problem at a field, in its line or that of the nearest thing around it."""
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        line = next(self.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self.lines)
        self.problems.append((line, f"{field}: {message}" if field else message))

    def attempt(self, place: Place, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return what an action gives, or note why it fails at a field."""
        try:
            return action(*args, **kwargs)
        except PhonosmithError as error:
            self.add(place, str(error))
        except ValidationError as error:
            self.add_validation(place, error, None)
        return None

    def add_validation(self, place: Place, error: ValidationError, model: type[BaseModel] | None) -> None:
        """Note every problem pydantic found."""
        for inner, words in problems(error, model):
            self.add((*place, *inner), words)

    def finish(self) -> None:
        """Raise one error that names everything."""
        lines = [f"{self.path}, line {line}: {message}" for line, message in sorted(set(self.problems))]
        if lines:
            raise ConfigurationError("\n".join(lines), "Nothing was started: correct the file and run it again.")

    def parse(self) -> Any:
        """Return the file's content as plain data and remember where each field stands."""
        try:
            data = read_bounded(self.path, LIMITS)
            content = load_yaml(data, str(self.path))
        except InputError as error:
            raise ConfigurationError(error.message, error.advice) from error
        node = yaml.compose(data, Loader=yaml_loader())
        if not isinstance(content, dict):
            raise ConfigurationError(
                f"{self.path} must hold 'field: value' lines.", f"Fields: {', '.join(CampaignSpec.model_fields)}."
            )
        self._visit(node, ())
        if self.odd_names:
            self.finish()
        return content

    def _visit(self, node: Any, place: Place) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.tag not in _NAMES:
                    words = f"{str(key.value)[:40]}: the name of a field is text, and YAML reads this as something else"
                    self.problems.append((key.start_mark.line + 1, words))
                    self.odd_names = True
                inner = (*place, str(key.value))
                if inner in self.lines:
                    self.problems.append(
                        (key.start_mark.line + 1, f"{key.value}: given twice, first in line {self.lines[inner]}")
                    )
                self.lines[inner] = key.start_mark.line + 1
                self._visit(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[*place, index] = value.start_mark.line + 1
                self._visit(value, (*place, index))


def read_campaign(path: str | Path) -> Campaign:
    """Read and check a campaign file; files it names are relative to it.

    The error has one line per mistake: file, line, field, what is wrong and what is known.
    """
    file = Path(path)
    reader = _Reader(file)
    content = reader.parse()
    try:
        spec = CampaignSpec.model_validate(content)
    except InputError as error:
        # settings of other layers that contradict each other, such as the grid of modes
        reader.add((), str(error))
        reader.finish()
        raise AssertionError from error  # finish has raised
    except ValidationError as error:
        reader.add_validation((), error, CampaignSpec)
        # what can be checked without the rest is said in the same breath
        named = content.get("strategies")
        _check_strategies(reader, named if isinstance(named, list) else [], content.get("training") or {})
        reader.finish()
        raise AssertionError from error  # finish has raised
    _check_settings(reader, spec)
    structures = _structures(reader, spec, file.parent)
    attempts = [
        reader.attempt(("foundations", index), _potential, name, file.parent)
        for index, name in enumerate(spec.foundations)
    ]
    foundations = [ref for ref in attempts if ref is not None]
    sampler = reader.attempt(("sampler",), _potential, spec.sampler, file.parent) if spec.sampler is not None else None
    engine = reader.attempt(("engine",), _engine, spec.engine)
    named = [name for name in OWN_MAKERS if getattr(spec.engine, name) is not None]
    makers = {name: reader.attempt(("engine", name), _given, spec.engine, name) for name in named}
    if engine is not None and makers:
        engine = reader.attempt(("engine", named[-1]), _engine_with, engine, makers) or engine
    replay = reader.attempt(("replay",), _replay, file.parent / spec.replay) if spec.replay is not None else None
    if engine is not None:
        reader.attempt(("nac",), spec.require_of, engine)
        _check_orders(reader, spec, structures, engine)
    _check_supercells(reader, spec, structures)
    _check_elements(reader, spec, structures, [*foundations, *([sampler] if sampler else [])])
    reader.finish()
    assert engine is not None  # finish has raised otherwise
    return Campaign(spec, file, structures, foundations, sampler, engine, replay, makers)


def _check_strategies(reader: _Reader, strategies: Sequence[Any], training: Any) -> None:
    settings = training if isinstance(training, dict) else {}
    for index, name in enumerate(strategies):
        own = settings.get(name, {}) if isinstance(name, str) else {}
        if reader.attempt(("strategies", index), make_spec, str(name)) is None or not isinstance(own, dict):
            continue
        for key, value in training_of(settings, str(name)).items():
            place = ("training", name, key) if key in own else ("training", key)
            reader.attempt(place, _one_setting, name, key, value)
    if not reader.problems:
        for index, name in enumerate(strategies):
            reader.attempt(("strategies", index), make_spec, str(name), **training_of(settings, str(name)))


def _one_setting(strategy: str, key: str, value: Any) -> None:
    """Refuse a setting that cannot be, leaving what depends on several settings to the check of all together."""
    try:
        make_spec(strategy, **{key: value})
    except ConfigurationError as error:
        if key in error.fields:
            raise


def _check_settings(reader: _Reader, spec: CampaignSpec) -> None:
    _check_strategies(reader, spec.strategies, spec.training)
    for name in strategies_named(spec.training):
        if name not in spec.strategies:
            advice = f"{did_you_mean(name, spec.strategies)}Asked: {', '.join(spec.strategies)}."
            reader.add(("training", name), f"not among the strategies. {advice}")
    if "cell" in spec.sampling.model_fields_set:
        reader.add(("sampling", "cell"), "the sizes of sampling cells are given by 'cells'")
    try:
        ReferenceProtocol.model_validate(spec.engine.protocol)
    except ValidationError as error:
        reader.add_validation(("engine", "protocol"), error, ReferenceProtocol)
    for name in ("strategies", "foundations", "cells", "seeds", "n_train"):
        values = getattr(spec, name)
        for index, value in enumerate(values):
            if value in values[:index]:
                reader.add((name, index), f"{value!r} is given twice")


def _structures(reader: _Reader, spec: CampaignSpec, folder: Path) -> dict[str, Structure]:
    crystals: dict[str, Structure] = {}
    names = [material.name.lower() for material in spec.materials]
    for index, material in enumerate(spec.materials):
        if names[index] in names[:index]:
            reader.add(("materials", index), f"a second material called {material.name!r}: give it another 'name'")
        crystal = reader.attempt(("materials", index), _crystal, material.structure, folder)
        if crystal is not None and material.magmoms is not None:
            reader.attempt(("materials", index, "magmoms"), MagneticOrder.of, crystal, material.magmoms)
            if len(material.magmoms) == len(crystal):
                crystal.add_site_property("magmom", material.magmoms)
        if crystal is not None:
            crystals[material.name] = crystal
    return crystals


def _crystal(source: str, folder: Path) -> Structure:
    from phonosmith.potentials.embedded import read_crystal

    return read_crystal(source if source.startswith("embedded:") else folder / Path(source).expanduser())


def _potential(name: str, folder: Path) -> PotentialRef:
    from phonosmith.potentials.registry import resolve

    beside = folder / Path(name).expanduser()
    return resolve(str(beside) if beside.is_file() else name)


def _engine(spec: EngineSpec) -> ReferenceEngine:
    from phonosmith.reference.engines import make_engine

    options = {
        name: _with_numbers(value)
        for name in ("wall_time", "frozen_timeout", "user_incar_settings", "run_vasp_kwargs", "input_set_generator")
        if (value := getattr(spec, name))
    }
    if "input_set_generator" in options:
        options["input_set_generator"] = _given(spec, "input_set_generator")
    protocol = ReferenceProtocol.model_validate(spec.protocol)
    return make_engine(spec.name, protocol, spec.potential, rehearsal=spec.rehearsal, **options)


def _with_numbers(plain: Any) -> Any:
    """Return plain data in which numbers are numbers that YAML reads as text for want of a point: 1e-7."""
    if isinstance(plain, dict):
        return {key: _with_numbers(item) for key, item in plain.items()}
    if isinstance(plain, list):
        return [_with_numbers(item) for item in plain]
    return (
        float(plain) if isinstance(plain, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", plain, re.IGNORECASE) else plain
    )


def _given(spec: EngineSpec, field: str) -> Any:
    """Return what a field names by its import path or spells as JSON."""
    given: GivenObject | None = getattr(spec, field)
    if given is None:
        return None
    try:
        made = decoded(_with_numbers(given)) if isinstance(given, dict) else pydoc.locate(given)
    except Exception as error:  # an import runs code of others
        raise ConfigurationError(f"{field}: {given!r} cannot be made: {error}.", _GIVEN_ADVICE) from error
    if made is None or isinstance(made, dict):
        raise ConfigurationError(f"{field}: {given!r} is not found.", _GIVEN_ADVICE)
    return made() if isinstance(made, type) else made


def _engine_with(engine: ReferenceEngine, makers: Mapping[str, Any]) -> ReferenceEngine:
    from phonosmith.reference.vasp.own_makers import engine_following

    return engine_following(engine, **makers)


def _replay(path: Path) -> DatasetRef:
    from phonosmith.reference.datasets.dataset import put_dataset
    from phonosmith.structures.extxyz import read_frames

    return put_dataset(read_frames(path), name=f"replay {path.stem}")


def _check_supercells(reader: _Reader, spec: CampaignSpec, structures: dict[str, Structure]) -> None:
    """Choose the largest supercell of every crystal once: what cannot be had must not be found out by a job."""
    if not isinstance(spec.supercell, str):
        cells = round(float(np.linalg.det(np.array(spec.supercell, dtype=float))))
        for crystal in structures.values():
            reader.attempt(("supercell",), require_buildable, cells * len(crystal))
        return
    lengths = {name: getattr(spec, name) for name in ("min_length", "check_min_length", "curvature_min_length")}
    field = max(lengths, key=lambda name: lengths[name])
    for crystal in structures.values():
        reader.attempt((field,), phonon_supercell, crystal, lengths[field])


def _check_orders(
    reader: _Reader, spec: CampaignSpec, structures: dict[str, Structure], engine: ReferenceEngine
) -> None:
    """Refuse moments that the engine, or what is asked of it, cannot take."""
    for index, material in enumerate(spec.materials):
        crystal, place = structures.get(material.name), ("materials", index, "magmoms")
        if crystal is None or material.magmoms is None or (order := given_moments(crystal)) is None:
            continue
        if (magnetic := reader.attempt(place, engine.with_order, order)) is not None:
            reader.attempt(place, spec.require_of, magnetic)


def _check_elements(
    reader: _Reader, spec: CampaignSpec, structures: dict[str, Structure], foundations: Sequence[PotentialRef]
) -> None:
    for (index, material), foundation in itertools.product(enumerate(spec.materials), foundations):
        elements = {site.specie.symbol for site in structures.get(material.name, [])}
        if missing := sorted(elements - set(foundation.elements)):
            reader.add(
                ("materials", index),
                f"{material.name}: the foundation {foundation.name} does not know {', '.join(missing)}. "
                "Choose a foundation that covers every element, or leave the material out.",
            )
