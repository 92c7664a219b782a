"""What jobflow and atomate2 change in a flow reaches everything the flow is made of.

``update_maker_kwargs``, on which atomate2's powerups stand, finds Makers that are arguments of a job, and
``update_kwargs`` arguments that were given by name. Jobs made by `job` are changed in engines and in documents that
hold them too, and in arguments however they were given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any, Self

import jobflow
from jobflow import Job, Maker

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, did_you_mean


class HoldingDocument(Document):
    """A document with an engine or Makers in its fields: what is changed is changed in these."""

    def update_kwargs(
        self,
        update: dict[str, Any],
        name_filter: str | None = None,
        class_filter: type[Maker] | None = None,
        nested: bool = True,
        dict_mod: bool = False,
    ) -> Self:
        """Return a copy in which what it holds is changed, as jobflow changes Makers."""
        filters = {"name_filter": name_filter, "class_filter": class_filter, "dict_mod": dict_mod}
        return self.model_copy(update=_changed_parts(self, update, **filters)) if nested else self


class HoldingMaker(Maker):  # type: ignore[misc]  # jobflow has no type information
    """A Maker with an engine or other Makers in its fields: what is changed is changed in these too."""

    def update_kwargs(
        self,
        update: dict[str, Any],
        name_filter: str | None = None,
        class_filter: type[Maker] | None = None,
        nested: bool = True,
        dict_mod: bool = False,
    ) -> Self:
        """Return a copy that is changed where it and what it holds pass the filters, as jobflow's."""
        filters = {"name_filter": name_filter, "class_filter": class_filter, "dict_mod": dict_mod}
        kind = class_of(class_filter)
        asked = (kind is None or isinstance(self, kind)) and (name_filter is None or name_filter in self.name)
        made: Self = super().update_kwargs(update, nested=False, **filters) if asked else copy(self)
        for name, part in _changed_parts(made, update, **filters).items() if nested else ():
            setattr(made, name, part)
        return made


def class_of(class_filter: type[Maker] | Maker | None) -> type[Maker] | None:
    """Return the class of a filter, for which jobflow takes an object too."""
    return class_filter if class_filter is None or isinstance(class_filter, type) else type(class_filter)


def _changed_parts(holder: Any, update: dict[str, Any], **filters: Any) -> dict[str, Any]:
    parts = {name: part for name, part in vars(holder).items() if isinstance(part, HoldingDocument | Maker)}
    return {name: part.update_kwargs(update, **filters) for name, part in parts.items()}


class ChangeableJob(Job):  # type: ignore[misc]  # jobflow has no type information
    """A job as it is made; read from a store or queue it is jobflow's."""

    function_args: tuple[Any, ...]
    function_kwargs: dict[str, Any]

    def update_maker_kwargs(
        self,
        update: dict[str, Any],
        name_filter: str | None = None,
        class_filter: type[Maker] | None = None,
        nested: bool = True,
        dict_mod: bool = False,
    ) -> None:
        """Change the Makers behind the job, and those that documents among its arguments hold."""
        filters = {"name_filter": name_filter, "class_filter": class_filter, "nested": nested, "dict_mod": dict_mod}
        super().update_maker_kwargs(update, **filters)
        if nested and self.maker is None:
            self.function_args = tuple(_changed(one, update, **filters) for one in self.function_args)
            for name, one in self.function_kwargs.items():
                self.function_kwargs[name] = _changed(one, update, **filters)

    def update_kwargs(
        self,
        update: dict[str, Any],
        name_filter: str | None = None,
        function_filter: Callable[..., Any] | None = None,
        dict_mod: bool = False,
    ) -> None:
        """Change arguments by name, those given by place too; an argument there is not is refused."""
        function: Callable[..., Any] = self.function
        parameters = inspect.signature(getattr(function, "original", function)).parameters
        free = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        names = [name for name in parameters if not (name == "self" and self.maker is not None)]
        placed = dict(zip(names, self.function_args, strict=False))
        self.function_kwargs = placed | self.function_kwargs
        super().update_kwargs(update, name_filter=name_filter, function_filter=function_filter, dict_mod=dict_mod)
        if wrong := [name for name in self.function_kwargs if name not in names and not free]:
            raise ConfigurationError(
                f"The job {self.name!r} takes no argument {wrong[0]!r}.",
                f"{did_you_mean(wrong[0], names)}Known: {', '.join(names)}.",
            )
        self.function_args = tuple(self.function_kwargs.pop(name) for name in placed)

    def as_dict(self) -> dict[str, Any]:
        """Return what stores and queues keep: a job of jobflow."""
        kept: dict[str, Any] = super().as_dict()
        return kept | {"@module": Job.__module__, "@class": Job.__name__}


def _changed(argument: Any, update: dict[str, Any], **filters: Any) -> Any:
    return argument.update_kwargs(update, **filters) if isinstance(argument, HoldingDocument) else argument


def changeable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make what a function returns a `ChangeableJob`; the function is one of jobflow's decorator."""

    @wraps(function)
    def make(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        made.__class__ = ChangeableJob
        return made

    return make


def job(function: Callable[..., Any] | None = None, **settings: Any) -> Callable[..., Any]:
    """Make a function return a `ChangeableJob` that calls it: jobflow's decorator, with its settings."""
    if function is not None:
        return changeable(jobflow.job(function, **settings))
    return lambda asked: changeable(jobflow.job(asked, **settings))
