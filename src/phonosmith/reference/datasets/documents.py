"""Documents of datasets, imports and audits."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from phonosmith.core.artefacts import ArtefactRef
from phonosmith.core.document import Document
from phonosmith.core.manifest import Manifest

Severity = Literal["warn", "exclude", "refuse"]
Verdict = Literal["pass", "pass_with_exclusions", "refuse"]


class DatasetRef(Document):
    """A set of labelled configurations by identity.

    The sha256 is over the ordered frames: cell, species, positions, energy, forces, stress, weights, head and settings.
    Two files that differ only in number formatting or free-text provenance are the same dataset.
    """

    sha256: str = Field(description="content hash over the ordered frames with their labels", pattern=r"^[0-9a-f]{64}$")
    name: str = Field("", description="human name")
    n_frames: int = Field(ge=0, description="number of configurations")
    n_atoms: int = Field(ge=0, description="atoms in all configurations together")
    elements: list[str] = Field(description="chemical symbols, by atomic number")
    n_energies: int = Field(0, description="frames with an energy label")
    n_forces: int = Field(0, description="frames with force labels")
    n_stresses: int = Field(0, description="frames with a stress label")
    n_spin_polarized: int = Field(0, description="frames computed with spin")
    n_moments: int = Field(0, description="frames that tell the magnetic moment of each atom")
    functionals: list[str] = Field(default_factory=list, description="exchange-correlation functionals of the labels")
    settings: list[str] = Field(default_factory=list, description="settings digests of the labels")
    sources: dict[str, int] = Field(default_factory=dict, description="frames by source")
    parents: list[str] = Field(default_factory=list, description="sha256 of the datasets it was made from")
    artefact: ArtefactRef = Field(description="extended XYZ file in the artefact store")

    @property
    def short(self) -> str:
        """First twelve digits of the hash."""
        return self.sha256[:12]


class SourceOffset(Document):
    """How far one source's energies lie from the reference source's."""

    source: str = Field(description="name of the source")
    n_frames: int = Field(description="frames with an energy")
    elements: dict[str, float] = Field(description="shift by element to subtract from this source's energies, eV/atom")
    per_atom: float = Field(description="mean of that shift over this source's atoms, eV/atom")
    uncertainty: float = Field(description="standard error of per_atom from the scatter of the energies, eV/atom")
    method: Literal["reference", "shared", "composition"] = Field(
        description="reference source; identical configurations in both; lowest energies at equal composition"
    )


class OffsetFit(Document):
    """Energy offsets between sources."""

    reference: str = Field(description="source whose energies stay")
    offsets: list[SourceOffset] = Field(description="one entry per source")
    undetermined: list[str] = Field(default_factory=list, description="sources without anything to compare with")


class Finding(Document):
    """One thing an audit noticed."""

    check: str = Field(description="which check: functional, settings, potcar, kpoints, energy_outlier, duplicate, ...")
    severity: Severity = Field(description="warn: look; exclude: those frames stay out; refuse: do not train")
    message: str = Field(description="what was found, with numbers and units")
    frames: list[int] = Field(default_factory=list, description="indices of the frames concerned")
    values: dict[str, Any] = Field(default_factory=dict, description="the numbers behind it")


class AuditOptions(Document, frozen=True):
    """Limits of an audit; the defaults suit frames of one material for phonons."""

    majority: float = Field(
        0.9, gt=0.5, le=1, description="fraction of frames from which a minority is merely excluded"
    )
    energy_window: float = Field(
        0.5, gt=0, description="energies within this of the median are never outliers, eV/atom"
    )
    energy_sigmas: float = Field(10.0, gt=0, description="energies beyond this many robust deviations are outliers")
    force_limit: float = Field(50.0, gt=0, description="larger forces are outliers, eV/Å")
    force_ratio: float = Field(20.0, gt=1, description="forces beyond this many times the typical largest are outliers")
    closest: float = Field(0.55, gt=0, description="smallest distance over the sum of covalent radii")
    ediff: float = Field(1e-6, gt=0, description="looser SCF thresholds are pointed out, eV")
    kspacing_ratio: float = Field(3.0, gt=1, description="coarsest over finest k-spacing of different cells")
    slope: float = Field(
        0.12, gt=0, description="tolerated deviation of energy change over work of forces or stress, in rough sets"
    )
    shift: float = Field(
        5e-5, gt=0, description="energies closer than this to the work of forces and stress are never odd, eV/atom"
    )
    offset: float = Field(0.005, gt=0, description="energy offsets between sources above this are pointed out, eV/atom")
    keep: float = Field(0.5, gt=0, le=1, description="smallest fraction of frames that must remain")
    allow_rehearsal: bool = Field(False, description="accept labels of the VASP stand-in")


class AuditDocument(Document):
    """Verdict on a dataset before training."""

    verdict: Verdict = Field(description="pass, pass_with_exclusions or refuse")
    reasons: list[str] = Field(description="messages of the findings that decided the verdict")
    n_frames: int = Field(description="frames looked at")
    n_kept: int = Field(description="frames left after exclusions")
    excluded: list[int] = Field(description="indices of the frames to leave out")
    findings: list[Finding] = Field(description="everything noticed, gravest first")
    functionals: dict[str, int] = Field(default_factory=dict, description="frames by functional")
    settings: dict[str, int] = Field(default_factory=dict, description="frames by settings digest")
    sources: dict[str, int] = Field(default_factory=dict, description="frames by source")
    offsets: OffsetFit | None = Field(None, description="energy offsets between groups of settings, where fitted")
    manifest: Manifest | None = Field(None, description="provenance")


class Refusal(Document):
    """A frame or file that was not imported."""

    where: str = Field(description="file, member of an archive, or frame")
    reason: str = Field(description="why, in one sentence")


class SourceReport(Document):
    """What came out of one source."""

    path: str = Field(description="path as given")
    kind: str = Field(description="vasprun, outcar, taskdoc, extxyz, phonopy, structures, mixed or none")
    kinds: dict[str, int] = Field(default_factory=dict, description="frames by kind, where a source mixes kinds")
    n_files: int = Field(0, description="calculations or files found")
    n_frames: int = Field(0, description="labelled frames taken")
    n_refused: int = Field(0, description="frames or files refused")
    refused: list[Refusal] = Field(default_factory=list, description="each refusal with its reason")
    functional: str | None = Field(None, description="functional of the labels, 'mixed', or null where unknown")
    functionals: dict[str, int] = Field(default_factory=dict, description="frames by functional")
    settings: dict[str, int] = Field(default_factory=dict, description="frames by settings digest")
    formulas: dict[str, int] = Field(default_factory=dict, description="frames by reduced formula")
    force_constants: list[dict[str, Any]] = Field(
        default_factory=list, description="phonon data sets found: formula, atoms, displacements, largest force"
    )
    notes: list[str] = Field(default_factory=list, description="anything a careful reader should know")


class ImportDocument(Document):
    """Result of an import."""

    n_frames: int = Field(description="frames written")
    n_refused: int = Field(description="frames or files refused over all sources")
    sources: list[SourceReport] = Field(description="one report per path given")
    dataset: DatasetRef | None = Field(None, description="identity of what was written")
    manifest: Manifest | None = Field(None, description="provenance")
