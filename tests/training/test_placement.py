"""Where a training is done, and what its document says about it."""

import pytest
import torch

from phonosmith.potentials import device
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.settings import get_settings
from phonosmith.training import placement
from phonosmith.training.assemble import assemble
from phonosmith.training.finetune import fine_tune
from phonosmith.training.spec import make_spec


@pytest.fixture
def gpu(monkeypatch):
    """Let this machine seem to have a GPU on which every step takes 70 ms; return what a step on the CPU takes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_CHOICES", {})
    on_cpu, own = [0.004], placement._step_seconds
    monkeypatch.setattr(
        placement, "_step_seconds", lambda one, where: 0.07 if where == "cuda" else own(one, where) and on_cpu[0]
    )
    return on_cpu


def prepared(tiny_model, tiny_frames, **settings):
    spec = make_spec("transfer", epochs=1, **settings)
    return assemble(MacePotential(tiny_model(numbers=(29,))), tiny_frames(3), tiny_frames(1), spec, replay=None, seed=0)


def test_auto_trains_where_a_step_takes_less_time(gpu, tiny_model, tiny_frames, monkeypatch):
    monkeypatch.setenv("PHONOSMITH_DEVICE", "auto")
    get_settings.cache_clear()
    foundation = MacePotential(tiny_model(numbers=(29,)))
    result = fine_tune(foundation, tiny_frames(3), tiny_frames(1), make_spec("transfer", epochs=1), seed=0)
    document = result.document
    assert document.device == document.manifest.host["device"] == "cpu"
    assert document.device_reason == "a step takes 4 ms on the CPU, 70 ms on the GPU"
    assert document.deterministic is True
    gpu[0] = 3.0
    choice = placement.choose_training_device(prepared(tiny_model, tiny_frames, batch_size=2))
    assert choice.device == "cuda", "two structures a step are other work"


def test_the_setting_decides_where_the_strategy_does_not(gpu, tiny_model, tiny_frames):
    choice = placement.choose_training_device(prepared(tiny_model, tiny_frames))
    assert choice == device.DeviceChoice("cpu", "asked for by PHONOSMITH_DEVICE=cpu")
    choice = placement.choose_training_device(prepared(tiny_model, tiny_frames, device="cuda"))
    assert choice == device.DeviceChoice("cuda", "asked for")


def test_a_step_is_timed_with_everything_it_does(tiny_model, tiny_frames, monkeypatch):
    """Forward, loss, gradients of all parameters; a long one is told by one structure."""
    prepared_one, sizes = prepared(tiny_model, tiny_frames, batch_size=2), []
    own = prepared_one.backend.predict

    def counting(model, batch, **options):
        sizes.append(len(batch["ptr"]) - 1)
        return own(model, batch, **options)

    monkeypatch.setattr(prepared_one.backend, "predict", counting)
    assert placement._step_seconds(prepared_one, "cpu") > 0
    assert sizes == [1] * 3 + [2] * 3
    monkeypatch.setattr(placement, "seconds_per_call", lambda step, where: 7.0)
    assert placement._step_seconds(prepared_one, "cpu") == 14.0
