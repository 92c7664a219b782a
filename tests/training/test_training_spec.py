"""Presets carry the published hyper-parameters; overrides are validated with a hint."""

import pytest

from phonosmith.core.errors import ConfigurationError
from phonosmith.training.spec import PRESETS, TrainSpec, make_spec, parse_settings


def test_published_hyper_parameters():
    for name in PRESETS:
        spec = make_spec(name)
        assert spec.strategy == name
        assert (spec.epochs, spec.visits is None) == (200, name != "phonosmith")
        # pft co-trains with the weights and the threshold of its own code
        weights = {"pft": (500, 200, 50), "phonosmith": (10, 1000, 10_000)}.get(name, (10, 100, 1000))
        delta = 0.1 if name == "pft" else 0.01
        assert (spec.energy_weight, spec.forces_weight, spec.stress_weight) == weights
        assert spec.huber_delta == delta
    assert (make_spec("transfer").lr, make_spec("transfer").weight_decay) == (0.01, 5e-3)
    assert (make_spec("multihead").lr, make_spec("multihead").weight_decay) == (0.01, 5e-7)
    assert (make_spec("multihead").replay_size, make_spec("multihead").head_start) == (100, "fresh")
    delta = make_spec("delta")
    assert (delta.lr, delta.pull, delta.weight_decay, delta.anchor) == (0.01, 10.0, 0.0, "pull")
    pft = make_spec("pft")
    assert (pft.curvature_weight, pft.lr, pft.ema, pft.curvature_mode) == (100.0, 1e-4, 0.999, "alternate")
    assert (pft.weight_decay, pft.decay, pft.clip_norm, pft.cotrain_steps) == (1e-3, "linear", 100.0, 4)
    assert (pft.replay, pft.curvature_sampling) == ("cotrain", "uniform")
    assert [make_spec(f"f{n}").freeze_stem for n in range(1, 6)] == [1, 2, 3, 4, 5]
    assert [make_spec(f"freeze{n}").freeze_blocks for n in range(1, 6)] == [1, 2, 3, 4, 5]


def test_overrides_are_recorded_and_checked():
    spec = make_spec("delta", **parse_settings(["lr=0.003", "pull=1", "dtype=float64", "patience=none"]))
    assert (spec.lr, spec.pull, spec.dtype, spec.patience) == (0.003, 1.0, "float64", None)
    assert make_spec("multihead", **parse_settings(["replay=none"])).replay == "none"
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_rate_falls_with_the_width_of_the_model():
    spec = make_spec("phonosmith", lr=0.008, lr_weights=1000)
    # four times the weights are twice the width
    assert spec.rate(1000) == 2 * spec.rate(4000) == pytest.approx(0.008)
    # a toy is not trained at a rate that was never tried
    assert spec.rate(10) == pytest.approx(0.016)
    # a rate that was asked for is taken
    assert make_spec("phonosmith", lr=0.003).rate(10, 0.25) == 0.003
    assert make_spec("transfer").rate(10, 0.25) == 0.01
    # an architecture that wants a quarter of it
    assert spec.rate(4000, 0.25) == pytest.approx(0.001)


def test_wide_models_keep_their_weights():
    spec = make_spec("phonosmith")
    limit = spec.low_rank_above
    assert spec.for_model(limit + 1, low_rank=True).anchor == "low_rank"
    assert spec.for_model(limit, low_rank=True) is spec
    # an architecture that has no such matrices
    assert spec.for_model(limit + 1, low_rank=False) is spec
    # whoever says what is trained means it
    for settings in ({"anchor": "none"}, {"anchor": "pull"}, {"trainable": "readouts"}, {"start": "fresh"}):
        asked = make_spec("phonosmith", **settings)
        assert asked.for_model(limit + 1, low_rank=True) is asked, settings
    for strategy in set(PRESETS) - {"phonosmith"}:
        assert make_spec(strategy).for_model(10**9, low_rank=True) == make_spec(strategy)


def test_visits_shorten_the_training_of_large_sets_alone():
    """Ten steps of 24 atoms cost 10 x (24 + 16) = 400, so 8000 visits are 20 epochs; steps of two cells cost 320."""
    spec = make_spec("phonosmith", visits=8000, lr_weights=1000)
    assert spec.for_cells([24] * 10, 1000).epochs == 20
    assert spec.model_copy(update={"batch_size": 2}).for_cells([24] * 10, 1000).epochs == 25
    assert spec.for_cells([8], 1000).epochs == 200
    assert spec.for_cells([10_000] * 3, 1000).epochs == 1
    # a model twice as wide has four times the weights; a narrower one gains nothing from more
    assert spec.for_cells([24] * 10, 4000).epochs == 10
    assert spec.for_cells([24] * 10, 10).epochs == 20
    # epochs that were asked for are kept
    assert make_spec("phonosmith", epochs=300).for_cells([10_000] * 3, 1000).epochs == 300
    assert make_spec("transfer").for_cells([10_000] * 3, 1000).epochs == 200


@pytest.mark.parametrize(
    ("strategy", "pairs", "hint"),
    [
        ("dleta", [], "Did you mean delta"),
        ("delta", ["learning_rat=1"], "Unknown setting"),
        ("delta", ["weight_deca=1"], "Did you mean weight_decay"),
        ("delta", ["lr=-1"], "lr"),
        ("delta", ["lr=fast"], "lr"),
        ("delta", ["lr"], "key=value"),
        ("delta", ["lr=1", "lr=2"], "twice"),
        ("delta", ["start=fresh"], "fresh start"),
        ("transfer", ["trainable=freeze"], "freeze_blocks"),
        ("transfer", ["e0=given"], "e0_values"),
        ("delta", ["device=tpu"], "device"),
        ("transfer", ["energy_weight=0", "forces_weight=0", "stress_weight=0"], "nothing to learn"),
    ],
)
def test_impossible_settings_are_explained(strategy, pairs, hint):
    with pytest.raises(ConfigurationError, match=hint):
        make_spec(strategy, **parse_settings(pairs))


def test_the_command_trains_what_is_the_default_elsewhere():
    import inspect

    from phonosmith.cli.train import train
    from phonosmith.training.spec import DEFAULT_STRATEGY

    assert inspect.signature(train).parameters["strategy"].default.default == DEFAULT_STRATEGY
