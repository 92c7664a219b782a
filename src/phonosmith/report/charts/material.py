"""Charts of one material: how its potentials were made, and its thermal and mechanical properties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phonosmith.analysis.choice import all_entries, chosen_potential, largest_trainings
from phonosmith.analysis.documents import MaterialReport, PotentialReport, SamplingSummary
from phonosmith.evaluation.mechanics.documents import ElasticDoc, EosDoc
from phonosmith.evaluation.mechanics.eos import birch_murnaghan_energy
from phonosmith.evaluation.phonons.thermodynamics import thermal_properties
from phonosmith.report.charts.data import Axis, Chart, Panel, Series, rounded
from phonosmith.report.figures.phonons import TEMPERATURES, PhononCurves

_MEV = 1000.0
_RUNGS = ("delta", "transfer", "reference", "scratch", "foundation", "multihead", "delta+pft")
_CURVE_POINTS = 25
_MOST_CONSTANTS = 13
_EPOCHS = "epoch (0: the start)"


def thermal_chart(curves: PhononCurves) -> Chart:
    """Return harmonic thermodynamics of every side, per mole of primitive cells."""
    found = {
        side.name: thermal_properties(side.mesh.frequencies, side.mesh.weights, TEMPERATURES) for side in curves.sides
    }
    temperatures = [float(value) for value in TEMPERATURES]
    panels = [
        Panel(
            Axis("temperature (K)"),
            Axis(label),
            [Series(name, name, list(temperatures), rounded(getattr(one, field))) for name, one in found.items()],
        )
        for field, label in (
            ("heat_capacity", "Cᵥ (J/K/mol)"), ("entropy", "S (J/K/mol)"), ("free_energy", "F (kJ/mol)")
        )
    ]  # fmt: skip
    return Chart(
        "thermal",
        "Harmonic thermodynamics per mole of primitive cells; modes that are not real are left out",
        f"Heat capacity, entropy and free energy of {curves.formula} from 0 to 800 K: {', '.join(found)}.",
        panels,
    )


def ladder_chart(sampling: SamplingSummary) -> Chart:
    """Return the relaxations configurations were taken from: energy against step, chosen frames as dots."""
    series = []
    for index, factor in enumerate(sampling.volume_factors):
        look, name = _RUNGS[index % len(_RUNGS)], f"{100 * (factor - 1):+g} % volume".replace("-", "−")
        steps, energies = np.array(sampling.steps[index]) + 1, _MEV * np.array(sampling.energies[index])
        series.append(Series(name, look, rounded(steps), rounded(energies)))
        chosen = np.array(sampling.selected_steps[index]) + 1
        marks = rounded(_MEV * np.array(sampling.selected_energies[index]))
        # validation frames come from the unchanged volume
        series.append(Series(name, look, rounded(chosen), marks, "dots", hollow=abs(factor - 1) < 1e-9))
    return Chart(
        "sampling",
        f"Relaxations and the configurations taken from them ({sampling.n_atoms} atoms; open circles: validation)",
        f"Energy against step of {len(sampling.volume_factors)} relaxations; configurations are marked, equally spaced "
        "in energy.",
        [Panel(Axis("step of the relaxation + 1", log=True), Axis("energy above the last step (meV/atom)"), series)],
    )


def training_chart(entries: Sequence[PotentialReport], foundation: PotentialReport) -> Chart:
    """Return validation force error and loss of each training against the epoch; a dot marks the weights kept.

    Phonon errors stand beside them where there is a reference: that of the weights kept, and of what it started from.
    """
    panels = []
    for label, field in (
        ("validation force MAE (meV/Å)", "valid_force_mae"), ("validation loss (each strategy's own)", "valid_loss"),
    ):  # fmt: skip
        series = []
        for entry in entries:
            curve = entry.curve
            if curve is None:
                continue
            epochs, values = [float(epoch) for epoch in curve.epoch], getattr(curve, field)
            series.append(Series(entry.strategy, entry.strategy, rounded(epochs), rounded(values)))
            kept = [place for place, epoch in enumerate(curve.epoch) if epoch == curve.best_epoch]
            x, y = (rounded(one[place] for place in kept) for one in (epochs, values))
            series.append(Series(entry.strategy, entry.strategy, x, y, "dots"))
        panels.append(Panel(Axis(_EPOCHS), Axis(label, log=True), series))
    judged = [_phonons_of(entry, foundation) for entry in entries]
    if known := [one for one in judged if one is not None]:
        panels.append(Panel(Axis(_EPOCHS), Axis("phonon MAE (THz)", log=True), known))
    return Chart(
        "training",
        "Training curves; dots mark the weights kept" + (" (phonons: and the foundation)" if known else ""),
        f"Validation force error and loss against the epoch for {', '.join(entry.strategy for entry in entries)}.",
        panels,
    )


def _phonons_of(entry: PotentialReport, foundation: PotentialReport) -> Series | None:
    """Return the phonon errors that are known of a training; its start's is the foundation's unless it began anew."""
    if entry.curve is None or entry.phonons is None:
        return None
    known = [(entry.curve.best_epoch, entry.phonons.mae_thz, "weights kept")]
    if foundation.phonons is not None and entry.strategy != "scratch":
        known.insert(0, (0, foundation.phonons.mae_thz, "foundation"))
    return Series(
        entry.strategy,
        entry.strategy,
        [float(epoch) for epoch, _, _ in known],
        rounded(mae for _, mae, _ in known),
        "spans",
        labels=[f"{words}, epoch {epoch}: {mae:.3f} THz" for epoch, mae, words in known],
    )


def forces_chart(report: MaterialReport) -> Chart | None:
    """Return forces of the validation labels against those of the foundation and the chosen potential."""
    chosen = chosen_potential(report)
    parity = None if chosen is None else chosen.parity
    if chosen is None or parity is None:
        return None
    series = [
        Series(name, name, rounded(parity.label), rounded(values), "dots", small=True, label=label)
        for name, values, label in (
            ("foundation", parity.before, "before (foundation)"),
            (chosen.strategy, parity.after, f"after ({chosen.strategy})"),
        )
    ]
    return Chart(
        "forces",
        f"Forces of the validation labels ({len(parity.label)} of {parity.n_components} components)",
        f"Forces of the validation labels of {report.material} against those of the foundation and {chosen.strategy}.",
        [Panel(Axis("reference (meV/Å)"), Axis("potential (meV/Å)"), series, diagonal=True)],
    )


def labels_chart(report: MaterialReport) -> Chart | None:
    """Return force and phonon errors against the training labels.

    Where every training used one number of labels there is no curve: phonon errors are then drawn against force errors,
    a point per potential. None where nothing was compared with reference phonons and there is one number only.
    """
    trained: dict[str, list[PotentialReport]] = {}
    for entry in report.strategies:
        trained.setdefault(entry.strategy, []).append(entry)
    several = any(len({one.n_train for one in group}) > 1 for group in trained.values())
    if not several:
        known = [one for one in all_entries(report) if one.phonons is not None and one.valid_force_mae is not None]
        if len(known) < 2:
            return None
        series = [
            Series(one.strategy, one.strategy, rounded([one.valid_force_mae]), rounded([one.phonons.mae_thz]), "dots")
            for one in largest_trainings(known) if one.phonons is not None
        ]  # fmt: skip
        panels = [Panel(Axis("validation force MAE (meV/Å)", log=True), Axis("phonon MAE (THz)", log=True), series)]
        words = "Phonon error against force error, a point per potential (all were trained on the same labels)"
        return Chart("labels", words, f"{words}; the numbers are in the table of potentials.", panels)
    base = report.foundation
    panels = []
    for label, value in (
        ("validation force MAE (meV/Å)", lambda one: one.valid_force_mae),
        ("phonon MAE (THz)", lambda one: None if one.phonons is None else one.phonons.mae_thz),
    ):
        series = []
        for name, group in trained.items():
            line = sorted(group, key=lambda one: one.n_train)
            values = [value(one) for one in [base, *line]]
            if any(one is not None for one in values[1:]):
                series.append(
                    Series(name, name, [float(one.n_train) for one in [base, *line]], rounded(values), "spans")
                )
        if series:
            panels.append(Panel(Axis("training labels (0: the foundation)"), Axis(label, log=True), series))
    words = "Errors against the number of training labels"
    return Chart("labels", words, f"{words}: forces of the validation labels, and phonons where compared.", panels)


def energy_volume_chart(sides: Sequence[tuple[str, EosDoc]]) -> Chart:
    """Return energy against volume per atom, each from the minimum of its own fit; open points were left out of it."""
    series = []
    for name, side in sides:
        fit, atoms = side.fit, side.n_atoms
        volumes, energies = np.array(side.volumes) / atoms, _MEV * (np.array(side.energies) - fit.energy) / atoms
        out = np.array([i in fit.excluded or not side.converged[i] for i in range(len(volumes))])
        grid = np.linspace(volumes.min(), volumes.max(), _CURVE_POINTS)
        curve = birch_murnaghan_energy(grid * atoms, 0.0, fit.volume, fit.bulk_modulus, fit.bulk_modulus_derivative)
        series.append(Series(name, name, rounded(grid), rounded(_MEV * np.asarray(curve) / atoms)))
        for which, hollow in ((~out, False), (out, True)):
            if which.any():
                series.append(
                    Series(name, name, rounded(volumes[which]), rounded(energies[which]), "dots", hollow=hollow)
                )
    return Chart(
        "eos",
        "Energy against volume with Birch-Murnaghan fits; open points were left out of them",
        f"Energy above the minimum against volume per atom by {', '.join(name for name, _ in sides)}.",
        [Panel(Axis("volume (Å³/atom)"), Axis("energy above the minimum (meV/atom)"), series)],
    )


def independent_constants(tensor: Sequence[Sequence[float]], floor: float = 0.5) -> list[tuple[int, int]]:
    """Return the entries of a Voigt tensor that differ from those before them by more than ``floor`` GPa.

    Entries that symmetry makes equal (C22 = C11 of a cubic crystal) or zero are left out.
    """
    values = np.array(tensor, dtype=float)
    pairs = [(i, i) for i in range(6)] + [(i, j) for i in range(6) for j in range(i + 1, 6)]
    chosen: list[tuple[int, int]] = []
    for pair in pairs:
        known = [values[other] for other in chosen if (other[0] == other[1]) == (pair[0] == pair[1])]
        if abs(values[pair]) > floor and all(abs(values[pair] - value) > floor for value in known):
            chosen.append(pair)
    return chosen


def elastic_chart(sides: Sequence[tuple[str, ElasticDoc]]) -> Chart:
    """Return the independent elastic constants (of the first side), moduli and Slack conductivity."""
    pairs = independent_constants(sides[0][1].fit.tensor)[:_MOST_CONSTANTS]
    ticks = [f"C{i + 1}{j + 1}".translate(str.maketrans("123456", "₁₂₃₄₅₆")) for i, j in pairs] + ["K", "G"]
    places = [float(place) for place in range(len(ticks))]
    constants, conductivities = [], []
    for name, side in sides:
        moduli = side.fit.moduli
        values = [side.fit.tensor[i][j] for i, j in pairs]
        values += [float("nan")] * 2 if moduli is None else [moduli.bulk_vrh, moduli.shear_vrh]
        constants.append(Series(name, name, list(places), rounded(values), "bars"))
        if side.slack is not None:
            conductivities.append(Series(name, name, [0.0], rounded([side.slack.kappa]), "bars"))
    named = Axis("", ticks=list(zip(places, ticks, strict=True)))
    panels = [Panel(named, Axis("elastic constant (GPa)"), constants)]
    if conductivities:
        panels.append(Panel(Axis("", ticks=[(0.0, "κ Slack, 300 K")]), Axis("conductivity (W/m/K)"), conductivities))
    return Chart(
        "elastic",
        "Elastic constants, moduli and Slack conductivity",
        f"Independent elastic constants, bulk and shear modulus and Slack conductivity by "
        f"{', '.join(name for name, _ in sides)}; the values are in the table.",
        panels,
    )
