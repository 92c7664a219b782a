"""A fine-tuning strategy as a point on orthogonal axes, with the published strategies as named presets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError, did_you_mean

STEP_ATOMS = 16
"""Atoms that take as long as what a step takes besides its atoms (a small MACE model on one core)."""
MOST_RATE = 2.0
"""How much larger than ``lr`` the rate of a small model may be: what was measured to be good, and no further."""


class TrainSpec(Document):
    """Everything that decides the outcome of a fine-tuning besides data, foundation and seed.

    Loss of one batch: ``energy_weight * H(dE) + forces_weight * H(dF) + stress_weight * H(dS)`` with H the mean Huber
    loss of threshold ``huber_delta``; the curvature term is a mean absolute error on Hessian columns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str = Field("custom", description="name of the preset this started from")
    start: Literal["foundation", "fresh"] = Field("foundation", description="initial weights")
    trainable: Literal["all", "freeze", "readouts"] = Field("all", description="which part of the model may change")
    freeze_blocks: int = Field(0, ge=0, description="with trainable=freeze: how many leading blocks stay as they are")
    freeze_stem: int = Field(
        0,
        ge=0,
        le=5,
        description="with trainable=freeze, instead of freeze_blocks: how many of the modules before the first "
        "interaction stay as they are (the layers of the published f1 to f5)",
    )
    anchor: Literal["none", "pull", "low_rank"] = Field(
        "none",
        description="what ties the model to the foundation: nothing, a pull of all weights, or a low-rank update of "
        "linear and radial layers (skip connections and symmetric contractions keep their weights)",
    )
    pull: float = Field(10.0, ge=0, description="strength of the pull p += lr*pull*(p0-p) before each Adam update")
    rank: int = Field(4, ge=1, description="rank of the low-rank update")
    alpha: float = Field(4.0, gt=0, description="scale of the low-rank update: delta W = alpha/rank * A B")
    low_rank_above: int | None = Field(
        None,
        ge=1,
        description="number of weights above which a model keeps them and learns low-rank matrices beside them "
        "(anchor=none becomes low_rank, where the architecture has such); none: never",
    )
    replay: Literal["none", "cotrain", "head"] = Field("none", description="how replay structures take part")
    head_start: Literal["fresh", "copy"] = Field(
        "copy", description="with replay=head: the material's head begins with random weights or the foundation's"
    )
    replay_size: int = Field(100, ge=1, description="structures drawn at random from the replay pool")
    replay_labels: Literal["auto", "foundation", "given"] = Field(
        "auto", description="labels of replay: the foundation's own, those in the file, or (auto) given where complete"
    )
    replay_weight: float = Field(1.0, gt=0, description="factor on the loss of replay structures")
    e0: Literal["foundation", "refit", "given"] = Field(
        "refit", description="atomic reference energies: kept, shifted by least squares on residuals, or given"
    )
    e0_values: dict[str, float] | None = Field(None, description="with e0=given: eV per element")
    e0_final_shift: bool = Field(
        True,
        description="with e0=refit: take the mean energy offset training left out of the atomic energies, where that "
        "lowers the validation error; forces do not change",
    )
    energy_weight: float = Field(10.0, ge=0, description="weight of the energy term")
    forces_weight: float = Field(100.0, ge=0, description="weight of the force term")
    stress_weight: float = Field(1000.0, ge=0, description="weight of the stress term")
    huber_delta: float = Field(0.01, gt=0, description="Huber threshold (eV, eV/Å, eV/Å³)")
    energy_convention: Literal["per_atom", "per_cell"] = Field(
        "per_atom",
        description="per_atom: Huber of the energy difference per atom (MACE); "
        "per_cell: Huber of the total difference, then divided by the number of atoms (Equitrain)",
    )
    curvature_weight: float = Field(0.0, ge=0, description="weight of the Hessian-column MAE (0: no curvature)")
    curvature_forces_weight: float = Field(0.0, ge=0, description="weight of the mean force norm of the perfect cell")
    curvature_stress_weight: float = Field(0.0, ge=0, description="weight of the mean |stress| of the perfect cell")
    curvature_energy_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the mean energy error per atom of the perfect cell (its reference, where known)",
    )
    curvature_mode: Literal["joint", "alternate", "alone"] = Field(
        "joint",
        description="joint: in every step's loss; alternate: a step of its own, then cotrain_steps of E, F, S, counted "
        "over the whole training; alone: no steps of E, F, S (no co-training)",
    )
    curvature_sampling: Literal["uniform", "irreducible"] = Field(
        "uniform",
        description="uniform: each step draws among all columns; irreducible: those symmetry does not relate, in turn",
    )
    curvature_batch: int = Field(
        16, ge=1, description="with curvature_sampling=uniform: crystals that share a step where there are several"
    )
    curvature_holdout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of inequivalent atoms, rounded down (of three crystals or more: of crystals, at least one), "
        "whose columns are never trained on and judge epochs beside the validation structures",
    )
    cotrain_steps: int = Field(4, ge=1, description="with curvature_mode=alternate: E, F, S steps per curvature step")
    curvature_columns: int = Field(1, ge=1, description="Hessian columns per curvature step, sharing one force graph")
    curvature_method: Literal["auto", "autograd", "fd"] = Field(
        "auto", description="reverse-over-reverse, central difference of forces, or (auto) the former where it works"
    )
    curvature_step: float = Field(0.01, gt=0, description="displacement of the finite difference, Å")
    curvature_memory_gb: float = Field(
        8.0,
        gt=0,
        description="memory a curvature step may take, GB: above it the exact derivative is taken in blocks of atoms, "
        "recomputed on the way back; the same numbers for more time",
    )
    lr: float = Field(0.01, gt=0, description="learning rate of AdamW")
    lr_weights: int | None = Field(
        None,
        ge=1,
        description="number of trained weights for which the rate is lr: it falls with the square root of their number "
        f"(that is, with the width of the model), and is at most {MOST_RATE:g} lr, less for an architecture that wants "
        "less; none: lr for every model",
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay (towards zero)")
    decay: Literal["all", "linear"] = Field("all", description="which weights decay: all, or those of linear layers")
    optimizer: Literal["adamw", "mace"] = Field(
        "adamw",
        description="adamw: AdamW, decay as said; mace: as mace trains its models: AMSGrad, decay on the linear and "
        "skip layers of the interactions and on the products alone",
    )
    epochs: int = Field(200, ge=1, description="largest number of epochs")
    visits: int | None = Field(
        None,
        ge=1,
        description="fewer epochs where the training set is large: as many as visit about so many atoms, a step "
        f"counting for {STEP_ATOMS} more; for a model of more than lr_weights weights, which takes longer, fewer by "
        "the square root of their number",
    )
    batch_size: int = Field(4, ge=1, description="structures per step")
    clip_norm: float | None = Field(10.0, gt=0, description="largest norm of the gradient (None: no clipping)")
    schedule: Literal["plateau", "cosine"] = Field(
        "plateau",
        description="plateau: the rate is reduced where the validation loss stands still; cosine: it rises over the "
        "first twentieth of the epochs and falls to zero with the last one, so that no epoch is left over",
    )
    scheduler_factor: float = Field(0.5, gt=0, lt=1, description="ReduceLROnPlateau factor, on validation loss")
    scheduler_patience: int = Field(8, ge=0, description="epochs without improvement before the rate is reduced")
    min_lr: float = Field(1e-6, ge=0, description="smallest learning rate")
    patience: int | None = Field(40, ge=1, description="epochs without improvement before training stops (None: never)")
    target_forces_mae: float | None = Field(
        None, gt=0, description="stop as soon as the validation force MAE is at most this, eV/Å"
    )
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the exponential moving average of weights")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of training; metrics are float64")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="where to train; auto: as PHONOSMITH_DEVICE says, or where a step takes less time",
    )
    deterministic: bool = Field(
        False,
        description="train on a GPU with sums in a fixed order: repeatable to the bit, and slower (a CPU always is)",
    )
    compile: Literal["auto", "off", "graph", "inductor"] = Field(
        "auto",
        description="how steps run: off: one operation after the other; graph: recorded as a CUDA graph over padded "
        "batches and replayed, the same numbers to rounding; inductor: the gradient compiled too, which takes minutes "
        "for each shape of batch and pays over very many steps; auto: graph on a GPU, off on a CPU",
    )
    prune: bool = Field(True, description="drop the elements the data do not hold (same predictions, faster)")

    @model_validator(mode="after")
    def _consistent(self) -> TrainSpec:
        if (self.trainable == "freeze") != (self.freeze_blocks + self.freeze_stem > 0):
            raise ValueError("trainable=freeze and freeze_blocks >= 1 (or freeze_stem >= 1) belong together")
        if self.freeze_blocks and self.freeze_stem:
            raise ValueError("freeze_blocks and freeze_stem are two ways to count: give one")
        if self.optimizer == "mace" and self.decay != "all":
            raise ValueError("optimizer=mace says itself which weights decay; leave decay=all")
        if self.start == "fresh" and (self.anchor != "none" or self.trainable != "all"):
            raise ValueError("a fresh start has no foundation weights to freeze or to be tied to")
        if self.start == "fresh" and self.replay == "head":
            raise ValueError("a fresh start has no pretraining head; use replay=cotrain or start=foundation")
        if self.anchor == "low_rank" and self.trainable != "all":
            raise ValueError("anchor=low_rank trains only its own matrices; leave trainable=all")
        if (self.e0 == "given") != (self.e0_values is not None):
            raise ValueError("e0=given and e0_values belong together")
        if self.energy_weight == self.forces_weight == self.stress_weight == 0:
            raise ValueError("all of energy_weight, forces_weight, stress_weight are zero: nothing to learn")
        if self.curvature_mode != "joint" and self.curvature_weight == 0:
            raise ValueError(f"curvature_mode={self.curvature_mode} needs curvature_weight > 0")
        if self.curvature_mode == "alone" and self.replay != "none":
            raise ValueError("curvature_mode=alone takes no steps on structures; set replay=none")
        return self

    def for_model(self, n_weights: int, *, low_rank: bool) -> TrainSpec:
        """Return the same with the anchor for a model of so many weights; ``low_rank``: whether it takes matrices."""
        settled = self.anchor != "none" or self.trainable != "all" or self.start == "fresh" or self.replay == "head"
        if settled or not low_rank or self.low_rank_above is None or n_weights <= self.low_rank_above:
            return self
        return self.model_copy(update={"anchor": "low_rank"})

    def for_cells(self, sizes: Sequence[int], n_weights: int) -> TrainSpec:
        """Return the same with the epochs that ``visits`` leaves for cells of these numbers of atoms and a model."""
        if self.visits is None or not sizes:
            return self
        cost = sum(sizes) + STEP_ATOMS * -(-len(sizes) // self.batch_size)
        visits = self.visits * min(1.0, self._narrower(n_weights))
        return self.model_copy(update={"epochs": min(self.epochs, max(1, round(visits / cost)))})

    def rate(self, n_weights: int, factor: float = 1.0) -> float:
        """Return the largest learning rate for a number of trained weights, by the factor of their architecture."""
        return self.lr if self.lr_weights is None else self.lr * min(MOST_RATE, self._narrower(n_weights)) * factor

    def _narrower(self, n_weights: int) -> float:
        """Return how much narrower a model of so many weights is than the one that settings are for, by its width."""
        return 1.0 if self.lr_weights is None else math.sqrt(self.lr_weights / n_weights)

    @property
    def uses_replay(self) -> bool:
        """Whether replay structures are needed."""
        return self.replay != "none"

    @property
    def fresh_readout(self) -> bool:
        """Whether the readout that is trained on the material begins with random weights."""
        return self.start == "fresh" or (self.replay == "head" and self.head_start == "fresh")

    @property
    def decay_rule(self) -> Literal["all", "linear", "interactions"]:
        """Which weights decay."""
        return "interactions" if self.optimizer == "mace" else self.decay

    @property
    def uses_curvature(self) -> bool:
        """Whether force constants are needed."""
        return self.curvature_weight > 0


_TRANSFER: dict[str, Any] = {"lr": 0.01, "weight_decay": 5e-3}
_DELTA: dict[str, Any] = {"anchor": "pull", "pull": 10.0, "lr": 0.01}

DEFAULT_STRATEGY = "phonosmith"
"""Preset of whoever asks for none."""
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "scratch": {"start": "fresh", "lr": 0.01, "weight_decay": 5e-7},
        "phonosmith": {
            "schedule": "cosine",
            "patience": None,
            "batch_size": 1,
            "ema": 0.99,
            # 0.02 was better than 0.01 and 0.004 for 54,384 weights (32 channels), 0.005 than 0.02 for 842,623 (128)
            "lr": 0.01,
            "lr_weights": 200_000,
            # 842,440 weights: matrices alone gave a median of 0.040 THz, all weights 0.058 at equal cost; 54,384: worse
            "low_rank_above": 300_000,
            # stress weighs ten times what forces do, as published: with equal weights rhombohedral GeTe relaxed to a
            # volume 2 % too large; energies, which phonons do not need, weigh a tenth
            "forces_weight": 1000.0,
            "stress_weight": 10_000.0,
            # 60,000 left GaAs with 0.037 THz and Bi2Te2Se with 0.054, 180,000 with 0.029 and 0.044; SnTe with 0.083 all
            "visits": 120_000,
        },
        "transfer": _TRANSFER,
        **{f"f{n}": {**_TRANSFER, "trainable": "freeze", "freeze_stem": n} for n in range(1, 6)},
        **{f"freeze{n}": {**_TRANSFER, "trainable": "freeze", "freeze_blocks": n} for n in range(1, 6)},
        "multihead": {"replay": "head", "head_start": "fresh", "replay_size": 100, "lr": 0.01, "weight_decay": 5e-7},
        "delta": _DELTA,
        "lora": {"anchor": "low_rank", "rank": 4, "alpha": 4.0, "lr": 0.01},
        "pft": {
            "curvature_weight": 100.0,
            "curvature_forces_weight": 20.0,
            "curvature_stress_weight": 5.0,
            "curvature_mode": "alternate",
            "cotrain_steps": 4,
            "replay": "cotrain",
            "replay_size": 100,
            "energy_weight": 500.0,
            "forces_weight": 200.0,
            "stress_weight": 50.0,
            "huber_delta": 0.1,
            "lr": 1e-4,
            "weight_decay": 1e-3,
            "decay": "linear",
            "clip_norm": 100.0,
            "ema": 0.999,
        },
        "delta+pft": {
            **_DELTA,
            "curvature_weight": 2.0,
            "curvature_forces_weight": 0.02,
            "curvature_sampling": "irreducible",
        },
    }
)
"""Published hyper-parameters: scratch to delta from arXiv:2604.01017, pft from arXiv:2601.07742.

lora and delta+pft are ours: the curvature weight of delta+pft keeps the term of the size of the force term (with 20
instead of 2, validation forces got worse about twofold on silicon, 66 against 31 meV/Å, and phonons no better).
"""


