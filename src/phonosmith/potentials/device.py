"""Where work is done: on the device asked for or, with ``auto``, where a real step of it was measured to cost less.

A GPU takes tens of milliseconds to be told what to do, whatever the size: a tiny model on tiny cells is faster on a
processor. So nothing is guessed: a step is timed on both, once per process for each kind and size of work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from phonosmith.core.errors import ConfigurationError, InputError

CUBLAS_VARIABLE, CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""cuBLAS takes its sums in a fixed order only with workspaces of a fixed size."""
CARDS_VARIABLE = "CUDA_VISIBLE_DEVICES"
LONG_CALL = 0.5
"""s."""
UNORDERED = "sums on a GPU are not ordered: repeated runs agree to rounding, not to the bit"


@dataclass(frozen=True)
class DeviceChoice:
    """A device (cpu, cuda or cuda:N) and why it was taken, in words."""

    device: str
    reason: str


Stopwatch = Callable[[str], float]
"""Returns the seconds one step takes on a device."""
_CHOICES: dict[Hashable, DeviceChoice] = {}


def gpu_seen() -> bool:
    """Tell whether torch sees a GPU; torch is imported for it."""
    import torch

    return torch.cuda.is_available()


def allotted_cards() -> list[str] | None:
    """Return the GPUs this process was given, as CUDA_VISIBLE_DEVICES names them; None where nobody has said."""
    given = os.environ.get(CARDS_VARIABLE)
    if given is None:
        slurm = next((os.environ[name] for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS") if os.environ.get(name)), None)
        return None if slurm is None else slurm.split(",")
    names = [name.strip() for name in given.split(",")]
    # CUDA reads up to the first that is no card
    last = next((place for place, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))
    return names[:last]


def visible_cards() -> list[str]:
    """Return the GPUs this process may use, by what CUDA_VISIBLE_DEVICES has to be for one of them alone."""
    given = allotted_cards() if CARDS_VARIABLE in os.environ else None
    if given is not None:
        return given
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def require_device(device: str) -> str:
    """Return a device as asked for, auto as cpu where there is no GPU; refuse what is none or not here.

    Raises
    ------
    InputError
        For a name that is no device.
    ConfigurationError
        For cuda where torch sees no GPU, and for auto where it does not see the one this process was given.
    """
    if device == "cpu":
        return device
    if device != "auto" and not device.startswith("cuda"):
        raise InputError(f"{device!r} is not a device.", "Choose cpu, cuda or auto.")
    if gpu_seen():
        return device
    given = allotted_cards() or []
    if device == "auto" and not given:
        return "cpu"
    import torch

    asked = f"device={device} was asked for" if device != "auto" else f"This process was given GPU {', '.join(given)}"
    raise ConfigurationError(
        f"{asked}, but torch {torch.__version__} sees no GPU.",
        "Use device=cpu (PHONOSMITH_DEVICE=cpu for a whole worker), or a machine with a GPU and a CUDA build of torch.",
    )


def choose_device(asked: str, measure: Stopwatch, work: Hashable) -> DeviceChoice:
    """Return the device for some work: the one asked for or, with auto, the one where a step takes less time.

    Parameters
    ----------
    asked
        cpu, cuda, cuda:N or auto.
    measure
        Seconds of one step on ``cpu`` or ``cuda``; called only for auto where there is a GPU, the GPU first.
    work
        What the step is (kind, model, precision, size): measured once per process.
    """
    device = require_device(asked)
    if asked != "auto":
        return DeviceChoice(device, "asked for")
    if device == "cpu":
        return DeviceChoice("cpu", "no GPU is seen")
    if work not in _CHOICES:
        _CHOICES[work] = _measured(measure)
    return _CHOICES[work]


def _measured(measure: Stopwatch) -> DeviceChoice:
    import torch

    on_gpu = None
    try:
        with suppress(torch.cuda.OutOfMemoryError):  # which holds the memory of the step while it is handled
            on_gpu = measure("cuda")
    except RuntimeError as error:
        return DeviceChoice("cpu", f"a step failed on the GPU: {str(error).splitlines()[0][:120]}")
    if on_gpu is None:
        torch.cuda.empty_cache()
        return DeviceChoice("cpu", "a step does not fit into the memory that is free on the GPU")
    on_cpu = measure("cpu")
    times = f"a step takes {1000 * on_cpu:.3g} ms on the CPU, {1000 * on_gpu:.3g} ms on the GPU"
    return DeviceChoice("cpu" if on_cpu < on_gpu else "cuda", times)


def seconds_per_call(step: Callable[[], object], device: str, *, settling: int = 1) -> float:
    """Return what one call takes, s: the faster of two after one that warms up.

    A second call that is long is believed, on a CPU a first one that is very long: that is no matter of warming up.
    ``settling``: calls after which a GPU may have become faster by recording them.
    """
    import torch

    def once() -> float:
        start = time.perf_counter()
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    first = once()
    if device == "cpu" and first > 10 * LONG_CALL:
        return first
    second = once()
    if second > LONG_CALL:
        return second
    if device != "cpu":
        for _ in range(settling):
            once()
    return min(second, once())


@contextmanager
def ordered_sums(wanted: bool) -> Iterator[None]:
    """Let torch take every sum in the same order each time inside the block, where that is wanted.

    Scatter and index sums of a GPU are then sorted first: bitwise repeatable, and slower.

    Raises
    ------
    ConfigurationError
        When the GPU is in use already without the workspaces that cuBLAS needs for it.
    """
    if not wanted:
        yield
        return
    import torch

    if os.environ.get(CUBLAS_VARIABLE) not in (CUBLAS_WORKSPACE, ":16:8"):
        if torch.cuda.is_initialized():
            raise ConfigurationError(
                f"deterministic=true needs {CUBLAS_VARIABLE}={CUBLAS_WORKSPACE} before the GPU is first used.",
                f"Set it before this process starts: export {CUBLAS_VARIABLE}={CUBLAS_WORKSPACE}.",
            )
        os.environ[CUBLAS_VARIABLE] = CUBLAS_WORKSPACE
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
