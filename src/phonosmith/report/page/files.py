"""Files a report offers for download: models, phonons, labels, documents, written beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from phonosmith.analysis.choice import chosen_potential
from phonosmith.core.artefacts import write_atomic
from phonosmith.report.figures.phonons import load_model
from phonosmith.report.page.content import Link, file_size, slug
from phonosmith.report.page.pictures import reason_of
from phonosmith.report.page.potential_tables import one_per_strategy

if TYPE_CHECKING:
    from phonosmith.analysis.documents import MaterialReport, PhononSummary
    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.potentials.documents import PotentialRef

FOLDER = "files"


def phonopy_yaml(summary: PhononSummary, artefacts: ArtefactStore) -> bytes:
    """Return stored phonons as the ``phonopy.yaml`` that phonopy reads, force constants inside."""
    model = load_model(summary, artefacts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phonopy.yaml"
        model.phonon.save(path, settings={"force_constants": True, "force_sets": False, "displacements": False})
        return path.read_bytes()


def _model_bytes(potential: PotentialRef, artefacts: ArtefactStore) -> bytes:
    from phonosmith.potentials.mace.files import export_plain

    with tempfile.TemporaryDirectory() as folder:
        return export_plain(potential, Path(folder) / "plain.model", store=artefacts).read_bytes()


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
        if chosen is not None and chosen.potential.architecture == "mace":
            ref = chosen.potential
            self.add(
                f"{self.name}-{slug(chosen.strategy)}.model",
                f"Model {chosen.strategy} for MACE, ASE and LAMMPS converters",
                lambda: _model_bytes(ref, self.artefacts),
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
        self.add(file, f"Phonons of {name} for phonopy", lambda: phonopy_yaml(summary, self.artefacts))

    def _add_bytes(self, file: str, text: str, sha256: str) -> None:
        self.add(file, text, lambda: self.artefacts.get_bytes(sha256))
