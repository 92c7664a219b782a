"""Where work is done, why, and what is written down about it; no GPU is needed: what it would say is made up."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from phonosmith.core.errors import ConfigurationError, InputError
from phonosmith.core.manifest import recorded
from phonosmith.potentials import device
from phonosmith.potentials.container import store_model
from phonosmith.potentials.device import CUBLAS_VARIABLE, choose_device, ordered_sums, require_device, seconds_per_call
from phonosmith.potentials.registry import load
from phonosmith.settings import get_settings


@pytest.fixture(autouse=True)
def _nothing_measured_yet(monkeypatch):
    monkeypatch.setattr(device, "_CHOICES", {})


@pytest.fixture
def gpu(monkeypatch):
    """Let this machine seem to have a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def stopwatch(calls, **seconds):
    def measure(where):
        calls.append(where)
        return seconds[where]

    return measure


def refuse(where):
    raise AssertionError(f"nothing was to be measured on {where}")


def test_names_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert require_device("cpu") == "cpu"
    assert require_device("auto") == "cpu"
    with pytest.raises(InputError, match="not a device"):
        require_device("tpu")
    with pytest.raises(ConfigurationError, match="sees no GPU"):
        require_device("cuda")
    assert choose_device("auto", refuse, "work") == device.DeviceChoice("cpu", "no GPU is seen")


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"])
def test_a_card_that_was_given_and_is_not_seen_is_no_reason_to_take_the_cpu(variable, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv(variable, "3")
    with pytest.raises(ConfigurationError, match=r"was given GPU 3, but torch .* sees no GPU") as refused:
        require_device("auto")
    assert "PHONOSMITH_DEVICE=cpu" in refused.value.advice
    assert require_device("cpu") == "cpu"
    # hidden again, as from the CPU places of a node
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert require_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("given", "cards"),
    [("0,1", ["0", "1"]), ("GPU-7f, 2", ["GPU-7f", "2"]), ("1,-1,2", ["1"]), ("", []), ("NoDevFiles", [])],
)
def test_cards_are_those_that_cuda_would_see(given, cards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert device.visible_cards() == cards


def test_where_nobody_names_cards_torch_counts_them(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.visible_cards() == ["0", "1"]


def test_a_device_asked_for_is_taken_without_measuring(gpu):
    for asked in ("cpu", "cuda", "cuda:1"):
        assert choose_device(asked, refuse, "work") == device.DeviceChoice(asked, "asked for")


@pytest.mark.parametrize(("cpu", "cuda", "chosen"), [(0.003, 0.07, "cpu"), (2.0, 0.018, "cuda")])
def test_auto_takes_what_was_faster_and_measures_once(gpu, cpu, cuda, chosen):
    calls = []
    first = choose_device("auto", stopwatch(calls, cpu=cpu, cuda=cuda), ("training", 8))
    assert first.device == chosen
    assert f"{1000 * cpu:.3g} ms on the CPU" in first.reason
    assert f"{1000 * cuda:.3g} ms on the GPU" in first.reason
    assert choose_device("auto", refuse, ("training", 8)) == first, "measured before in this process"
    choose_device("auto", stopwatch(calls, cpu=cuda, cuda=cpu), ("training", 512))
    assert calls == ["cuda", "cpu"] * 2, "another size is other work"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(torch.cuda.OutOfMemoryError("full"), "memory"), (RuntimeError("CUDA error: device lost\nmore"), "device lost")],
)
def test_a_step_that_fails_on_the_gpu_goes_to_the_cpu(gpu, monkeypatch, error, reason):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def failing(where):
        assert where == "cuda"
        raise error

    choice = choose_device("auto", failing, "work")
    assert choice.device == "cpu"
    assert reason in choice.reason
    assert "\n" not in choice.reason


def test_the_first_call_only_warms_up(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda where: None)

    def timed(where, *seconds, **options):
        clock = iter([moment for taken in seconds for moment in (0.0, taken)])
        monkeypatch.setattr(device, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
        found = seconds_per_call(lambda: None, where, **options)
        assert next(clock, None) is None, "called more often than needed"
        return found

    assert timed("cpu", 0.4, 0.3, 0.1) == 0.1
    assert timed("cpu", 6.0) == 6.0, "a very long call is believed at once"
    assert timed("cpu", 2.0, 0.6) == 0.6
    assert timed("cuda", 5.0, 0.07, 0.9, 0.005, settling=1) == 0.005, "starting a GPU and recording take long once"
    assert timed("cuda", 5.0, 2.0) == 2.0


def test_a_potential_goes_where_its_work_takes_less_time(gpu, potential, crystal, mace_bytes, monkeypatch):
    """Small work stays here, large work is handed to the copy on the GPU; the record says so."""
    ref = store_model(mace_bytes, "mine")
    roaming = load(ref, device="auto")
    assert roaming.roams
    assert roaming.device == "cpu"
    handed_over = []

    class Elsewhere:
        def evaluate_here(self, frames, **options):
            handed_over.append(len(frames[0]))
            return roaming.evaluate_here(frames, **options)

    monkeypatch.setattr(type(roaming), "at", lambda self, where: Elsewhere() if where == "cuda" else self)
    times = {"cpu": [0.002, 3.0], "cuda": [0.07, 0.07]}
    monkeypatch.setattr(
        "phonosmith.potentials.torch_potential.seconds_per_call", lambda call, where, **_: times[where].pop(0)
    )
    small, large = crystal(), crystal().repeat((2, 1, 1))
    with recorded() as manifest:
        here = roaming.evaluate([small])[0]
    assert manifest.host["device"] == "cpu"
    assert "2 ms on the CPU" in manifest.host["device_reason"]
    assert manifest.host["deterministic"] is True
    assert not handed_over
    with recorded() as manifest:
        there = roaming.evaluate([large])[0]
        roaming.evaluate([large])
    assert handed_over == [16, 16], "measured once, then known"
    assert manifest.host["device"] == "cuda"
    assert "not ordered" in manifest.host["device_reason"]
    assert manifest.host["deterministic"] is False
    with recorded() as manifest:
        roaming.evaluate([small])
        roaming.evaluate([large])
    assert manifest.host["device"] == "cpu; cuda"
    assert manifest.host["deterministic"] is False
    for found, atoms in ((here, small), (there, large)):
        assert np.allclose(found.forces, potential.evaluate([atoms])[0].forces, atol=1e-12)


def test_a_copy_elsewhere_is_never_older_than_the_weights(potential):
    """The CPU stands for another device: what is kept is told by its name."""
    potential.device = "elsewhere"
    copied = potential.at("cpu")
    assert potential.at("cpu") is copied
    with torch.no_grad():
        next(potential.model.parameters()).mul_(1.5)
    newer = potential.at("cpu")
    assert newer is not copied
    assert torch.equal(next(newer.model.parameters()), next(potential.model.parameters()))


def test_sums_are_ordered_inside_the_block_alone(monkeypatch):
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with ordered_sums(wanted=False):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="inside"), ordered_sums(wanted=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ[CUBLAS_VARIABLE] == ":4096:8"
        raise RuntimeError("inside")
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv(CUBLAS_VARIABLE)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ConfigurationError, match=CUBLAS_VARIABLE), ordered_sums(wanted=True):
        pass


def test_tests_leave_no_device_open(gpu):
    """Bits are asked for everywhere: a machine with a GPU must not change where tests compute."""
    assert os.environ["PHONOSMITH_DEVICE"] == get_settings().device == "cpu"
