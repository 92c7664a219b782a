"""A study of one material in a folder: the flow, what became of it, and what to do with the result."""

from __future__ import annotations

import base64
import io
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phonosmith.analysis.documents import MaterialReport, PotentialReport
from phonosmith.core.artefacts import default_artefacts, write_atomic
from phonosmith.core.errors import PhonosmithError
from phonosmith.core.identity import fix_identities
from phonosmith.core.metadata import stage_of
from phonosmith.engines.local.session import Outcome, carry_out, open_folder_store
from phonosmith.study.live import html_table, watching
from phonosmith.study.request import Request, StudyCost, cost_of

if TYPE_CHECKING:
    import pandas as pd
    from ase.calculators.calculator import Calculator
    from jobflow import Flow
    from matplotlib.figure import Figure

    from phonosmith.evaluation.phonons.comparison import ComparedPhonons
    from phonosmith.evaluation.verdict import Verdict

COLUMNS = (
    "strategy", "n_train", "phonon_mae_thz", "omega_max_error_percent", "entropy_error_percent",
    "valid_force_mae_mev_per_angstrom", "training_seconds", "fit",
)  # fmt: skip
"""Columns of `Study.table`; see docs/numbers.md."""


@dataclass(frozen=True)
class Number:
    """One of the numbers a verdict rests on, with what is allowed."""

    name: str
    value: float | None
    limit: float
    unit: str

    @property
    def within(self) -> bool:
        """The number is known and within its limit."""
        return self.value is not None and abs(self.value) <= self.limit


@dataclass(frozen=True)
class Best:
    """The potential of a study with the smallest phonon error."""

    entry: PotentialReport

    @property
    def strategy(self) -> str:
        """How it was trained."""
        return self.entry.strategy

    def save(self, path: str | Path) -> Path:
        """Write the model as a plain file of its architecture, which other programs read; return the path."""
        from phonosmith.potentials.registry import export_plain

        return export_plain(self.entry.potential, path)

    def calculator(self, **options: Any) -> Calculator:
        """Return an ASE calculator; ``dtype`` and ``device`` as in `PotentialCalculator`."""
        from phonosmith.potentials.calculator import PotentialCalculator

        return PotentialCalculator(self.entry.potential, **options)


