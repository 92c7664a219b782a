"""Files a report offers for download: models, phonons, labels, documents, written beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from phonosmith.analysis.choice import chosen_potential
from phonosmith.core.artefacts import write_atomic
from phonosmith.harmonic.files import phonopy_yaml
from phonosmith.potentials.architecture import architecture
from phonosmith.potentials.registry import plain_bytes
from phonosmith.report.figures.phonons import load_model
from phonosmith.report.page.content import Link, file_size, slug
from phonosmith.report.page.pictures import reason_of
from phonosmith.report.page.potential_tables import one_per_strategy

if TYPE_CHECKING:
    from phonosmith.analysis.documents import MaterialReport, PhononSummary
    from phonosmith.core.artefacts import ArtefactStore

FOLDER = "files"


class Exporter:
    """Writes one material's files and returns links to them; what cannot be written is said instead.

    Parameters
    ----------
    root
        Folder of the HTML file.
    name
        Folder of the material below ``root/files``.
    artefacts
        Where everything comes from.
    """

    def __init__(self, root: Path, name: str, artefacts: ArtefactStore) -> None:
        self.root, self.name, self.artefacts = root, slug(name), artefacts
        self.links: list[Link] = []
        self.problems: list[str] = []

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.root / FOLDER / self.name

    def add(self, file: str, text: str, make: Callable[[], bytes]) -> None:
        """Write one file whole or not at all."""
        try:
            data = make()
            write_atomic(self.folder / file, data)
        except Exception as error:  # noqa: BLE001 - whatever one file stumbles over, the report goes on and says it
            self.problems.append(f"{text} could not be exported: {reason_of(error)}")
            return
        href = quote(f"{FOLDER}/{self.name}/{file}")
        self.links.append(Link(f"{text} ({file}, {file_size(len(data))})", href, len(data)))

    def export(self, report: MaterialReport) -> None:
        """Write model of the chosen potential, phonons, labels and the report itself."""
        chosen = chosen_potential(report)
        kind = None if chosen is None else architecture(chosen.potential.architecture)
        if chosen is not None and kind is not None and kind.plain_suffix:
            ref = chosen.potential
            self.add(
                f"{self.name}-{slug(chosen.strategy)}{kind.plain_suffix}",
                f"Model {chosen.strategy} for {kind.readers}",
                lambda: plain_bytes(ref, self.artefacts),
            )
        summaries = {"reference": report.reference_result.phonons}
        summaries |= {name: entry.summary for name, entry in one_per_strategy(report)}
        for name, summary in summaries.items():
            if summary is not None:
                self._add_phonons(name, summary)
        for name, dataset in (("training", report.labels.train), ("validation", report.labels.valid)):
            ref_data = dataset.artefact
            self._add_bytes(f"{name}.xyz", f"Labels for {name}, extended XYZ", ref_data.sha256)
        self.add("report.json", "This report as a document", lambda: report.model_dump_json(indent=1).encode())

    def _add_phonons(self, name: str, summary: PhononSummary) -> None:
        file = f"phonopy-{slug(name)}.yaml"
        self.add(
            file,
            f"Phonons of {name} for phonopy",
            lambda: phonopy_yaml(load_model(summary, self.artefacts).phonon).encode(),
        )

    def _add_bytes(self, file: str, text: str, sha256: str) -> None:
        self.add(file, text, lambda: self.artefacts.get_bytes(sha256))
