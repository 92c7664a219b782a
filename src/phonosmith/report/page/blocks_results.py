"""Blocks of a material's section about its results: phonons, thermal, elastic, EOS, stability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phonosmith.core.errors import PhonosmithError
from phonosmith.report.figures.bands import many_bands_figure, many_thermal_figure
from phonosmith.report.figures.mechanics import elastic_figure, energy_volume_figure
from phonosmith.report.figures.phonon_curves import PhononCurves, load_model, phonon_curves
from phonosmith.report.figures.pictures import reason_of
from phonosmith.report.page.blocks_inputs import matrix_text
from phonosmith.report.page.content import NOTHING, Block, Cell, Table, number, space_group_text, whole
from phonosmith.report.page.potential_tables import entry_name, one_per_strategy

if TYPE_CHECKING:
    from phonosmith.analysis.documents import MaterialReport, PhononSummary
    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.evaluation.mechanics.documents import ElasticDoc, EosDoc
    from phonosmith.report.figures.pictures import Gallery

MOST_DRAWN = 6
"""Potentials in one figure of bands; more cannot be told apart."""


def summaries(report: MaterialReport) -> dict[str, PhononSummary]:
    """Return the phonons to draw by name: reference, potentials with the best first, foundation."""
    found = {}
    if report.reference_result.phonons is not None:
        found["reference"] = report.reference_result.phonons
    base, *tuned = one_per_strategy(report)
    for name, entry in [*tuned[: MOST_DRAWN - 1], base]:
        if entry.summary is not None:
            found[name] = entry.summary
    return found


def load_curves(report: MaterialReport, artefacts: ArtefactStore, problems: list[str]) -> PhononCurves | None:
    """Return the curves of a material's phonons; force constants that are not there become sentences."""
    models = {}
    for name, summary in summaries(report).items():
        try:
            models[name] = load_model(summary, artefacts)
        except PhonosmithError as error:
            problems.append(f"The phonons of {name} cannot be drawn: {error.message}")
    if not models:
        return None
    try:
        curves = phonon_curves(models)
    except Exception as error:  # noqa: BLE001 - numerical libraries fail in many ways; the page goes on and says it
        problems.append(f"The phonons of {report.material} cannot be drawn: {reason_of(error)}")
        return None
    problems.extend(f"{name} is not drawn: {why}" for name, why in curves.left_out.items())
    return curves


def phonons_block(report: MaterialReport, curves: PhononCurves | None, gallery: Gallery, problems: list[str]) -> Block:
    """Return bands with densities of states and the comparison in numbers."""
    block = Block("Phonons", problems=problems)
    rows = []
    for _, entry in one_per_strategy(report):
        found = entry.phonons
        if found is not None:
            rows.append(
                [
                    Cell(entry_name(entry, report)),
                    number(found.mae_thz),
                    number(found.rmse_thz),
                    number(found.candidate.omega_max_thz, 2),
                    number(found.omega_max_error_percent, 2, signed=True),
                    number(found.omega_mean_error_percent, 2, signed=True),
                    number(found.dos_error_percent, 1),
                    number(found.candidate.asr_residual, 6),
                ]
            )
    if rows:
        columns = (
            "potential", "MAE, THz", "RMSE, THz", "ω_max, THz", "ω_max error, %", "ω_mean error, %", "DOS error, %",
            "sum rule violated by, eV/Å²",
        )  # fmt: skip
        block.tables = [Table(f"Phonons of {report.material} against the reference", columns, rows, sortable=True)]
    reference = report.reference_result.phonons
    if reference is not None:
        block.facts = [
            (
                "displaced cells of the reference",
                f"{reference.n_displacements} with {reference.n_atoms_supercell} atoms",
            ),
            ("supercell", matrix_text(reference.supercell_matrix)),
            ("highest frequency of the reference", f"{reference.omega_max_thz:.3f} THz"),
        ]
    elif report.mode == "production":
        block.texts = ["Production mode: no reference phonons were calculated; the potentials are drawn alone."]
    if curves is not None:
        names = ", ".join(side.name for side in curves.sides)
        errors = [
            f"{name} {entry.phonons.mae_thz:.3f} THz"
            for name, entry in one_per_strategy(report)
            if entry.phonons is not None
        ]
        block.pictures = gallery.draw(
            "bands",
            lambda: many_bands_figure(curves),
            f"Phonon bands and densities of states of {report.material}: {names}."
            + (f" Mean absolute errors: {', '.join(errors)}." if errors else ""),
            f"Phonon bands and density of states of {report.material}; reference black, imaginary modes below zero",
        )
    for entry in [report.foundation, *report.strategies]:
        if entry.phonons is not None:
            block.texts += [f"{entry_name(entry, report)}: {note}" for note in entry.phonons.notes]
    return block


def thermal_block(report: MaterialReport, curves: PhononCurves | None, gallery: Gallery) -> Block:
    """Return harmonic heat capacity, entropy and free energy."""
    block = Block("Thermal properties")
    compared = [(entry_name(entry, report), entry.phonons) for _, entry in one_per_strategy(report)]
    sides = [(name, found.candidate) for name, found in compared if found is not None]
    known = next((found for _, found in compared if found is not None), None)
    if known is not None:
        sides.insert(0, ("reference", known.reference))
        rows = [
            [
                Cell(name),
                number(side.heat_capacity, 2),
                number(side.entropy, 2),
                number(side.free_energy, 3),
                number(100 * side.imaginary_share, 2),
            ]
            for name, side in sides
        ]
        columns = ("potential", "C_v, J/K/mol", "S, J/K/mol", "F, kJ/mol", "modes left out (not real), %")
        caption = f"Thermodynamics of {report.material} at {known.temperature:g} K, per mole of primitive cells"
        block.tables = [Table(caption, columns, rows)]
    if curves is not None:
        block.pictures = gallery.draw(
            "thermal",
            lambda: many_thermal_figure(curves),
            f"Heat capacity, entropy and free energy of {report.material} from 0 to 800 K: "
            f"{', '.join(side.name for side in curves.sides)}.",
            "Harmonic thermodynamics per mole of primitive cells; modes that are not real are left out",
        )
    return block


