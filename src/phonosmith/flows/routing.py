"""Which worker a job goes to, by the beginning of its name; jobs made by running jobs included.

Names are matched word by word from the front, without regard to case; ``*`` stands for any words.

jobflow has name filters of its own, which match anywhere in a name: a crystal called ``gete-relax`` would send its
training to the DFT worker. And by default (``pass_manager_config``) it gives jobs made by a running job the worker of
that job. `route` therefore wraps the function of each job: what it returns is routed by name before jobflow sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, Literal

from jobflow import Flow, Job, Response
from monty.json import MSONable
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phonosmith.core.errors import ConfigurationError, did_you_mean

Kind = Literal["dft", "training", "inference"]
EngineName = Literal["fireworks", "jobflow-remote"]
ENGINES: tuple[EngineName, ...] = ("fireworks", "jobflow-remote")

NAMES: tuple[tuple[str, Kind], ...] = (
    # hand out frames, collect labels: bookkeeping
    ("label * start", "inference"),
    ("label * collect", "inference"),
    # one labelled frame: "label si 07", "label si check 01"
    ("label", "dft"),
    # the calculations of "phonon si reference" by a program, under our names, then atomate2's and our engines' own
    ("relax", "dft"),
    ("static", "dft"),
    ("displace", "dft"),
    ("tight relax", "dft"),
    ("phonon static", "dft"),
    # strained cells and Born charges
    ("elastic relax", "dft"),
    ("dielectric", "dft"),
    # volumes, and the relaxed cell in front of them
    ("eos relax", "dft"),
    ("eos static", "dft"),
    ("eos equilibrium", "dft"),
    # cells along imaginary modes
    ("mode point", "dft"),
    ("mode relax", "dft"),
    # one fine-tuning, and what continues it
    ("train", "training"),
    ("*", "inference"),
)
"""Beginning of a name and kind of worker; the first that fits counts."""
_OUTPUT_JOB = "store_inputs"
"""Name of the job jobflow adds to a flow that replaces a job."""


class Target(BaseModel):
    """A worker and what is asked of it. Each engine takes the fields it knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    worker: str = Field(description="worker of the jobflow-remote project; category of FireWorks' workers")
    resources: dict[str, Any] = Field(
        default_factory=dict, description="jobflow-remote: what the scheduler is asked for; the worker's own when empty"
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

        In jobflow-remote a job made by another one takes over what it lacks from that one. Resources are left out all
        the same when none are given, because an empty set of them overrides the worker's; `with_resources` fills them.
        """
        if engine == "jobflow-remote":
            # an empty exec_config counts as none; one that exports nothing does not
            remote = {"worker": self.worker, "exec_config": self.exec_config or {"export": {}}}
            return remote | ({"resources": dict(self.resources)} if self.resources else {})
        chosen: dict[str, Any] = {"_category": self.category or self.worker}
        if self.fworker:
            chosen["_fworker"] = self.fworker
        if self.queueadapter:
            chosen["_queueadapter"] = dict(self.queueadapter)
        return chosen


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

    def target(self, name: str) -> Target:
        """Return where a job with a name goes."""
        for rule in self.rules:
            if begins(name, rule.names):
                return rule
        return getattr(self, kind_of(name))  # type: ignore[no-any-return]

    def with_resources(self, workers: Mapping[str, Mapping[str, Any] | None]) -> Routing:
        """Return the rules with the default resources of the workers themselves wherever none are given."""

        def filled(target: Target) -> dict[str, Any]:
            given = target.resources or workers.get(target.worker) or {}
            return {"update": {"resources": dict(given)}}

        rules = tuple(rule.model_copy(**filled(rule)) for rule in self.rules)
        dft, training, inference = (
            target.model_copy(**filled(target)) for target in (self.dft, self.training, self.inference)
        )
        return Routing(dft=dft, training=training, inference=inference, rules=rules)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every worker that may be asked."""
        return (*self.rules, self.dft, self.training, self.inference)


KINDS = list(Routing.model_fields)


def begins(name: str, pattern: str) -> bool:
    """Tell whether a job's name begins with the words of a pattern."""
    return fnmatchcase(f"{name} ".lower(), f"{pattern.strip()} *".lower())


def kind_of(name: str) -> Kind:
    """Return the kind of worker a job with a name needs.

    >>> kind_of("label si 07"), kind_of("train si delta"), kind_of("phonon si delta")
    ('dft', 'training', 'inference')
    """
    return next(kind for pattern, kind in NAMES if begins(name, pattern))


def read_routing(section: Any, source: str = "routing") -> Routing:
    """Return the rules of a ``routing`` section; a worker may be given by its name alone.

    Parameters
    ----------
    section
        What YAML made of it: ``dft``, ``training``, ``inference``, ``rules``; None for workers called ``dft``, ``gpu``
        and ``inference``.
    source
        File and section, for messages.
    """
    if section is None:
        return Routing()
    if not isinstance(section, dict):
        raise ConfigurationError(f"{source} must hold 'kind: worker' lines.", f"Kinds: {', '.join(KINDS)}.")
    given = {key: {"worker": value} if isinstance(value, str) else value for key, value in section.items()}
    try:
        return Routing.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = KINDS if len(first["loc"]) == 1 else list(Rule.model_fields)
        advice = f"{did_you_mean(str(first['loc'][-1]), known)}Known: {', '.join(known)}."
        raise ConfigurationError(f"{source}: {place}: {first['msg']}.", advice) from error


def route(flow: Flow | Job, rules: Routing | None = None, engine: EngineName = "fireworks") -> Flow | Job:
    """Send every job of a flow, and every job those will make, to the worker its name asks for; in place.

    Do it last, after anything that changes the flow's jobs: `fix_identities` would otherwise take workers for content.
    Without rules the workers are called ``dft``, ``gpu`` and ``inference``; ``engine`` is who will run it.
    """
    if engine not in ENGINES:
        raise ConfigurationError(f"Nothing can be routed for {engine!r}.", f"Engines: {', '.join(ENGINES)}.")
    chosen = rules or Routing()
    for member in _members(flow):
        _route_job(member, chosen, engine)
    return flow


def _route_job(member: Job, rules: Routing, engine: EngineName) -> None:
    member.config = deepcopy(member.config)  # jobs made by one decorator share theirs
    member.config.manager_config = rules.target(member.name).manager_config(engine)
    member.config.pass_manager_config = False
    member.config.response_manager_config = {}
    if not isinstance(member.function, RoutedFunction):
        member.function = RoutedFunction(member.function, rules.model_dump(mode="json"), engine)
    # the job jobflow adds for the output of a replacing flow exists only after our function has returned
    output_job = {"manager_config": rules.inference.manager_config(engine), "pass_manager_config": False}
    member.update_config(output_job, name_filter=_OUTPUT_JOB, attributes=list(output_job), dynamic=True)


def _members(made: Any) -> Iterator[Job]:
    """Yield the jobs in whatever a job may return as new ones."""
    if isinstance(made, Job):
        yield made
    elif isinstance(made, Flow):
        yield from (member for inner in made.jobs for member in _members(inner))
    elif isinstance(made, dict):
        yield from (member for inner in made.values() for member in _members(inner))
    elif isinstance(made, list | tuple):
        yield from (member for inner in made for member in _members(inner))


class RoutedFunction(MSONable):  # type: ignore[misc]  # monty has no type information
    """A job's function that routes the jobs it makes.

    Parameters
    ----------
    function
        What the job does.
    rules
        Of `Routing`, as plain data.
    engine
        Who runs it.
    """

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
            rules = Routing.model_validate(self.rules)
            for member in _members([answer.replace, answer.addition, answer.detour]):
                _route_job(member, rules, self.engine)
        return answer
