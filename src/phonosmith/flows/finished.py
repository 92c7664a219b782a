"""A finished phonon calculation in the place of the reference: its force constants are truth and labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from phonosmith.analysis.documents import AuditedLabels
from phonosmith.core.artefacts import ArtefactRef, default_artefacts
from phonosmith.core.changing import job
from phonosmith.core.document import Document
from phonosmith.core.errors import ConfigurationError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.known import large_parts_apart
from phonosmith.evaluation.phonons.documents import LARGE, PhononDoc
from phonosmith.reference.engines import EngineName, ReferenceEngine
from phonosmith.reference.protocol import Calculation, ReferenceProtocol

if TYPE_CHECKING:
    from jobflow import Maker
    from pymatgen.core import Structure

    from phonosmith.flows.settings import MaterialSettings


class FinishedPhonons(ReferenceEngine, frozen=True):
    """A reference whose phonons exist and that calculates nothing any more."""

    name: EngineName | Literal["phonopy"] = Field("phonopy", description="what wrote the file")
    protocol: ReferenceProtocol = Field(default_factory=ReferenceProtocol, description="unknown: the file has none")
    source: str = Field(description="name of the file")
    force_constants: ArtefactRef = Field(description="compact force constants with the cells they belong to (npz)")
    supercell_matrix: list[list[int]] = Field(description="phonopy's matrix of the calculation")
    n_displacements: int = Field(0, description="displaced cells of the calculation; 0: not known")

    @property
    def functional(self) -> str:
        """The name of the file: what was calculated in it is not known."""
        return self.source

    def maker(self, calculation: Calculation, name: str) -> Maker:
        """Refuse every calculation."""
        raise ConfigurationError(
            f"{self.source} is a finished calculation: nothing calculates {name} ({calculation}).",
            "Name an engine or a potential as the reference.",
        )

    def require(self, settings: MaterialSettings) -> None:
        """Refuse settings that ask it for calculations."""
        asked = [f"evaluate: {kind}" for kind in settings.evaluate if kind not in ("phonons", "forgetting")]
        asked += [f"{name}: true" for name in ("relax", "nac") if getattr(settings, name)]
        asked += ["mode: production"] if settings.mode != "comparison" else []
        asked += [name for name in ("n_train", "learning_curve", "adaptive") if getattr(settings, name)]
        if asked:
            raise ConfigurationError(
                f"{', '.join(asked)} cannot be had from {self.source}, which holds force constants alone.",
                "Leave it out, or name an engine or a potential as the reference.",
            )


def finished_phonons(path: str | Path) -> tuple[Structure, FinishedPhonons]:
    """Return the crystal of phonopy's files (see `read_phonopy`) and the reference they are.

    InputError where they hold neither forces nor force constants.
    """
    from phonosmith.harmonic.files import load_harmonic
    from phonosmith.harmonic.model import store_force_constants, to_structure
    from phonosmith.reference.importers.beside import calculations_beside

    model = load_harmonic(path, calculations=calculations_beside)
    dataset = model.phonon.dataset or {}
    reference = FinishedPhonons(
        source=Path(path).name,
        force_constants=store_force_constants(model, default_artefacts()),
        supercell_matrix=[[int(number) for number in row] for row in model.phonon.supercell_matrix],
        n_displacements=len(dataset.get("first_atoms") or dataset.get("displacements", ())),
    )
    return to_structure(model.phonon.unitcell), reference


class FinishedLabels(Document):
    """What a finished phonon calculation gives to train on."""

    labels: AuditedLabels = Field(description="made from the force constants")
    curvature: ArtefactRef = Field(description="phonopy file of the force constants in a small supercell")


@job(output_schema=PhononDoc)
@large_parts_apart(*LARGE)
def phonons_of_file(reference: Any, mesh: int) -> PhononDoc:
    """Return the document of a finished calculation (a `FinishedPhonons`)."""
    from phonosmith.evaluation.phonons.summary import summarise_phonons
    from phonosmith.harmonic.model import unpack_force_constants

    held = FinishedPhonons.model_validate(reference)
    with recorded({"force_constants": held.force_constants.sha256}, {"mesh": mesh}) as manifest:
        model = unpack_force_constants(default_artefacts().get_bytes(held.force_constants))
        document = summarise_phonons(model, manifest, mesh=mesh)
    return document.model_copy(update={"n_displacements": held.n_displacements})


@job(output_schema=FinishedLabels)
def labels_of_file(reference: Any, material: str, seed: int) -> FinishedLabels:
    """Make labels from the force constants of a finished calculation, audit and keep them (`dataset_from_phonons`)."""
    from phonosmith.flows.jobs import audited
    from phonosmith.harmonic.files import phonopy_yaml
    from phonosmith.harmonic.model import unpack_force_constants
    from phonosmith.harmonic.oracle import dataset_from_phonons
    from phonosmith.reference.documents import LabelReport

    held = FinishedPhonons.model_validate(reference)
    data = dataset_from_phonons(unpack_force_constants(default_artefacts().get_bytes(held.force_constants)), seed=seed)
    report = LabelReport(
        material=material,
        engine=held.name,
        protocol_digest=held.force_constants.sha256,
        n_frames=len(data.train) + len(data.valid),
    )
    labels = audited(report, {"train": data.train, "valid": data.valid})
    text = phonopy_yaml(data.phonon)
    return FinishedLabels(
        labels=labels.model_copy(update={"findings": [*labels.findings, *data.notes]}),
        curvature=default_artefacts().put_bytes(text.encode(), kind="force_constants", suffix=".yaml"),
    )