def elastic_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return elastic constants, moduli and Slack conductivity."""
    block = Block("Elastic properties")
    sides: list[tuple[str, str, ElasticDoc]] = []
    if report.reference_result.elastic is not None:
        sides.append(("reference", "reference", report.reference_result.elastic))
    sides += [
        (name, entry_name(entry, report), entry.elastic)
        for name, entry in one_per_strategy(report)
        if entry.elastic is not None
    ]
    if not sides:
        return block
    rows = []
    for _, label, document in sides:
        fit, moduli, slack = document.fit, document.fit.moduli, document.slack
        rows.append(
            [
                Cell(label),
                number(None if moduli is None else moduli.bulk_vrh, 1),
                number(None if moduli is None else moduli.shear_vrh, 1),
                number(None if slack is None else slack.poisson, 3),
                number(None if slack is None else slack.debye_temperature, 0),
                number(None if slack is None else slack.gruneisen, 2),
                number(None if slack is None else slack.kappa, 2),
                Cell("stable", tone="good") if fit.born_stable else Cell("unstable", tone="bad"),
                Cell("yes") if fit.reliable and not document.n_unconverged else Cell("no", tone="warn"),
            ]
        )
        block.texts += [f"{label}: {warning}" for warning in fit.warnings]
    columns = (
        "potential", "bulk modulus, GPa", "shear modulus, GPa", "Poisson ratio", "Debye temperature, K", "Grüneisen",
        "κ Slack, W/m/K", "Born", "reliable",
    )  # fmt: skip
    caption = f"Elastic properties of {report.material} (Voigt-Reuss-Hill)"
    block.tables = [Table(caption, columns, rows, sortable=True, numeric=frozenset(range(1, 7)))]
    block.pictures = gallery.draw(
        "elastic",
        lambda: elastic_figure([side[2] for side in sides], [side[0] for side in sides]),
        f"Independent elastic constants, bulk and shear modulus and Slack conductivity of {report.material} by "
        f"{', '.join(side[1] for side in sides)}; the values are in the table.",
        "Elastic constants, moduli and Slack conductivity",
    )
    return block


def eos_block(report: MaterialReport, gallery: Gallery) -> Block:
    """Return the equations of state."""
    block = Block("Equation of state")
    sides: list[tuple[str, EosDoc]] = []
    if report.reference_result.eos is not None:
        sides.append(("reference", report.reference_result.eos))
    sides += [(name, entry.eos) for name, entry in one_per_strategy(report) if entry.eos is not None]
    if not sides:
        return block
    rows = [
        [
            Cell(name),
            number(document.fit.volume / document.n_atoms, 3),
            number(document.fit.bulk_modulus, 1),
            number(document.fit.bulk_modulus_derivative, 2),
            number(1000 * document.fit.rms_residual / document.n_atoms, 3),
            whole(document.fit.n_points),
        ]
        for name, document in sides
    ]
    columns = ("potential", "volume, Å³/atom", "bulk modulus, GPa", "its derivative", "residual, meV/atom", "points")
    block.tables = [Table(f"Birch-Murnaghan fits of {report.material}", columns, rows, numeric=frozenset(range(1, 6)))]
    for name, document in sides:
        block.texts += [f"{name}: {words}" for words in (*document.fit.reasons, *document.fit.warnings)]
    block.pictures = gallery.draw(
        "eos",
        lambda: energy_volume_figure([side[1] for side in sides], [side[0] for side in sides]),
        f"Energy above the minimum against volume per atom of {report.material} by "
        f"{', '.join(side[0] for side in sides)}; equilibrium volumes are in the table.",
        "Energy against volume, with Birch-Murnaghan fits",
    )
    return block


def stability_block(report: MaterialReport) -> Block:
    """Return dynamical stability at commensurate wave vectors."""
    block = Block("Stability")
    rows = []
    found = [(entry_name(entry, report), entry.phonons) for _, entry in one_per_strategy(report)]
    compared = [(name, comparison) for name, comparison in found if comparison is not None]
    sides = [(name, comparison.candidate) for name, comparison in compared]
    if compared:
        sides.insert(0, ("reference", compared[0][1].reference))
    for name, side in sides:
        rows.append(
            [
                Cell(name),
                Cell("stable", tone="good") if side.stable else Cell("unstable", tone="warn"),
                Cell("stable", tone="good") if side.stable_practical else Cell("unstable", tone="warn"),
                whole(side.n_imaginary_commensurate),
                number(side.omega_min_thz, 3),
                Cell(f"{space_group_text(side.space_group)} ({side.space_group_number})"),
            ]
        )
    if rows:
        names = (
            "potential", "strict (1e-4 THz)", "practical", "imaginary modes", "lowest on path, THz",
            "space group after relaxation",
        )  # fmt: skip
        block.tables = [Table(f"Dynamical stability of {report.material}", names, rows)]
        return block
    alone = [
        [Cell(name), Cell("stable" if side.stable else "unstable"), Cell(space_group_text(side.space_group) or NOTHING)]
        for name, side in summaries(report).items()
    ]
    if alone:
        columns = ("potential", "strict (1e-4 THz)", "space group after relaxation")
        block.tables = [Table(f"Dynamical stability of {report.material} (no reference)", columns, alone)]
    return block
