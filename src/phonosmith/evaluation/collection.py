"""Put our collecting job in the place of the last one of an atomate2 flow."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jobflow import Flow, Job

from phonosmith.core.errors import ConfigurationError


def replace_job(flow: Flow, function: str, make: Callable[[dict[str, Any]], Job]) -> Job:
    """Replace, in place, the one job that calls a function of atomate2; its output becomes the flow's.

    Parameters
    ----------
    flow
        What a Maker of atomate2 returned.
    function
        Name of the function.
    make
        Returns our job from the arguments of theirs.
    """
    places = [
        i
        for i, member in enumerate(flow.jobs)
        if isinstance(member, Job) and getattr(member.function, "__name__", "") == function
    ]
    if len(places) != 1:
        raise ConfigurationError(
            f"The flow {flow.name!r} has {len(places)} jobs named {function}, one was expected.",
            "Pass a flow of atomate2 0.1.x.",
        )
    theirs = flow.jobs[places[0]]
    ours = make(inspect.signature(theirs.function).bind(*theirs.function_args, **theirs.function_kwargs).arguments)
    flow.add_jobs(ours)
    flow.output = ours.output
    flow.remove_jobs(places)
    return ours
