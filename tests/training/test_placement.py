"""Where a training is done, and what its document says about it."""

import pytest
import torch

from phonosmith.core.errors import ConfigurationError
from phonosmith.potentials import device
from phonosmith.potentials.mace.potential import MacePotential
from phonosmith.settings import get_settings
from phonosmith.training import placement
from phonosmith.training.assemble import assemble
from phonosmith.training.finetune import fine_tune
from phonosmith.training.placement import choose_training_device
from phonosmith.training.spec import make_spec


@pytest.fixture
def gpu(monkeypatch):
    """Let this machine seem to have a GPU on which every step takes 70 ms; return what a step on the CPU takes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_CHOICES", {})
    on_cpu, own = [0.004], placement.step_seconds

    def seconds(assembly, where):
        return 0.07 if where == "cuda" else own(assembly, where) and on_cpu[0]

    monkeypatch.setattr(placement, "step_seconds", seconds)
    return on_cpu


@pytest.fixture
def foundation(tiny_model):
    return MacePotential(tiny_model(numbers=(29,)))


def prepared(foundation, tiny_frames, **settings):
    spec = make_spec("transfer", **settings)
    return assemble(foundation, tiny_frames(3), tiny_frames(1), spec, replay=None, seed=0)


def test_auto_trains_where_a_step_takes_less_time(gpu, foundation, tiny_frames, monkeypatch):
    monkeypatch.setenv("PHONOSMITH_DEVICE", "auto")
    get_settings.cache_clear()
    document = fine_tune(foundation, tiny_frames(3), tiny_frames(1), make_spec("transfer", epochs=1), seed=0).document
    assert document.device == document.manifest.host["device"] == "cpu"
    assert document.device_reason == "a step takes 4 ms on the CPU, 70 ms on the GPU"
    assert document.deterministic is document.manifest.host["deterministic"] is True
    gpu[0] = 3.0
    assert choose_training_device(prepared(foundation, tiny_frames)).device == "cpu", "measured before"
    choice = choose_training_device(prepared(foundation, tiny_frames, batch_size=2))
    assert choice.device == "cuda", "two structures a step are other work"


def test_the_setting_decides_where_the_strategy_does_not(gpu, foundation, tiny_frames, monkeypatch):
    choice = choose_training_device(prepared(foundation, tiny_frames))
    assert choice == device.DeviceChoice("cpu", "asked for by PHONOSMITH_DEVICE=cpu")
    choice = choose_training_device(prepared(foundation, tiny_frames, device="cuda"))
    assert choice == device.DeviceChoice("cuda", "asked for")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PHONOSMITH_DEVICE", "cuda")
    get_settings.cache_clear()
    with pytest.raises(ConfigurationError, match="sees no GPU"):
        choose_training_device(prepared(foundation, tiny_frames))


def test_a_step_is_timed_with_everything_it_does(foundation, tiny_frames, monkeypatch):
    """Forward, loss, gradients of all parameters; a long one is told by one structure."""
    assembly, sizes, own = prepared(foundation, tiny_frames), [], foundation.backend.predict

    def counting(model, batch, **options):
        sizes.append(len(batch["ptr"]) - 1)
        return own(model, batch, **options)

    monkeypatch.setattr(foundation.backend, "predict", counting)
    for module in (device, placement):  # however busy this machine is
        monkeypatch.setattr(module, "LONG_CALL", 1000.0)
    assert placement.step_seconds(assembly, "cpu") > 0
    assert sizes == [1] * 3 + [3] * 3
    monkeypatch.setattr(placement, "LONG_CALL", 0.5)
    monkeypatch.setattr(placement, "seconds_per_call", lambda step, where: 7.0)
    assert placement.step_seconds(assembly, "cpu") == 21.0


def test_what_a_gpu_does_is_written_down(foundation, tiny_frames, monkeypatch):
    """The CPU stands for it: unordered unless deterministic=true."""
    own = placement.choose_device
    monkeypatch.setattr(placement, "choose_device", lambda *asked: own("cpu", *asked[1:]))
    monkeypatch.setattr("phonosmith.training.finetune._repeats", lambda spec, where: spec.deterministic)
    for deterministic in (False, True):
        spec = make_spec("transfer", epochs=1, deterministic=deterministic)
        document = fine_tune(foundation, tiny_frames(3), tiny_frames(1), spec, seed=0).document
        assert document.deterministic is document.manifest.host["deterministic"] is deterministic


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_deterministic_training_on_a_gpu_repeats_to_the_bit(foundation, tiny_frames):
    spec = make_spec("transfer", epochs=3, device="cuda", deterministic=True)
    one, other = (fine_tune(foundation, tiny_frames(3), tiny_frames(1), spec, seed=0) for _ in range(2))
    for first, second in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(first, second)
