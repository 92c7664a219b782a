"""Datasets: labelled configurations with an identity, nested subsets and merging with provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ase import Atoms
from ase.data import chemical_symbols

from phonosmith.core.artefacts import ArtefactStore, default_artefacts
from phonosmith.core.errors import ArtefactError, InputError
from phonosmith.core.hashing import digest_array, digest_atoms, digest_json
from phonosmith.reference.datasets.documents import DatasetRef
from phonosmith.structures.extxyz import format_frames, parse_frames
from phonosmith.structures.labels import (
    FUNCTIONAL,
    IDENTITY_KEYS,
    SETTINGS,
    SOURCE,
    SPIN,
    check_frames,
    labels_of,
    moments_of,
)


def frame_digest(atoms: Atoms) -> str:
    """Return the identity of one frame: configuration, labels, weights, head and settings."""
    labels = labels_of(atoms)
    return digest_json(
        {
            "configuration": digest_atoms(atoms),
            "energy": labels.energy,
            "forces": None if labels.forces is None else digest_array(labels.forces),
            "stress": None if labels.stress is None else digest_array(labels.stress),
            "info": {key: _scalar(atoms.info[key]) for key in IDENTITY_KEYS if key in atoms.info},
        }
    )


def _scalar(value: object) -> object:
    """Numbers are one kind: a weight of 1 and of 1.0 is the same weight."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def dataset_digest(frames: Sequence[Atoms]) -> str:
    """Return the identity of an ordered set of frames."""
    return digest_json([frame_digest(atoms) for atoms in frames])


def put_dataset(
    frames: Sequence[Atoms], *, name: str = "", parents: Sequence[str] = (), store: ArtefactStore | None = None
) -> DatasetRef:
    """Keep labelled frames, in the order that counts, in the artefact store and return their reference.

    ``parents`` are the sha256 of the datasets these frames came from; the store is the process's own by default.
    """
    if not frames:
        raise InputError("An empty dataset cannot be kept.", "Check what was selected.")
    check_frames(frames, name or "dataset")
    artefact = (store or default_artefacts()).put_bytes(format_frames(frames).encode(), kind="frames", suffix=".extxyz")
    labels = [labels_of(atoms) for atoms in frames]
    numbers = sorted({int(number) for atoms in frames for number in atoms.numbers})
    return DatasetRef(
        sha256=dataset_digest(frames),
        name=name,
        n_frames=len(frames),
        n_atoms=sum(len(atoms) for atoms in frames),
        elements=[chemical_symbols[number] for number in numbers],
        n_energies=sum(label.energy is not None for label in labels),
        n_forces=sum(label.forces is not None for label in labels),
        n_stresses=sum(label.stress is not None for label in labels),
        n_spin_polarized=sum(bool(atoms.info.get(SPIN)) for atoms in frames),
        n_moments=sum(moments_of(atoms).sites is not None for atoms in frames),
        functionals=sorted({str(atoms.info[FUNCTIONAL]) for atoms in frames if FUNCTIONAL in atoms.info}),
        settings=sorted({str(atoms.info[SETTINGS]) for atoms in frames if SETTINGS in atoms.info}),
        sources=dict(Counter(str(atoms.info.get(SOURCE, "unknown")) for atoms in frames)),
        parents=list(parents),
        artefact=artefact,
    )


def get_dataset(ref: DatasetRef, *, store: ArtefactStore | None = None) -> list[Atoms]:
    """Return the frames behind a reference; a missing or altered artefact, or one with other frames, raises."""
    text = (store or default_artefacts()).get_bytes(ref.artefact).decode()
    frames = parse_frames(text, f"dataset {ref.short}")
    if dataset_digest(frames) != ref.sha256:
        raise ArtefactError(
            f"Dataset {ref.short} does not hold the frames its reference names.",
            "The reference was edited or written by another version; import the data again.",
        )
    return frames


def subset(ref: DatasetRef, size: int, *, store: ArtefactStore | None = None) -> DatasetRef:
    """Keep the first ``size`` frames of a dataset, so that every smaller subset is contained in every larger one.

    It is a dataset of its own that names its parent.
    """
    if not 1 <= size <= ref.n_frames:
        raise InputError(f"A subset of {size} frames was asked of {ref.n_frames}.", f"Choose 1 to {ref.n_frames}.")
    frames = get_dataset(ref, store=store)[:size]
    return put_dataset(frames, name=f"{ref.name or ref.short}[:{size}]", parents=[ref.sha256], store=store)
