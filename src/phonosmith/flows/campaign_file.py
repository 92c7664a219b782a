"""Campaign files: YAML whose every mistake is reported with line and field, before any job exists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from phonosmith.core.errors import ConfigurationError, PhonosmithError, did_you_mean
from phonosmith.flows.campaign import CampaignMaker, CampaignSpec, EngineSpec, MaterialSpec
from phonosmith.flows.material import FineTuneMaterialMaker
from phonosmith.potentials.documents import PotentialRef
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.protocol import ReferenceProtocol
from phonosmith.sampling.documents import SamplingSettings
from phonosmith.training.spec import make_spec

if TYPE_CHECKING:
    from jobflow import Flow
    from pymatgen.core import Structure

Place = tuple[str | int, ...]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Campaign:
    """A campaign whose every input has been found and checked.

    Attributes
    ----------
    spec
        What the file says.
    path
        The file.
    structures
        Crystals by name.
    foundations, sampler
        Potentials.
    engine
        Who computes.
    replay
        Replay structures, where a file names some.
    """

    spec: CampaignSpec
    path: Path
    structures: dict[str, Structure]
    foundations: list[PotentialRef]
    sampler: PotentialRef | None
    engine: ReferenceEngine
    replay: DatasetRef | None = None

    def flow(self) -> Flow:
        """Return the flow of the whole campaign."""
        spec = self.spec
        maker = FineTuneMaterialMaker(
            name=spec.name,
            strategies=tuple(spec.strategies),
            training=spec.training,
            engine=self.engine,
            sampling=spec.sampling,
            n_train=tuple(spec.n_train),
            evaluate=tuple(spec.evaluate),
            mode=spec.mode,
            n_checks=spec.n_checks,
            check_min_length=spec.check_min_length,
            min_length=spec.min_length,
            curvature_min_length=spec.curvature_min_length,
            mesh=spec.mesh,
            replay=self.replay,
            sampling_seed=spec.sampling_seed,
            walltime=spec.walltime,
        )
        made = CampaignMaker(name=spec.name, maker=maker, cells=tuple(spec.cells), seeds=tuple(spec.seeds))
        return made.make(self.structures, self.foundations, self.sampler)


class _Reader:
    """Keeps where everything stands in a file and collects what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Place, int] = {(): 1}
        self.problems: list[tuple[int, str]] = []

    def line(self, place: Place) -> int:
        """Return the line of a field, or of the nearest thing around it."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def add(self, place: Place, message: str) -> None:
        """Note a problem at a field."""
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        self.problems.append((self.line(place), f"{field}: {message}" if field else message))

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
        for item in error.errors():
            inner = (*place, *item["loc"])
            if item["type"] == "extra_forbidden":
                known = _fields_at(model, item["loc"][:-1])
                words = f"Known: {', '.join(known)}." if known else ""
                self.add(inner, f"unknown field. {did_you_mean(str(inner[-1]), known)}{words}".strip())
            elif item["type"] == "literal_error":
                known = [word.strip("'") for word in str(item["ctx"]["expected"]).replace(" or ", ", ").split(", ")]
                hint = did_you_mean(str(item["input"]), known)
                self.add(inner, f"{item['input']!r} is not known. {hint}Known: {', '.join(known)}.")
            elif item["type"] == "missing":
                self.add(inner, "missing, and there is no default")
            else:
                self.add(inner, f"{item['msg']} (got {item['input']!r})")

    def finish(self) -> None:
        """Raise one error that names everything."""
        if not self.problems:
            return
        found = list(dict.fromkeys(sorted(self.problems)))
        lines = [f"{self.path}, line {line}: {message}" for line, message in found]
        raise ConfigurationError("\n".join(lines), "Nothing was started: correct the file and run it again.")

    def parse(self) -> Any:
        """Return the file's content as plain data and remember where each field stands."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigurationError(f"Cannot read {self.path}: {reason}.", "Give a campaign file.") from error
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or error
            raise ConfigurationError(
                f"{self.path}{where} is not valid YAML: {problem}.", "Look at indentation, colons and quotes there."
            ) from error
        if not isinstance(content, dict):
            raise ConfigurationError(
                f"{self.path} must hold 'field: value' lines.", f"Fields: {', '.join(CampaignSpec.model_fields)}."
            )
        self._visit(node, ())
        return content

    def _visit(self, node: Any, place: Place) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
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


