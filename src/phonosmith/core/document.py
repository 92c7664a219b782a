"""The base of every pydantic document: read from a store as it was put there, by jobflow or by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, Field, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator, model_validator

_LONGEST_VALUE, _MOST_FIELDS = 60, 8
_SCHEMAS: dict[type[BaseModel], dict[str, Any]] = {}
_PLAIN_SCHEMA = BaseModel.__dict__["model_json_schema"].__func__


def _schema_once(cls: type[BaseModel], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the JSON schema; the plain one is made once, because jobflow asks for it at every ``output.field``."""
    if args or kwargs:
        return cast("dict[str, Any]", _PLAIN_SCHEMA(cls, *args, **kwargs))
    if cls not in _SCHEMAS:
        _SCHEMAS[cls] = _PLAIN_SCHEMA(cls)
    return _SCHEMAS[cls]


@contextmanager
def schemas_once() -> Iterator[None]:
    """Have the plain JSON schema of every class made once inside, of other packages' documents too.

    A campaign asks for that of emmet's VASP document, 40 ms each time, 70 times for every material.
    """
    before = BaseModel.__dict__["model_json_schema"]
    BaseModel.model_json_schema = classmethod(_schema_once)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        BaseModel.model_json_schema = before  # type: ignore[method-assign]


class Document(BaseModel):
    """What a job returns or takes.

    A store keeps the name of a document's class beside its fields (``@module``, ``@class``, ``@version``). Where that
    class is known under its name the document arrives as an object, else as a dictionary: `model_validate` takes both.
    """

    @model_validator(mode="before")
    @classmethod
    def _without_class_names(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and any(isinstance(key, str) and key.startswith("@") for key in value):
            return {key: item for key, item in value.items() if not key.startswith("@")}
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the first fields that are set, long values cut: documents are read by their fields, not printed."""
        told = [(name, value) for name, value in super().__repr_args__() if value is not None]
        for name, value in told[:_MOST_FIELDS]:
            yield name, _brief(value)
        if len(told) > _MOST_FIELDS:
            yield None, _Words("...")

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the JSON schema, made once."""
        return _schema_once(cls, *args, **kwargs)


class _Words(str):
    """Text that is its own representation."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _brief(value: Any) -> Any:
    """Return what stands for a value in the representation of a document."""
    if isinstance(value, BaseModel):
        return _Words(f"{type(value).__name__}(...)")
    if isinstance(value, Mapping | list | tuple | set) and value:
        return _Words(f"<{len(value)}>")
    return value if len(repr(value)) <= _LONGEST_VALUE else _Words(f"{repr(value)[:_LONGEST_VALUE]}...")


class Missing(Document):
    """Something a document was made without, although it was asked for."""

    what: str = Field(description="what is missing: a job, a displaced cell, a volume")
    reason: str = Field("", description="why, where it is known")


def _or_reference(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    from jobflow import OutputReference

    return value if isinstance(value, OutputReference) else handler(value)


T = TypeVar("T")
Awaited = Annotated[T, WrapValidator(_or_reference), PlainSerializer(lambda value: value)]
"""A field of a job's argument that holds the reference to another job's output until the job runs."""
