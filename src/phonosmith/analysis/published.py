"""Figures other people published, to stand beside ours: always labelled as another data set."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml
from pydantic import Field

from phonosmith.core.document import Document

Pair = tuple[float, float]


class Stability(Document, extra="forbid"):
    """Numbers of materials by what the reference and the potential say."""

    true_stable: int
    stable_called_unstable: int
    unstable_called_stable: int
    true_unstable: int
    precision: float = Field(description="of the unstable class as printed, percent")
    recall: float = Field(description="of the unstable class as printed, percent")


class PhaseFigures(Document, extra="forbid"):
    """How well phases were found."""

    precision: float = Field(description="percent")
    recall: float = Field(description="percent")
    f1: float = Field(description="0 to 1")


class CostFigures(Document, extra="forbid"):
    """What phonons and labels took."""

    phonon_hours: float = Field(description="mean wall time of all displaced cells of a material, h")
    label_hours: float = Field(description="mean wall time of the training labels of a material, h")
    cores: int = Field(description="processor cores")
    saving_percent: dict[int, float] = Field(description="mean saving for at least so many displaced cells, percent")
    training_minutes: dict[str, float] = Field(description="mean training time on one GPU by strategy, min")


class Published(Document, extra="forbid"):
    """Everything transcribed from one paper; pairs are median and interquartile range."""

    label: str = Field(description="how its columns are headed")
    citation: str = Field(description="authors, source, licence")
    phonon_mae: dict[str, dict[str, Pair]] = Field(description="by cell and strategy, THz")
    phonon_errors: dict[str, dict[str, Pair]] = Field(description="by metric (our column name) and strategy, percent")
    stability: dict[str, Stability] = Field(description="by strategy")
    phases: dict[str, PhaseFigures] = Field(description="by strategy")
    foundations: dict[str, Pair] = Field(description="phonon MAE by foundation, THz")
    cost: CostFigures


@cache
def grandel2026() -> Published:
    """Return the figures of arXiv:2604.01017 (CC BY 4.0)."""
    text = (files("phonosmith.analysis") / "published_grandel2026.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
