"""Flows of atomate2 that a user has configured, with every VASP calculation in them done by our engine.

What their Makers say of VASP's inputs becomes the protocol of the engine - one for labels, phonons and all else, or it
is refused - and how VASP is run its ``run_vasp_kwargs``. Steps, displacements and strains stay those of the flow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from atomate2.vasp.jobs.base import BaseVaspMaker
from jobflow import Maker
from monty.json import MontyEncoder

from phonosmith.core.errors import ConfigurationError
from phonosmith.core.identity import what_is_done
from phonosmith.reference.engines import ReferenceEngine
from phonosmith.reference.protocol import Calculation, ReferenceProtocol
from phonosmith.reference.vasp.inputs import changed_protocol

CALCULATIONS: dict[str, Calculation] = {
    "static_maker": "static", "bulk_relax_maker": "relax", "static_energy_maker": "static", "born_maker": "born",
    "phonon_displacement_maker": "displacement", "elastic_relax_maker": "elastic_relax",
}  # fmt: skip
"""What the Makers in the fields of atomate2's PhononMaker and ElasticMaker calculate."""
_THRESHOLDS: dict[Calculation, str] = {"relax": "relax_fmax", "elastic_relax": "elastic_fmax"}


def engine_following(
    engine: ReferenceEngine, static_maker: Any = None, phonon_maker: Any = None, elastic_maker: Any = None
) -> ReferenceEngine:
    """Return the engine whose protocol is that of Makers: a StaticMaker, and those in a PhononMaker and ElasticMaker.

    Those a flow has by default do not count: nobody chose them.
    """
    if engine.name != "vasp":
        raise ConfigurationError(
            f"Own Makers are for the vasp engine, not for {engine.name}.", "Leave them out, or use the vasp engine."
        )
    chosen = [("static_maker", static_maker)] if static_maker is not None else []
    for label, flow in (("phonon_maker", phonon_maker), ("elastic_maker", elastic_maker)):
        chosen += [] if flow is None else [(f"{label}.{name}", maker) for name, maker in _chosen(flow)]
    first: tuple[str, ReferenceEngine] | None = None
    thresholds: dict[str, float] = {}
    for where, maker in chosen:
        kind = CALCULATIONS[where.rpartition(".")[2]]
        for one in _vasp_makers(maker, where):
            following = engine.following(one)
            force = getattr(one.input_set_generator, "user_incar_settings", {}).get("EDIFFG")
            if kind in _THRESHOLDS and force is not None and force < 0:
                thresholds[_THRESHOLDS[kind]] = -force
            plain = following.protocol.model_copy(
                update={name: getattr(engine.protocol, name) for name in _THRESHOLDS.values()}
            )
            following = following.model_copy(update={"protocol": plain})
            if first is None:
                first = where, following
            elif plain != first[1].protocol:
                differing = _difference(first[1].protocol, plain)
                raise ConfigurationError(
                    f"{where} and {first[0]} calculate on two energy surfaces: {differing}.",
                    "Give them the same input settings, or leave all but one to their defaults.",
                )
    made = engine if first is None else first[1]
    return made.model_copy(update={"protocol": changed_protocol(made.protocol, thresholds)}) if thresholds else made


def with_engine(flow: Any, engine: ReferenceEngine, names: Mapping[str, str]) -> Any:
    """Return a PhononMaker or ElasticMaker whose calculations are the engine's, called ``names`` by their field."""
    changed = {}
    for field in fields(flow):
        maker, kind = getattr(flow, field.name), CALCULATIONS.get(field.name)
        if kind is not None and maker is not None:
            changed[field.name] = _with_engine(maker, engine, kind, names.get(field.name, ""))
    return replace(flow, **changed)


def _with_engine(maker: Any, engine: ReferenceEngine, kind: Calculation, name: str) -> Any:
    if isinstance(maker, BaseVaspMaker):
        return engine.maker(kind, name or maker.name)
    inner = {field.name: getattr(maker, field.name) for field in fields(maker)}
    return replace(
        maker,
        **{key: _with_engine(one, engine, kind, name) for key, one in inner.items() if isinstance(one, Maker)},
    )


def _chosen(flow: Any) -> Iterator[tuple[str, Any]]:
    kind: Any = type(flow)
    if not (is_dataclass(flow) and any(field.name in CALCULATIONS for field in fields(flow))):
        raise ConfigurationError(
            f"{kind.__name__} is no flow of atomate2 that phonons or elastic constants come from.",
            "Give a PhononMaker or an ElasticMaker of atomate2.vasp.flows.",
        )
    default = kind()
    for field in fields(flow):
        maker = getattr(flow, field.name)
        if field.name in CALCULATIONS and maker is not None and _text(maker) != _text(getattr(default, field.name)):
            yield field.name, maker


def _text(maker: Any) -> str:
    """Return a Maker as JSON, by which one that was read from a file equals one that was made."""
    return json.dumps(what_is_done(json.loads(json.dumps(maker, cls=MontyEncoder))), sort_keys=True)


def _vasp_makers(maker: Any, where: str) -> Iterator[Any]:
    """Yield the VASP Makers that a Maker is or consists of."""
    if isinstance(maker, BaseVaspMaker):
        yield maker
        return
    inner = [getattr(maker, field.name) for field in fields(maker)] if is_dataclass(maker) else []
    if not (held := [one for one in inner if isinstance(one, Maker)]):
        raise ConfigurationError(
            f"{where} is a {type(maker).__name__}, which does not run VASP.", "Give a Maker of atomate2.vasp.jobs."
        )
    for one in held:
        yield from _vasp_makers(one, where)


def _difference(first: ReferenceProtocol, second: ReferenceProtocol) -> str:
    names = [name for name in type(first).model_fields if getattr(first, name) != getattr(second, name)]
    return ", ".join(f"{name} {getattr(second, name)} and {getattr(first, name)}" for name in names)