def make_spec(strategy: str, **overrides: Any) -> TrainSpec:
    """Return a preset with some fields replaced; ConfigurationError for unknown names and impossible values."""
    if strategy not in PRESETS:
        advice = f"{did_you_mean(strategy, PRESETS)}Known: {', '.join(PRESETS)}."
        raise ConfigurationError(f"Unknown strategy {strategy!r}.", advice)
    known = [name for name in TrainSpec.model_fields if name != "strategy"]
    for name in overrides:
        if name not in known:
            advice = f"{did_you_mean(name, known)}Known: {', '.join(known)}."
            raise ConfigurationError(f"Unknown setting {name!r}.", advice, fields=[name])
    try:
        # whoever says how many epochs, at which rate, or what ties weights to the foundation, means just that
        ruled = {"visits": "epochs", "lr_weights": "lr", "low_rank_above": "anchor"}
        plain = {field: None for field, said in ruled.items() if said in overrides}
        return TrainSpec(**{"strategy": strategy, **PRESETS[strategy], **plain, **overrides})
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item['input']!r})" if item["loc"] else item["msg"]
            for item in error.errors()
        ]
        raise ConfigurationError(
            f"Strategy {strategy!r} with these settings is impossible: {'; '.join(wrong)}.",
            "Correct the setting.",
            fields=[str(item["loc"][0]) for item in error.errors() if item["loc"]],
        ) from error


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` texts into overrides; values are read as JSON where they are JSON (``none`` is null).

    >>> parse_settings(["lr=0.003", "ema=none", "dtype=float64"])
    {'lr': 0.003, 'ema': None, 'dtype': 'float64'}
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = (part.strip() for part in pair.partition("="))
        if not separator or not key:
            raise ConfigurationError(f"--set {pair!r} is not of the form key=value.", "Write e.g. --set lr=0.003.")
        if key in overrides:
            raise ConfigurationError(f"Setting {key!r} is given twice.", "Give it once.")
        try:
            overrides[key] = None if text.lower() == "none" and key not in {"anchor", "replay"} else json.loads(text)
        except json.JSONDecodeError:
            overrides[key] = text
    return overrides