class Study:
    """One material from crystal to verdict, in a folder that keeps everything; see :func:`phonosmith.tune`.

    Attributes
    ----------
    folder
        Store and run; what `write` and `report` write.
    cost
        What it takes.
    flow
        The jobflow flow of exactly this study: run here by `run`, or submitted by ``jobflow_remote.submit_flow``,
        ``flow_to_workflow`` and the like.
    outcome
        How the last `run` ended; None before.
    """

    def __init__(self, request: Request, folder: str | Path) -> None:
        self.request = request
        self.folder = Path(folder).expanduser().resolve()
        self.flow: Flow = fix_identities(request.maker().make(request.crystal, request.foundation, request.name))
        self.outcome: Outcome | None = None

    @cached_property
    def cost(self) -> StudyCost:
        """What the study takes, by the estimate of ``phonosmith plan``."""
        return cost_of(self.request)

    @property
    def _title(self) -> str:
        reference = self.request.reference
        return f"{self.request.name}, {self.request.foundation.name or 'foundation'} against {_called(reference)}"

    def run(self, *, show: bool = True) -> Study:
        """Do what is not done yet on this machine; interrupted or called again it goes on, failed jobs too."""
        from phonosmith.engines.local.runner import default_slots

        self.request.require_program()
        slots = default_slots()
        self.__dict__.pop("_material", None)
        self.outcome = carry_out(
            self.folder,
            self.flow,
            slots=slots,
            progress=partial(watching, self._title, self.folder, self.request.settings.mesh, len(slots))
            if show
            else False,
            again=lambda _: None,
            say=lambda words: print(words, file=sys.stderr),
        )
        if self.outcome.interrupted:
            raise KeyboardInterrupt
        return self

    @cached_property
    def _material(self) -> MaterialReport:
        """The report of the material, judged by the limits that hold now."""
        from phonosmith.analysis.judgement import rejudged

        job = next(job for job, _ in self.flow.iterflow() if stage_of(job.name, job.metadata) == "report")
        output = None
        if (self.folder / "store.sqlite").is_file():
            store = open_folder_store(self.folder)
            found = store.count({"uuid": job.uuid})
            output = store.get_output(job.uuid, load=True) if found else None
            store.close()
        if output is None:
            failed = [] if self.outcome is None else self.outcome.summary.failed
            reasons = "; ".join(f"{row.name}: {row.error}" for row in failed)
            raise PhonosmithError(
                f"The study of {self.request.name} has no report{f' ({reasons})' if reasons else ' yet'}.",
                f"Run it: study.run(), or the same 'phonosmith tune' again (folder {self.folder}).",
            )
        return rejudged(MaterialReport.model_validate(output))

    @property
    def finished(self) -> bool:
        """There is a report."""
        try:
            return bool(self._material)
        except PhonosmithError:
            return False

    @property
    def best(self) -> Best:
        """The fine-tuned potential with the smallest phonon error."""
        if not self._material.strategies:
            raise PhonosmithError(
                f"No training of {self.request.name} has a result: {'; '.join(self._material.notes)}.",
                "Mend the cause and run the study again.",
            )
        return Best(self._material.strategies[0])

    @property
    def verdict(self) -> Verdict:
        """The verdict on the best potential, with reasons, codes and numbers."""
        return self.best.entry.verdict

    @property
    def table(self) -> pd.DataFrame:
        """The foundation and every potential trained, one row each (`COLUMNS`; units in ``attrs``)."""
        from phonosmith.analysis.queries import read_results

        material = self._material
        store = open_folder_store(self.folder)
        potentials = read_results(store).potentials
        store.close()
        shas = [entry.potential.sha256 for entry in (material.foundation, *material.strategies)]
        ours = potentials[(potentials["material"] == material.material) & potentials["potential_sha256"].isin(shas)]
        return ours[list(COLUMNS)].reset_index(drop=True)

    def records(self) -> list[dict[str, Any]]:
        """Return the table as plain records; None where a number is not known."""
        return [
            {name: None if value is None or value != value else value for name, value in row.items()}  # noqa: PLR0124
            for row in self.table.astype(object).where(self.table.notna(), None).to_dict("records")
        ]

    @property
    def numbers(self) -> list[Number]:
        """The three numbers of the best potential beside their limits; none where its phonons failed."""
        from phonosmith.analysis.judgement import limits_of

        found, limits = self.best.entry.phonons, limits_of(self._material.limits)
        if found is None:
            return []
        ours, theirs = found.candidate.entropy, found.reference.entropy
        return [
            Number("phonon MAE", found.mae_thz, limits.phonon_mae_thz, "THz"),
            Number("ω_max error", found.omega_max_error_percent, limits.omega_max_percent, "%"),
            Number("S(300 K) error", 100 * (ours - theirs) / theirs if theirs else None, limits.thermal_percent, "%"),
        ]

    def plot_bands(self) -> Figure:
        """Return the figure of bands and densities of states: reference, foundation, best potential."""
        from phonosmith.report.figures.phonons import load_model, many_bands_figure, phonon_curves

        material, best = self._material, self.best.entry
        summaries = {
            "reference": material.reference_result.phonons,
            "foundation": material.foundation.summary,
            best.strategy: best.summary,
        }
        models = {name: load_model(one, default_artefacts()) for name, one in summaries.items() if one is not None}
        return many_bands_figure(phonon_curves(models))

    def plot_parity(self) -> Figure:
        """Return the figure of the best potential's frequencies against the reference's."""
        from phonosmith.report.figures.phonons import parity_figure

        return parity_figure(self._compared(), ("reference", self.best.strategy))

    def _compared(self) -> ComparedPhonons:
        from phonosmith.evaluation.phonons.comparison import compare_phonons_in_full
        from phonosmith.report.figures.phonons import load_model

        truth, ours = self._material.reference_result.phonons, self.best.entry.summary
        if truth is None or ours is None:
            raise PhonosmithError(
                f"There are no phonons of both sides of {self.request.name}.", "Look at the failed job; run it again."
            )
        store = default_artefacts()
        return compare_phonons_in_full(load_model(truth, store), load_model(ours, store), self.request.settings.mesh)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page about the study, by default ``report.html`` in its folder; return its path."""
        from phonosmith.report.page.html import write_report

        target = self.folder / "report.html" if path is None else Path(path)
        return write_report([self._material], target, title=self._title).path

    def write(self) -> dict[str, Path]:
        """Write page, report as JSON, table, figures and model into the folder; return the files by what they are."""
        from phonosmith.report.figures.style import save_figure

        files = {"report": self.report(), "document": self.folder / "report.json", "table": self.folder / "table.csv"}
        write_atomic(files["document"], (self._material.model_dump_json(indent=1) + "\n").encode())
        write_atomic(files["table"], self.table.to_csv(index=False).encode())
        if self._material.strategies:
            files["model"] = self.best.save(self.folder / f"{self.request.key}-{self.best.strategy}.model")
            if self.best.entry.phonons is not None:
                files["bands"] = save_figure(self.plot_bands(), self.folder / "bands.png")
                files["parity"] = save_figure(self.plot_parity(), self.folder / "parity.png")
        return files

    def words(self) -> str:
        """Return the verdict in a line."""
        verdict, best = self.verdict, self.best
        numbers = ", ".join(f"{one.name} {_shown(one)} (limit {one.limit:g} {one.unit})" for one in self.numbers)
        return f"{self.request.name}, {best.strategy}: {'fit' if verdict.fit else 'not fit'}; {numbers}. {self.basis}"

    @property
    def basis(self) -> str:
        """What the verdict is based on, in words."""
        reference = self._material.reference
        if self._material.rehearsal:
            return f"Judged against a rehearsal ({reference}): a test of the way, no statement about the material."
        if self.request.reference.name == "forcefield":
            return f"Judged against a potential ({reference}) in the place of DFT."
        return f"Judged against {reference}."

    def __repr__(self) -> str:
        if not self.finished:
            return f"Study({self._title}; no report yet, folder {self.folder})"
        return f"Study({self.words()})" if self._material.strategies else f"Study({self._title}; no potential)"

    def _repr_html_(self) -> str:
        if not self.finished or not self._material.strategies:
            return f"<p>{escape(repr(self))}</p><p>{escape(self.cost.words())}</p>"
        fit = self.verdict.fit
        colour, word = ("#1a7f37", "fit") if fit else ("#b42318", "not fit")
        badge = f'<span style="background:{colour};color:#fff;padding:2px 8px;border-radius:4px">{word}</span>'
        rows = [
            (one.name, _shown(one), f"{one.limit:g} {one.unit}", "yes" if one.within else "no") for one in self.numbers
        ]
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in self.verdict.reasons)
        picture = io.BytesIO()
        if self.numbers:
            self.plot_bands().savefig(picture, format="png", dpi=110)
        image = base64.b64encode(picture.getvalue()).decode()
        figure = (
            f'<img alt="Phonon bands of {escape(self._title)}" src="data:image/png;base64,{image}">' if image else ""
        )
        head = f"<p>{badge} {escape(self._title)}, {escape(self.best.strategy)}. {escape(self.basis)}</p>"
        table = html_table(("", "value", "limit", "within"), rows)
        return f"{head}{table}{f'<ul>{reasons}</ul>' if reasons else ''}{figure}"


def _called(reference: Any) -> str:
    return reference.functional if reference.name == "forcefield" else f"{reference.name} {reference.functional}"


def _shown(number: Number) -> str:
    if number.value is None:
        return "unknown"
    return f"{number.value:.3f} THz" if number.unit == "THz" else f"{number.value:+.2f} {number.unit}"
