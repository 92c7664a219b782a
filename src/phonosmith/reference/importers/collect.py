"""Import of whatever finished calculations lie at a path: recognise, read, check, report."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ase import Atoms

from phonosmith.core.errors import InputError, PhonosmithError
from phonosmith.core.hashing import digest_bytes
from phonosmith.reference.datasets.documents import Refusal, SourceReport
from phonosmith.reference.datasets.geometry import same_geometry
from phonosmith.reference.importers.archives import (
    DEFAULT_LIMITS,
    Limits,
    bare_name,
    is_archive,
    iter_entries,
    read_bounded,
)
from phonosmith.reference.importers.frames import Steps, frames_of
from phonosmith.reference.importers.identity import (
    expectation_problem,
    identity_of,
    reduced_formula,
    sibling_problem,
)
from phonosmith.reference.importers.structures_json import frames_of_structures, is_structures_json
from phonosmith.reference.importers.taskdoc import frames_of_task, task_documents
from phonosmith.reference.vasp.outcar import parse_outcar
from phonosmith.reference.vasp.vasprun import parse_vasprun
from phonosmith.structures.extxyz import parse_each
from phonosmith.structures.labels import FUNCTIONAL, SETTINGS, SOURCE, labels_of, problems


@dataclass
class Taken:
    """What has been read from one source so far.

    Attributes
    ----------
    by_kind
        Frames by kind of file.
    """

    by_kind: dict[str, list[Atoms]] = field(default_factory=lambda: defaultdict(list))
    refused: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    force_constants: list[dict[str, Any]] = field(default_factory=list)
    n_files: int = 0
    digests: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, frames: list[Atoms], refused: Sequence[Refusal] = ()) -> None:
        """Take frames of one file."""
        self.n_files += 1
        self.by_kind[kind] += frames
        self.refused += refused

    def refuse(self, name: str, reason: str) -> None:
        """Note a file that gave nothing."""
        self.n_files += 1
        self.refused.append(Refusal(where=name, reason=reason))


def kind_of(name: str) -> str | None:
    """Guess from a file's name (compression ending removed) what it holds; None for files of no interest."""
    base = PurePosixPath(name).name
    lower = base.lower()
    if lower.endswith(".xml") and "vasprun" in lower:
        return "vasprun"
    if base.startswith("OUTCAR") or base.endswith(("OUTCAR", ".outcar")):
        return "outcar"
    if lower.endswith((".xyz", ".extxyz")):
        return "extxyz"
    if lower.endswith((".yaml", ".yml")) and ("phonopy" in lower or "phono3py" in lower):
        return "phonopy"
    if lower.endswith((".json", ".jsonl")):
        return "json"
    return None


