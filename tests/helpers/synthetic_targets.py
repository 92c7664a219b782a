"""What synthetic reports say in the end: medians, interquartile ranges, stabilities and costs, known in advance."""

from __future__ import annotations

STRATEGIES = ("scratch", "transfer", "multihead", "delta")
FOUNDATION = "foundation"
_FACTOR = {FOUNDATION: 1.0, "scratch": 0.8, "transfer": 0.25, "multihead": 0.3, "delta": 0.2}
_CELL = {"primitive": 2.0, "small": 1.3, "large": 1.0}
METRICS = {
    "phonon_mae_thz": (0.27, 0.18),
    "omega_max_percent": (-7.0, 9.0),
    "omega_mean_percent": (2.8, 1.9),
    "dos_percent": (50.0, 33.0),
    "heat_capacity_percent": (1.6, 2.0),
    "entropy_percent": (4.0, 5.0),
    "free_energy_percent": (-3.0, 4.0),
    "bulk_modulus_percent": (-6.0, 8.0),
    "shear_modulus_percent": (-20.0, 24.0),
    "slack_percent": (-45.0, 40.0),
    "valid_force_mae": (60.0, 40.0),
    "valid_energy_mae": (4.0, 3.0),
    "valid_stress_mae": (2.0, 1.5),
}
TRAINING_MINUTES = {"scratch": 1.2, "transfer": 1.2, "multihead": 8.3, "delta": 7.3}
LABEL_CORE_HOURS = 270.0
"""Cost of each synthetic reference calculation of a label, core-hours."""
DISPLACEMENT_CORE_HOURS = 400.0
"""Cost of each synthetic displaced cell, core-hours."""
REFERENCE_CORES = 144


def target(metric: str, strategy: str, n_train: int = 0, cell: str = "large") -> tuple[float, float]:
    """Return median and interquartile range over the materials that `synthetic_reports` gives a metric.

    Parameters
    ----------
    metric
        One of the names the drawn metrics have, e.g. ``phonon_mae_thz`` (units as in the documents, errors in percent).
    strategy
        Strategy or ``foundation``.
    n_train
        Training structures; errors fall as (10/n)^½.
    cell
        Sampling cell; primitive cells give twice, small ones 1.3 times the errors of large ones.
    """
    median, spread = METRICS[metric]
    factor = _FACTOR.get(strategy, 0.5)
    if strategy != FOUNDATION:
        factor *= _CELL[cell] * (10 / n_train) ** 0.5
    return median * factor, spread * factor


def displaced_cells(index: int) -> int:
    """Return the number of displaced cells of the material at a position: 1 to 24, growing."""
    return 1 + (5 * index) % 24


def is_unstable(index: int) -> bool:
    """Say whether the reference finds the material at a position dynamically unstable: every sixth one."""
    return index % 6 == 5


def called_unstable(index: int, strategy: str) -> bool:
    """Say whether a strategy calls the material at a position unstable.

    delta is always right; the foundation and multihead also call the first material unstable; transfer and scratch miss
    the first unstable material, scratch also the second.
    """
    if strategy in (FOUNDATION, "multihead") and index == 0:
        return True
    missed = {"transfer": (5,), "scratch": (5, 11)}.get(strategy, ())
    return is_unstable(index) and index not in missed
