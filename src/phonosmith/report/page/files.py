"""Files a report offers for download: models, phonons, labels, documents, written beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from phonosmith.analysis.choice import chosen_potential, one_per_strategy
from phonosmith.analysis.documents import MaterialReport, PhononSummary
from phonosmith.core.artefacts import ArtefactStore, write_atomic
from phonosmith.harmonic.files import phonopy_yaml
from phonosmith.potentials.architecture import architecture
from phonosmith.potentials.registry import plain_bytes
from phonosmith.report.figures.phonons import load_model
from phonosmith.report.page.content import Link
from phonosmith.report.page.texts import file_size, reason_of, slug

FOLDER = "files"


class Exporter:
    """Writes one material's files below ``root/files`` and returns links; what cannot be written is said instead."""

    def __init__(self, root: Path, name: str, artefacts: ArtefactStore) -> None:
        self.root, self.name, self.artefacts = root, slug(name), artefacts
        self.links: list[Link] = []
        self.problems: list[str] = []

    def add(self, file: str, text: str, make: Callable[[], bytes]) -> None:
        """Write one file whole or not at all."""
        try:
            data = make()
            write_atomic(self.root / FOLDER / self.name / file, data)
        except Exception as error:  # noqa: BLE001 - whatever one file stumbles over, the report goes on and says it
            self.problems.append(f"{text} could not be exported: {reason_of(error)}")
            return
        href = quote(f"{FOLDER}/{self.name}/{file}")
        self.links.append(Link(f"{text} ({file}, {file_size(len(data))})", href))

    def export(self, report: MaterialReport) -> None:
        """Write model of the chosen potential, phonons, labels and the report itself."""
        chosen, store = chosen_potential(report), self.artefacts
        kind = None if chosen is None else architecture(chosen.potential.architecture)
        if chosen is not None and kind is not None and kind.plain_suffix:
            ref = chosen.potential
            self.add(
                f"{self.name}-{slug(chosen.strategy)}{kind.plain_suffix}",
                f"Model {chosen.strategy} for {kind.readers}",
                lambda: plain_bytes(ref, store),
            )
        summaries = {"reference": report.reference_result.phonons}
        summaries |= {name: entry.summary for name, entry in one_per_strategy(report)}
        for name, summary in summaries.items():
            if summary is not None:
                make = partial(_phonopy_bytes, summary, store)
                self.add(f"phonopy-{slug(name)}.yaml", f"Phonons of {name} for phonopy", make)
        for name, labels in (("training", report.labels.train), ("validation", report.labels.valid)):
            make = partial(store.get_bytes, labels.artefact.sha256)
            self.add(f"{name}.xyz", f"Labels for {name}, extended XYZ", make)
        self.add("report.json", "This report as a document", lambda: report.model_dump_json(indent=1).encode())


def _phonopy_bytes(summary: PhononSummary, artefacts: ArtefactStore) -> bytes:
    return phonopy_yaml(load_model(summary, artefacts).phonon).encode()