def import_source(
    path: str | Path,
    *,
    steps: Steps = "all",
    functional: str | None = None,
    expect: Mapping[str, str] | None = None,
    allow_rehearsal: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[list[Atoms], SourceReport]:
    """Return the labelled frames at a path and a report on every refusal.

    Parameters
    ----------
    path
        Folder, tar or zip archive, vasprun.xml, OUTCAR, extended XYZ, phonopy YAML, or JSON of atomate2 documents.
    steps
        "all" converged ionic steps of a run, or the "last".
    functional
        Functional of labels whose files do not name one; a file that names another is refused.
    expect
        Expected reduced formula by material name (see ``identity.read_expectations``).
    allow_rehearsal
        Take labels of the VASP stand-in; they stay marked ``rehearsal``.
    limits
        Bounds on what is read.

    Raises
    ------
    InputError
        When the path does not exist.
    """
    source = Path(path)
    if not source.exists():
        raise InputError(f"{source} does not exist.", "Check the path.")
    taken = Taken()
    try:
        if source.is_dir() or is_archive(source):
            _take_many(taken, source, steps, limits, prefix="")
        else:
            _take_content(taken, source.name, read_bounded(source, limits), steps, source)
    except InputError as error:
        # a damaged archive or a bomb ends its own source only; what was read before was checked file by file
        taken.refuse(source.name, error.message)
    _refuse_wrong_identity(taken, dict(expect or {}))
    _refuse_twins(taken)
    if not allow_rehearsal:
        _refuse_rehearsals(taken)
    _drop_doubles(taken)
    _declare(taken, functional)
    if not (taken.by_kind or taken.refused or taken.notes or taken.force_constants):
        taken.notes.append("nothing in it is vasprun.xml, OUTCAR, extended XYZ, phonopy YAML or atomate2 JSON")
    return _report(taken, source)


def _take_many(taken: Taken, source: Path, steps: Steps, limits: Limits, prefix: str) -> None:
    """Read every file of interest of a folder or archive; archives inside a folder are read, inside archives not."""
    for entry in iter_entries(source, lambda name: kind_of(name) is not None, limits):
        if entry.data is None:
            taken.refuse(prefix + entry.name, entry.refusal or "not readable")
        else:
            _take_content(taken, prefix + entry.name, entry.data, steps, entry.path)
    if source.is_dir():
        for inner in sorted(p for p in source.rglob("*") if p.is_file() and not p.is_symlink() and is_archive(p)):
            try:
                _take_many(taken, inner, steps, limits, prefix=f"{inner.relative_to(source).as_posix()}/")
            except InputError as error:
                taken.refuse(inner.relative_to(source).as_posix(), error.message)


def _take_content(taken: Taken, name: str, data: bytes, steps: Steps, real: Path | None) -> None:
    """Read one file; whatever is wrong with it becomes a refusal."""
    kind = kind_of(bare_name(name)) or _sniff(data)
    try:
        if kind == "vasprun":
            taken.add(kind, *frames_of(parse_vasprun(data, name), name, steps=steps))
        elif kind == "outcar":
            taken.add(kind, *frames_of(parse_outcar(data, name), name, steps=steps))
        elif kind == "extxyz":
            _take_xyz(taken, name, data)
        elif kind == "phonopy":
            _take_phonopy(taken, name, real)
        elif kind == "json":
            _take_json(taken, name, data, steps)
        else:
            taken.refuse(name, "it is none of vasprun.xml, OUTCAR, extended XYZ, phonopy YAML or atomate2 JSON")
    except PhonosmithError as error:
        taken.refuse(name, error.message)
    if kind is not None:
        taken.digests[digest_bytes(data)].append(name)


def _sniff(data: bytes) -> str | None:
    head = data[:4096].lstrip()
    if b"<modeling" in head:
        return "vasprun"
    if head.startswith(b"vasp."):
        return "outcar"
    if head[:1] in (b"{", b"["):
        return "json"
    first, _, rest = head.partition(b"\n")
    if first.strip().isdigit() and (b"Properties=" in rest or b"Lattice=" in rest):
        return "extxyz"
    if b"phonopy:" in head:
        return "phonopy"
    return None


def _take_xyz(taken: Taken, name: str, data: bytes) -> None:
    frames: list[Atoms] = []
    refused: list[Refusal] = []
    for index, item in enumerate(parse_each(data.decode("utf-8", errors="replace"), name)):
        wrong = [item.message] if isinstance(item, InputError) else problems(item, ("forces",))
        if isinstance(item, InputError) or wrong:
            refused.append(Refusal(where=f"{name}, frame {index}", reason="; ".join(wrong)))
        else:
            item.info.setdefault(SOURCE, name)
            frames.append(item)
    taken.add("extxyz", frames, refused)


def _take_phonopy(taken: Taken, name: str, real: Path | None) -> None:
    from phonosmith.harmonic.displacements import has_forces
    from phonosmith.harmonic.files import displaced_frames, load_phonopy

    if real is None:
        taken.refuse(name, "phonopy files inside an archive are not read: unpack it, they belong to files beside them")
        return
    phonon = load_phonopy(real, produce=False)
    if not has_forces(phonon):
        if phonon.force_constants is not None:
            taken.n_files += 1
            _note_constants(taken, phonon, name)
        else:
            taken.notes.append(f"{name} plans displacements that were not calculated beside it")
        return
    frames = displaced_frames(phonon)
    for frame in frames:
        frame.info[SOURCE] = name
    if problem := sibling_problem(real, reduced_formula(frames[0])):
        taken.refuse(name, problem)
        return
    _note_constants(taken, phonon, name)
    forces = np.concatenate([np.asarray(labels_of(frame).forces) for frame in frames])
    # VASP prints eight decimals; forces of a potential carry all sixteen digits
    if np.abs(forces * 1e8 - np.round(forces * 1e8)).max() > 1e-2:
        taken.notes.append(f"{name}: forces carry more digits than VASP prints; are they a potential's, not DFT's?")
    taken.add("phonopy", frames)


def _note_constants(taken: Taken, phonon: Any, name: str) -> None:
    from phonosmith.harmonic.displacements import atoms_of, displacements_and_forces

    moved = forces = None
    if phonon.dataset:
        moved, forces, _ = displacements_and_forces(phonon.dataset, len(phonon.supercell))
    taken.force_constants.append(
        {
            "path": name,
            "formula": reduced_formula(atoms_of(phonon.primitive)),
            "supercell_atoms": len(phonon.supercell),
            "displacements": 0 if moved is None else len(moved),
            "largest_displacement": None if moved is None else float(np.abs(moved).max()),
            "largest_force": None if forces is None else float(np.abs(forces).max()),
            "force_constants_stored": phonon.force_constants is not None,
        }
    )


def _take_json(taken: Taken, name: str, data: bytes, steps: Steps) -> None:
    text = data.decode("utf-8", errors="replace")
    try:
        tree = (
            [json.loads(line) for line in text.splitlines() if line.strip()] if ".jsonl" in name else json.loads(text)
        )
    except (ValueError, RecursionError) as error:
        taken.refuse(name, f"it is not valid JSON: {error}")
        return
    if is_structures_json(tree):
        taken.add("structures", *frames_of_structures(tree, name))
        return
    found = False
    for inner, document in task_documents(tree):
        found = True
        taken.add("taskdoc", *frames_of_task(document, f"{name}: {inner}", steps=steps))
    if not found:
        taken.refuse(name, "it holds no labelled configuration (no energies with forces)")


def _refuse_wrong_identity(taken: Taken, expected: dict[str, str]) -> None:
    if not expected:
        return
    for kind, frames in taken.by_kind.items():
        kept, wrong = [], {}
        for frame in frames:
            name = str(frame.info.get(SOURCE, ""))
            problem = expectation_problem(name, reduced_formula(frame), expected)
            if problem:
                wrong[name] = problem
            else:
                kept.append(frame)
        taken.by_kind[kind] = kept
        taken.refused += [Refusal(where=name, reason=reason) for name, reason in wrong.items()]


def _refuse_rehearsals(taken: Taken) -> None:
    for kind, frames in taken.by_kind.items():
        fake = sorted(str(frame.info.get(SOURCE, "?")) for frame in frames if frame.info.get("rehearsal"))
        if kind != "extxyz":  # one calculation, one refusal; a dataset is refused frame by frame
            fake = sorted(set(fake))
        reason = "it comes from a rehearsal with the VASP stand-in: its numbers are no DFT"
        taken.refused += [Refusal(where=name, reason=reason) for name in fake]
        taken.by_kind[kind] = [frame for frame in frames if not frame.info.get("rehearsal")]


def _refuse_twins(taken: Taken) -> None:
    """Refuse files of equal content under different names: at most one of the names can be right."""
    alive = {str(frame.info.get(SOURCE, "")) for frames in taken.by_kind.values() for frame in frames}
    for names in taken.digests.values():
        if len(names) < 2:
            continue
        for refusal in taken.refused:
            others = [name for name in names if name != refusal.where]
            if refusal.where in names and others:
                refusal.reason += f"; its content is identical to {', '.join(others)}"
        remaining = [name for name in names if name in alive and kind_of(name) == "phonopy"]
        # a copied calculation is a duplicate, which an audit drops; a phonon set is filed under its material's name
        if len({identity_of(name) for name in remaining}) < 2:
            continue
        for kind, frames in taken.by_kind.items():
            taken.by_kind[kind] = [f for f in frames if f.info.get(SOURCE) not in remaining]
        taken.force_constants = [c for c in taken.force_constants if c["path"] not in remaining]
        for name in remaining:
            twins = ", ".join(other for other in remaining if other != name)
            taken.refused.append(
                Refusal(where=name, reason=f"its content is identical to {twins}: one name is wrong; say --expect")
            )


def _drop_doubles(taken: Taken) -> None:
    """Take a calculation once: vasprun.xml before OUTCAR of the same folder, full labels before phonopy's forces."""
    folders = {str(PurePosixPath(str(f.info[SOURCE])).parent) for f in taken.by_kind.get("vasprun", [])}
    outcars = taken.by_kind.get("outcar", [])
    kept = [f for f in outcars if str(PurePosixPath(str(f.info[SOURCE])).parent) not in folders]
    if len(kept) < len(outcars):
        taken.by_kind["outcar"] = kept
        taken.notes.append(
            f"{len(outcars) - len(kept)} OUTCAR frames lie beside a vasprun.xml and were not taken twice"
        )
    full = [f for kind, frames in taken.by_kind.items() if kind != "phonopy" for f in frames]
    if not full or not taken.by_kind.get("phonopy"):
        return
    rest = [f for f in taken.by_kind["phonopy"] if not any(same_geometry(f, other) for other in full)]
    if len(rest) < len(taken.by_kind["phonopy"]):
        count = len(taken.by_kind["phonopy"]) - len(rest)
        taken.by_kind["phonopy"] = rest
        taken.notes.append(f"{count} displaced cells of phonopy are here as full calculations and were not taken twice")


def _declare(taken: Taken, functional: str | None) -> None:
    if functional is None:
        return
    for kind, frames in taken.by_kind.items():
        kept = []
        for frame in frames:
            named = frame.info.get(FUNCTIONAL)
            if named not in (None, functional):
                where = str(frame.info.get(SOURCE, "?"))
                taken.refused.append(Refusal(where=where, reason=f"its functional is {named}, not {functional}"))
            else:
                frame.info[FUNCTIONAL] = functional
                kept.append(frame)
        taken.by_kind[kind] = kept


def _report(taken: Taken, source: Path) -> tuple[list[Atoms], SourceReport]:
    frames = [frame for group in taken.by_kind.values() for frame in group]
    kinds = {kind: len(group) for kind, group in taken.by_kind.items() if group}
    functionals = Counter(str(frame.info.get(FUNCTIONAL, "unknown")) for frame in frames)
    named = sorted(functionals)
    single = None if not named or named == ["unknown"] else (named[0] if len(named) == 1 else "mixed")
    tried = [*taken.by_kind, "none"]
    return frames, SourceReport(
        path=str(source),
        kind=(next(iter(kinds)) if len(kinds) == 1 else "mixed") if kinds else tried[0],
        kinds=kinds,
        n_files=taken.n_files,
        n_frames=len(frames),
        n_refused=len(taken.refused),
        refused=taken.refused,
        functional=single,
        functionals=dict(functionals),
        settings=dict(Counter(str(frame.info.get(SETTINGS, "unknown")) for frame in frames)),
        formulas=dict(Counter(reduced_formula(frame) for frame in frames)),
        force_constants=taken.force_constants,
        notes=taken.notes,
    )
