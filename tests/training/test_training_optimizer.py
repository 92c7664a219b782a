"""Which weights move and which decay: against mace's own optimizer, and against the modules mace builds."""

import copy
from argparse import Namespace

import pytest
import torch

from phonosmith.core.errors import ConfigurationError
from phonosmith.potentials.mace.backend import MaceBackend
from phonosmith.training.loop import scheduler_for
from phonosmith.training.spec import make_spec
from phonosmith.training.step import Step
from phonosmith.training.trainable import select_trainable

BACKEND = MaceBackend()


def its_optimizer(module, spec):
    """Return the optimizer that mace_run_train makes of the same settings."""
    from mace.tools.scripts_utils import get_optimizer, get_params_options

    args = Namespace(
        lr=spec.lr, weight_decay=spec.weight_decay, amsgrad=True, beta=0.9, optimizer="adamw", freeze=None,
        lr_params_factors="{}",
    )  # fmt: skip
    return get_optimizer(args, get_params_options(args, module))


@pytest.mark.parametrize("first", ["RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock"])
def test_the_optimizer_of_mace(tiny_model, first):
    """The same weights decay, and five steps on the same gradients end at the same weights."""
    module = tiny_model(first=first)
    spec = make_spec("transfer", optimizer="mace", weight_decay=0.5)
    ours, theirs = copy.deepcopy(module), copy.deepcopy(module)
    names = {id(value): name for name, value in theirs.named_parameters()}
    optimizer = its_optimizer(theirs, spec)
    decaying = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    parameters = select_trainable(BACKEND, ours, spec)
    step = Step(BACKEND, ours, parameters, spec)
    found = {id(p) for group in step.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    trained = dict(parameters)
    assert {name for name, value in parameters if id(value) in found} == decaying & trained.keys()
    assert 0 < len(found) < len(parameters)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for name, value in theirs.named_parameters():
            # gradients that shrink: then the largest square so far matters
            gradient = torch.randn(value.shape, generator=generator, dtype=value.dtype) / (1 + step.count)
            value.grad = gradient
            if name in trained:
                trained[name].grad = gradient.clone()
        optimizer.step()
        step.update()
    for name, value in theirs.named_parameters():
        if name in trained:
            # the same sums in another grouping
            torch.testing.assert_close(trained[name], value, rtol=1e-12, atol=1e-14)
    plain = Step(BACKEND, copy.deepcopy(module), select_trainable(BACKEND, ours, spec), make_spec("transfer"))
    assert len(plain.optimizer.param_groups) == 1


def test_the_rate_is_that_of_width_and_architecture(tiny_model):
    class Nervous(MaceBackend):
        rate_factor = 0.25

    module = tiny_model()
    parameters = select_trainable(BACKEND, module, make_spec("transfer"))
    count = sum(value.numel() for _, value in parameters)

    def rate(backend, spec):
        return Step(backend, module, parameters, spec).optimizer.param_groups[0]["lr"]

    spec = make_spec("phonosmith").model_copy(update={"lr": 0.004, "lr_weights": count // 4})
    # twice as wide as the model the rate is for
    assert rate(BACKEND, spec) == pytest.approx(0.002, rel=1e-3)
    assert rate(Nervous(), spec) == pytest.approx(0.0005, rel=1e-3)
    # published rates are taken as they are
    assert rate(Nervous(), make_spec("transfer")) == 0.01


def test_decay_of_linear_weights_spares_the_contractions(tiny_model):
    module = tiny_model()
    parameters = select_trainable(BACKEND, module, make_spec("pft"))
    spared = [name for name, _ in parameters if not BACKEND.decays(module, name, "linear")]
    assert spared
    assert all("symmetric_contractions" in name for name in spared)
    linear = (torch.nn.Linear,)
    for name, _ in parameters:
        owner = module.get_submodule(name.rpartition(".")[0])
        matrix = isinstance(owner, linear) or "Linear" in type(owner).__name__ or "skip_tp" in name or "layer" in name
        assert BACKEND.decays(module, name, "linear") == matrix, name


@pytest.mark.parametrize("count", range(1, 6))
def test_published_freezing_keeps_the_modules_before_the_interactions(tiny_model, count):
    """fN: the first N modules in mace's own order; of this model the embedding alone has parameters, as in MP-0b3."""
    module = tiny_model(pair_repulsion=True, distance_transform="Agnesi")
    built = [name for name, _ in module.named_children()]
    # five of them, and the fifth holds the atomic energies, as the paper says
    assert [name for name in built if name in BACKEND.stem(module)] == list(BACKEND.stem(module)) == built[:5]
    assert BACKEND.stem(module)[4].startswith("atomic_energies")
    trained = dict(select_trainable(BACKEND, module, make_spec(f"f{count}")))
    expected = {name for name, p in module.named_parameters() if name.split(".")[0] not in built[:count] and p.numel()}
    # trainable is what every strategy trains, less the frozen modules
    assert trained.keys() == expected & dict(select_trainable(BACKEND, module, make_spec("transfer"))).keys()
    assert not any(name.startswith("node_embedding") for name in trained)
    assert any(name.startswith("interactions.0") for name in trained)


def test_settings_that_contradict_each_other():
    for settings, said in (
        ({"strategy": "f2", "freeze_blocks": 1}, "two ways"),
        ({"strategy": "transfer", "freeze_stem": 1}, "belong together"),
        ({"strategy": "transfer", "optimizer": "mace", "decay": "linear"}, "leave decay=all"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            make_spec(**settings)


def test_the_cosine_schedule_is_torchs_after_a_linear_rise():
    """Rates of all 40 epochs: two that rise, then those of torch's cosine over the other 38; none is wasted at zero."""
    spec = make_spec("transfer", schedule="cosine", lr=0.004, epochs=40)

    def rates(made, epochs):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=spec.lr)
        scheduler, found = made(optimizer), []
        for _ in range(epochs):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found, optimizer.param_groups[0]["lr"]

    ours, end = rates(lambda optimizer: scheduler_for(optimizer, spec), 40)
    theirs, _ = rates(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=38), 38)
    assert ours[:3] == pytest.approx([0.004 / 3, 0.008 / 3, 0.004])
    # torch goes from epoch to epoch by a recursion
    assert ours[2:] == pytest.approx(theirs, rel=1e-9)
    assert 0 < ours[-1] < 1e-2 * spec.lr
    assert end == pytest.approx(0.0, abs=1e-18)


def test_the_average_of_weights_is_torchs(tiny_model):
    """Once the warm-up is over, the moving average is that of torch's ``swa_utils``."""
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

    module = tiny_model()
    spec = make_spec("phonosmith", ema=0.5)
    step = Step(BACKEND, module, select_trainable(BACKEND, module, spec), spec)
    step.count.fill_(8)
    step.ema = [parameter.detach().clone() for parameter in step.parameters]
    theirs = AveragedModel(torch.nn.ParameterList(step.parameters), avg_fn=get_ema_avg_fn(spec.ema))
    theirs.update_parameters(torch.nn.ParameterList(step.parameters))
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for parameter in step.parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        step.update()
        theirs.update_parameters(torch.nn.ParameterList(step.parameters))
    for average, other in zip(step.ema, theirs.module, strict=True):
        torch.testing.assert_close(average, other.detach(), rtol=1e-12, atol=1e-14)
