"""Put our collecting job in the place of the last one of an atomate2 flow."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jobflow import Flow, Job

from phonosmith.core.errors import ConfigurationError


def replace_job(flow: Flow, function: str, make: Callable[[dict[str, Any]], Job]) -> Job:
    """Replace, in place, the one job that calls a function of atomate2, by name; its output becomes the flow's.

    ``make`` returns our job from the arguments of theirs.
    """
    theirs = [job for job in flow.jobs if isinstance(job, Job) and getattr(job.function, "__name__", "") == function]
    if len(theirs) != 1:
        raise ConfigurationError(
            f"The flow {flow.name!r} has {len(theirs)} jobs named {function}, one was expected.",
            "Pass a flow of atomate2 0.1.x.",
        )
    (old,) = theirs
    ours = make(inspect.signature(old.function).bind(*old.function_args, **old.function_kwargs).arguments)
    flow.add_jobs(ours)
    flow.output = ours.output
    flow.remove_jobs(flow.jobs.index(old))
    return ours
