"""Which worker a job goes to, jobs made by running jobs included: by its stage, else by the beginning of its name.

Rules of the user's own are about names, matched word by word from the front, without regard to case; ``*`` stands for
any words.

jobflow has name filters of its own, which match anywhere in a name: a crystal called ``gete-relax`` would send its
training to the DFT worker. And by default (``pass_manager_config``) it gives jobs made by a running job the worker of
that job. `route` therefore wraps the function of each job: what it returns is routed before jobflow sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, Literal, get_args

from jobflow import CURRENT_JOB, Flow, Job, OnMissing, Response
from jobflow.core.reference import find_and_get_references
from monty.json import MSONable
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.metadata import STAGE, step_of
from phonosmith.core.sealing import seal_answer
from phonosmith.flows.settings import explained

Kind = Literal["dft", "training", "inference"]
EngineName = Literal["fireworks", "jobflow-remote"]

ENGINES: tuple[EngineName, ...] = ("fireworks", "jobflow-remote")

WORK: dict[Kind, tuple[str, ...]] = {
    "dft": (
        # one labelled frame
        "label",
        # the calculations of "phonon si reference" by a program, under our names, then atomate2's and our engines' own
        *("relax", "static", "displace", "tight relax", "phonon static"),
        # strained cells and Born charges; volumes, and the relaxed cell in front of them
        *("elastic relax", "dielectric", "eos relax", "eos static", "eos equilibrium"),
        # cells along imaginary modes
        *("mode point", "mode relax"),
    ),
    # one fine-tuning, and what continues it
    "training": ("train",),
}
"""Kinds of worker by stage, or beginning of a name; everything else is inference."""
_OUTPUT_JOB = "store_inputs"
"""Name of the job jobflow adds to a flow that replaces a job."""


class Target(BaseModel):
    """A worker and what is asked of it. Each engine takes the fields it knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    worker: str = Field(description="worker of the jobflow-remote project; category of FireWorks' workers")
    resources: dict[str, Any] = Field(
        default_factory=dict,
        description="jobflow-remote: what the scheduler is asked for; empty: what the project says when the job starts",
    )
    exec_config: str | dict[str, Any] | None = Field(
        None, description="jobflow-remote: name of an exec_config of the project, or its content"
    )
    category: str | None = Field(None, description="FireWorks: _category, when it is not called like the worker")
    fworker: str | None = Field(None, description="FireWorks: _fworker, to name one worker of the category")
    queueadapter: dict[str, Any] = Field(
        default_factory=dict, description="FireWorks: _queueadapter, replaces keys of the queue adapter file"
    )

    def manager_config(self, engine: EngineName) -> dict[str, Any]:
        """Return what a job's configuration holds for an engine.

        In jobflow-remote a job made by another one takes over what it lacks from that one, and asks for what the
        worker's file says when it starts where that one has nothing either. An empty set of resources would override
        the worker's, so none are left out; see `with_resources`.
        """
        if engine == "jobflow-remote":
            # an empty exec_config counts as none; one that exports nothing does not
            exec_config = self.exec_config or {"export": {}}
            config: dict[str, Any] = {
                "worker": self.worker,
                "exec_config": exec_config,
                "resources": dict(self.resources),
            }
        else:
            category = self.category or self.worker
            config = {"_category": category, "_fworker": self.fworker, "_queueadapter": dict(self.queueadapter)}
        return {key: value for key, value in config.items() if value}


class Rule(Target):
    """A rule of the user's own, looked at before the table."""

    names: str = Field(description="beginning of job names, e.g. 'label gete' or 'train * lora'")


class Routing(BaseModel):
    """Where each kind of job goes: the ``routing`` section of a campaign file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dft: Target = Field(Target(worker="dft"), description="reference program")
    training: Target = Field(Target(worker="gpu"), description="fine-tuning")
    inference: Target = Field(Target(worker="inference"), description="everything a potential computes, bookkeeping")
    rules: tuple[Rule, ...] = Field((), description="looked at first, in this order")

    def target(self, name: str, metadata: Mapping[str, Any] | None = None) -> Target:
        """Return where a job goes: by the user's rules on names, then by the kind of its work."""
        rule = next((rule for rule in self.rules if begins(name, rule.names)), None)
        return rule or getattr(self, kind_of(name, metadata))

    def with_resources(self, workers: Mapping[str, Mapping[str, Any] | None]) -> Routing:
        """Return the rules with the default resources of the workers themselves where a job would take over others.

        Only jobs of inference, and whatever a rule is about, make jobs of another kind. Without resources of their own
        every job asks for what its worker's file says when it starts.
        """
        if not any(target.resources for target in (*self.rules, self.inference)):
            return self

        def filled(target: Target) -> Target:
            resources = target.resources or workers.get(target.worker) or {}
            return target.model_copy(update={"resources": dict(resources)})

        kinds = {kind: filled(getattr(self, kind)) for kind in get_args(Kind)}
        return self.model_copy(update={**kinds, "rules": tuple(map(filled, self.rules))})

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every worker that may be asked."""
        return (*self.rules, self.dft, self.training, self.inference)


def begins(name: str, pattern: str) -> bool:
    """Tell whether a job's name begins with the words of a pattern."""
    return fnmatchcase(f"{name} ".lower(), f"{pattern.strip()} *".lower())


