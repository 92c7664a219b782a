"""A CUDA graph without a GPU: one run's operations recorded and run again on the same memory, with no Python between.

What a recording on a GPU refuses is refused here: anything that makes the host wait for a number, data-dependent
shapes, and data brought from the host on the way. What a graph freezes is frozen: Python numbers, branches, addresses.
"""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

WARM_UPS = 3
WAITING = {
    "aten::_local_scalar_dense": "a number is read",
    "aten::is_nonzero": "a number is read",
    "aten::equal": "a number is read",
    "aten::nonzero": "the shape depends on data",
    "aten::masked_select": "the shape depends on data",
    "aten::unique_dim": "the shape depends on data",
    "aten::_unique2": "the shape depends on data",
    "aten::unique_consecutive": "the shape depends on data",
    "aten::bincount": "the shape depends on data",
    "aten::repeat_interleave": "the shape depends on data",
    "aten::_linalg_det": "LAPACK reports back",
    "aten::linalg_inv_ex": "LAPACK reports back",
    "aten::_linalg_solve_ex": "LAPACK reports back",
}
FROM_HOST = {torch.tensor, torch.as_tensor, torch.from_numpy, torch.asarray}
TO_HOST = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__"}


class WaitingError(RuntimeError):
    """A recording would fail here on a GPU."""


class _HostGuard(TorchFunctionMode):
    """Refuses traffic between host and device that a CPU would do without any operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name == "one_hot":  # a GPU does not look whether the classes are in range
            return (args[0].unsqueeze(-1) == torch.arange(args[1], device=args[0].device)).long()
        already_there = func is torch.as_tensor and torch.is_tensor(args[0])
        if (func in FROM_HOST and not already_there) or name in TO_HOST:
            raise WaitingError(f"operation not permitted while recording: {name}")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        if name in WAITING:
            raise WaitingError(f"operation not permitted while recording: {name} ({WAITING[name]})")
        if name == "aten::lift_fresh" and args[0].ndim:  # a number alone becomes a kernel's argument
            raise WaitingError("operation not permitted while recording: data of the host is copied")
        places = args[1] if name in {"aten::index", "aten::index_put_", "aten::index_put"} else ()
        if any(one is not None and one.dtype == torch.bool for one in places):
            raise WaitingError(f"operation not permitted while recording: {name} with a mask")
        out = func(*args, **kwargs)
        if not func.is_view:
            self.calls.append((func, args, kwargs, None if func._schema.is_mutable else out))
        return out


def fake_capture(action):
    """Return a function that repeats the operations of one run of ``action``."""
    for _ in range(WARM_UPS):
        action()
    recorder = _Recorder()
    with recorder, _HostGuard():
        action()

    def replay():
        with torch.no_grad():
            for func, args, kwargs, recorded in recorder.calls:
                again = func(*args, **kwargs)
                if recorded is not None:
                    places, values = tree_flatten(recorded)[0], tree_flatten(again)[0]
                    for place, value in zip(places, values, strict=True):
                        if torch.is_tensor(place):
                            place.detach().copy_(value)

    replay.count = len(recorder.calls)
    return replay


class _NumberGuard(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split(".")[0] in {"aten::_local_scalar_dense", "aten::nonzero"}:
            raise WaitingError(f"{func.name()} waits for the device")
        return func(*args, **(kwargs or {}))


class _ReadingGuard(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in TO_HOST:
            raise WaitingError(f"{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_reading():
    """Refuse everything that reads a number from a tensor; bringing data to the device is allowed."""
    with _NumberGuard(), _ReadingGuard():
        yield