def _fields_at(model: type[BaseModel] | None, loc: Sequence[str | int]) -> list[str]:
    """Return the fields of the model that a location is in."""
    for part in loc:
        if model is None or isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *get_args(annotation)]
        model = next((kind for kind in options if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return list(model.model_fields) if model is not None else []


def read_campaign(path: str | Path) -> Campaign:
    """Read and check a campaign file; files it names are relative to it.

    Raises
    ------
    ConfigurationError
        With one line per mistake: file, line, field, what is wrong and what is known.
    """
    file = Path(path)
    reader = _Reader(file)
    content = reader.parse()
    try:
        spec = CampaignSpec.model_validate(content)
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
    foundations = [found for found in attempts if found is not None]
    sampler = None
    if spec.sampler is not None:
        sampler = reader.attempt(("sampler",), _potential, spec.sampler, file.parent)
    engine = reader.attempt(("engine",), _engine, spec.engine)
    replay = None
    if spec.replay is not None:
        replay = reader.attempt(("replay",), _replay, file.parent / spec.replay)
    _check_elements(reader, spec, structures, [*foundations, *([sampler] if sampler else [])])
    reader.finish()
    assert engine is not None  # finish has raised otherwise
    return Campaign(spec, file, structures, foundations, sampler, engine, replay)


def _check_strategies(reader: _Reader, strategies: Sequence[Any], training: Any) -> None:
    settings = training if isinstance(training, dict) else {}
    common = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    for index, name in enumerate(strategies):
        known = reader.attempt(("strategies", index), make_spec, str(name))
        own = settings.get(name, {})
        if known is None or not isinstance(own, dict):
            continue
        for key, value in (common | own).items():
            place = ("training", name, key) if key in own else ("training", key)
            reader.attempt(place, _one_setting, name, key, value)
    if not reader.problems:
        for index, name in enumerate(strategies):
            own = settings.get(name, {})
            reader.attempt(("strategies", index), make_spec, str(name), **(common | own))


def _one_setting(strategy: str, key: str, value: Any) -> None:
    """Refuse a setting that cannot be, leaving what depends on several settings to the check of all together."""
    try:
        make_spec(strategy, **{key: value})
    except ConfigurationError as error:
        if "Unknown setting" in error.message or f"{key}:" in error.message:
            raise


def _check_settings(reader: _Reader, spec: CampaignSpec) -> None:
    _check_strategies(reader, spec.strategies, spec.training)
    for name, value in spec.training.items():
        if isinstance(value, dict) and name not in spec.strategies and name != "e0_values":
            reader.add(
                ("training", name),
                f"not among the strategies. {did_you_mean(name, spec.strategies)}Asked: {', '.join(spec.strategies)}.",
            )
    try:
        SamplingSettings.model_validate(spec.sampling)
    except ValidationError as error:
        reader.add_validation(("sampling",), error, SamplingSettings)
    if "cell" in spec.sampling:
        reader.add(("sampling", "cell"), "the sizes of sampling cells are given by 'cells'")
    try:
        ReferenceProtocol.model_validate(spec.engine.protocol)
    except ValidationError as error:
        reader.add_validation(("engine", "protocol"), error, ReferenceProtocol)
    for index, number in enumerate(spec.n_train):
        if number < 1:
            reader.add(("n_train", index), f"a training set of {number} structures cannot be")
    for name in ("strategies", "foundations", "cells", "seeds", "n_train"):
        values = getattr(spec, name)
        for index, value in enumerate(values):
            if value in values[:index]:
                reader.add((name, index), f"{value!r} is given twice")


def _structures(reader: _Reader, spec: CampaignSpec, folder: Path) -> dict[str, Structure]:
    found: dict[str, Structure] = {}
    seen: dict[str, int] = {}
    for index, material in enumerate(spec.materials):
        place: Place = ("materials", index)
        if material.name.lower() in seen:
            reader.add(place, f"a second material called {material.name!r}: give it another 'name'")
        seen[material.name.lower()] = index
        crystal = reader.attempt(place, read_material, material, folder)
        if crystal is not None:
            found[material.name] = crystal
    return found


def read_material(material: MaterialSpec, folder: Path) -> Structure:
    """Return the crystal of a campaign's material."""
    from phonosmith.structures.reading import read_structure

    if material.structure.startswith("embedded:"):
        from pymatgen.io.ase import AseAtomsAdaptor

        from phonosmith.potentials.embedded import demo_structure

        return AseAtomsAdaptor.get_structure(demo_structure(material.structure.partition(":")[2]))
    return read_structure(folder / Path(material.structure).expanduser())


def _potential(name: str, folder: Path) -> PotentialRef:
    from phonosmith.potentials.registry import resolve

    beside = folder / Path(name).expanduser()
    return resolve(str(beside) if beside.is_file() else name)


def _engine(spec: EngineSpec) -> ReferenceEngine:
    from phonosmith.reference.engines import make_engine

    return make_engine(
        spec.name,
        ReferenceProtocol.model_validate(spec.protocol),
        spec.potential,
        rehearsal=spec.rehearsal,
        wall_time=spec.wall_time,
    )


def _replay(path: Path) -> DatasetRef:
    from phonosmith.reference.datasets.dataset import put_dataset
    from phonosmith.structures.extxyz import read_frames

    return put_dataset(read_frames(path), name=f"replay {path.stem}")


def _check_elements(
    reader: _Reader, spec: CampaignSpec, structures: dict[str, Structure], foundations: Sequence[PotentialRef]
) -> None:
    for index, material in enumerate(spec.materials):
        crystal = structures.get(material.name)
        for foundation in foundations if crystal is not None else []:
            missing = sorted({site.specie.symbol for site in crystal or []} - set(foundation.elements))
            if missing:
                reader.add(
                    ("materials", index),
                    f"{material.name}: the foundation {foundation.name} does not know {', '.join(missing)}. "
                    "Choose a foundation that covers every element, or leave the material out.",
                )