def kind_of(name: str, metadata: Mapping[str, Any] | None = None) -> Kind:
    """Return the kind of worker a job needs: by the stage in its metadata, by its name where there is none.

    >>> kind_of("label si 07"), kind_of("train si delta"), kind_of("phonon si delta")
    ('dft', 'training', 'inference')
    >>> kind_of("tuned silicon", {"stage": "train"}), kind_of("label si start")
    ('training', 'inference')
    """
    # who hands out frames or collects labels does bookkeeping, and so does the output job, which has another's metadata
    if name == _OUTPUT_JOB or step_of(name, metadata):
        return "inference"
    work = str((metadata or {}).get(STAGE) or name)
    return next((kind for kind, known in WORK.items() if any(begins(work, one) for one in known)), "inference")


def read_routing(section: Any, source: str = "routing") -> Routing:
    """Return the rules of a ``routing`` section as YAML gives it; a worker may be given by its name alone.

    None stands for workers called ``dft``, ``gpu`` and ``inference``; ``source``: file and section, for messages.
    """
    if section is None:
        return Routing()
    if not isinstance(section, dict):
        raise ConfigurationError(
            f"{source} must hold 'kind: worker' lines.", f"Kinds: {', '.join(Routing.model_fields)}."
        )
    given = {key: {"worker": value} if isinstance(value, str) else value for key, value in section.items()}
    try:
        return Routing.model_validate(given)
    except ValidationError as error:
        raise ConfigurationError(f"{source}: {explained(error, Routing)}", "Correct the section.") from error


def route(flow: Flow | Job, rules: Routing | None = None, engine: EngineName = "fireworks") -> Flow | Job:
    """Send every job of a flow, and every job those will make, to the worker its work asks for; in place.

    Do it last, after anything that changes the flow's jobs: `fix_identities` would otherwise take workers for content.
    Without rules the workers are called ``dft``, ``gpu`` and ``inference``; ``engine`` is who will run it.
    """
    if engine not in ENGINES:
        raise ConfigurationError(f"Nothing can be routed for {engine!r}.", f"Engines: {', '.join(ENGINES)}.")
    for member in jobs_of(flow):
        _route_job(member, rules or Routing(), engine)
    return flow


def _route_job(member: Job, rules: Routing, engine: EngineName) -> None:
    member.config = deepcopy(member.config)  # jobs made by one decorator share theirs
    member.config.manager_config = rules.target(member.name, member.metadata).manager_config(engine)
    member.config.pass_manager_config = False
    member.config.response_manager_config = {}
    if not isinstance(member.function, RoutedFunction):
        member.function = RoutedFunction(member.function, rules.model_dump(mode="json"), engine)
    # the job jobflow adds for the output of a replacing flow exists only after our function has returned
    output_job = {"manager_config": rules.inference.manager_config(engine), "pass_manager_config": False}
    member.update_config(output_job, name_filter=_OUTPUT_JOB, attributes=list(output_job), dynamic=True)


def passes_on_one_result(member: Job) -> bool:
    """Tell whether a job is one that jobflow adds for an output which is the result of a single other job.

    jobflow lets it go on without that: whoever needs it would then look for a result that is nowhere. An output made
    of many results goes on without some of them.
    """
    return member.name == _OUTPUT_JOB and len(set(member.input_uuids)) == 1


def _output_tolerance(replacement: Any) -> OnMissing:
    """Return what the output job of a replacement does about missing results; see `passes_on_one_result`."""
    output = replacement.output if isinstance(replacement, Flow) else None
    sources = {reference.uuid for reference in find_and_get_references(output)}
    return OnMissing.ERROR if len(sources) == 1 else OnMissing.NONE


def jobs_of(made: Any) -> Iterator[Job]:
    """Yield the jobs in whatever a job may return as new ones."""
    match made:
        case Job():
            yield made
        case Flow():
            yield from jobs_of(made.jobs)
        case dict():
            yield from jobs_of([*made.values()])
        case list() | tuple():
            for inner in made:
                yield from jobs_of(inner)


class RoutedFunction(MSONable):  # type: ignore[misc]  # monty has no type information
    """A job's function that routes the jobs it makes and seals its output; ``rules`` of `Routing` as plain data."""

    def __init__(self, function: Any, rules: dict[str, Any], engine: EngineName) -> None:
        self.function, self.rules, self.engine = function, rules, engine
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work and route what it returns."""
        # as jobflow calls it: the function behind the decorator, with the Maker it belongs to
        plain = getattr(self.function, "original", self.function)
        owner = getattr(self.function, "__self__", None)
        bound = plain if owner is None or isinstance(owner, ModuleType) else plain.__get__(owner)
        answer = bound(*args, **kwargs)
        if isinstance(answer, Response):
            if CURRENT_JOB.job is not None and answer.replace is not None:
                tolerance = {"on_missing_references": _output_tolerance(answer.replace)}
                CURRENT_JOB.job.update_config(
                    tolerance, name_filter=_OUTPUT_JOB, attributes=list(tolerance), dynamic=True
                )
            rules = Routing.model_validate(self.rules)
            for member in jobs_of([answer.replace, answer.addition, answer.detour]):
                _route_job(member, rules, self.engine)
        seal_answer(answer)
        return answer
