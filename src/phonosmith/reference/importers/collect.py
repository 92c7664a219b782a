"""Import of whatever finished calculations lie at a path: recognise, read, check, report, keep as one dataset."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ase import Atoms
from ase.formula import Formula

from phonosmith.core.errors import InputError, PhonosmithError
from phonosmith.core.hashing import digest_bytes
from phonosmith.core.manifest import recorded
from phonosmith.core.reading import DEFAULT_LIMITS, Limits, bare_name, load_json, read_bounded
from phonosmith.reference.datasets.dataset import put_dataset
from phonosmith.reference.datasets.documents import ImportDocument, Refusal, SourceReport
from phonosmith.reference.datasets.geometry import reduced_formula, same_geometry
from phonosmith.reference.importers.archives import is_archive, iter_entries
from phonosmith.reference.importers.frames import Read, Steps, add_moments, contradictions, frames_of, joined, judged
from phonosmith.reference.importers.structures_json import frames_of_structures, is_structures_json
from phonosmith.reference.importers.taskdoc import frames_of_task, read_jobstore, task_documents
from phonosmith.reference.vasp.outcar import parse_outcar
from phonosmith.reference.vasp.run import VaspRun
from phonosmith.reference.vasp.vasprun import parse_vasprun
from phonosmith.structures.extxyz import parse_each, require_writable, write_frames
from phonosmith.structures.labels import FUNCTIONAL, SETTINGS, SOURCE


def import_paths(
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    steps: Steps = "all",
    functional: str | None = None,
    expect: Sequence[str] = (),
    jobstore: bool = False,
    allow_rehearsal: bool = False,
) -> ImportDocument:
    """Import finished calculations into one dataset, see ``import_source``; it is kept in the artefact store as well.

    Parameters
    ----------
    out : extended XYZ file to write, if any; nothing is written when no frame was found
    expect : expected compositions, see ``read_expectations``
    jobstore : take the calculations in jobflow's configured JobStore too
    """
    if out is not None:
        require_writable(out)
    for path in paths:
        if not Path(path).exists():
            raise InputError(f"{path} does not exist.", "Check the path.")
    expected = read_expectations(expect)
    with recorded(settings={"steps": steps, "functional": functional, "expect": expected}) as manifest:
        sources = [
            import_source(path, steps=steps, functional=functional, expect=expected, allow_rehearsal=allow_rehearsal)
            for path in paths
        ]
        if jobstore:
            sources.append(_from_jobstore(steps, allow_rehearsal=allow_rehearsal))
        frames, reports = [atoms for taken, _ in sources for atoms in taken], [report for _, report in sources]
        dataset = None
        if frames:
            if out is not None:
                write_frames(out, frames)
            dataset = put_dataset(frames, name=Path(out).name if out is not None else "import")
            manifest.inputs["dataset"] = dataset.sha256
    return ImportDocument(
        n_frames=len(frames),
        n_refused=sum(report.n_refused for report in reports),
        sources=reports,
        dataset=dataset,
        manifest=manifest,
    )


def read_expectations(items: Sequence[str]) -> dict[str, str]:
    """Return expected reduced formulas by material.

    An item is ``name=Formula``, a CSV file with a column of names (id, material, mp_id, name) and one named formula, or
    a JSON file with a mapping or a list of such records.
    """
    expected: dict[str, str] = {}
    for item in items:
        path = Path(item)
        if "=" in item and not path.exists():
            name, _, formula = item.partition("=")
            records: Any = {name.strip(): formula.strip()}
        else:
            text = read_bounded(path).decode(errors="replace")
            try:
                table = csv.DictReader(text.splitlines())
                records = load_json(text, str(path)) if path.suffix == ".json" else list(table)
            except csv.Error as error:
                raise InputError(f"{path} is neither JSON nor CSV: {error}.", "Give name=Formula.") from error
        if isinstance(records, Mapping):
            records = [{"id": key, "formula": value} for key, value in records.items()]
        for record in records if isinstance(records, list) else [None]:
            said = record if isinstance(record, Mapping) else {}
            key = next((said[k] for k in ("id", "material", "mp_id", "name", "material_id") if said.get(k)), None)
            if not key or not said.get("formula"):
                raise InputError(f"{path} has no columns 'id' and 'formula'.", "Give name=Formula.")
            text = str(said["formula"])
            try:
                expected[str(key)] = reduced_formula(Formula(text))
            except (ValueError, KeyError, SyntaxError) as error:
                advice = "Write e.g. mp-2201=PbSe."
                raise InputError(f"{text!r} in {item} is not a chemical formula.", advice) from error
    return expected


@dataclass
class Taken:
    """What has been read from one source so far, and how it is read.

    ``names_by_content`` holds the names of phonopy files by the digest of their content, ``witnesses`` what OUTCARs say
    of the run in their folder.
    """

    steps: Steps
    allow_rehearsal: bool
    by_kind: dict[str, list[Atoms]] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    force_constants: list[dict[str, Any]] = field(default_factory=list)
    n_files: int = 0
    names_by_content: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    witnesses: dict[PurePosixPath, list[VaspRun]] = field(default_factory=lambda: defaultdict(list))

    @property
    def frames(self) -> list[Atoms]:
        """All frames."""
        return [frame for frames in self.by_kind.values() for frame in frames]

    def add(self, kind: str, frames: list[Atoms], refused: Sequence[Refusal] = ()) -> None:
        """Take frames of one file."""
        self.n_files += 1
        self.by_kind.setdefault(kind, []).extend(frames)
        self.refused += refused

    def drop(self, unwanted: Callable[[str, Atoms], bool]) -> list[Atoms]:
        """Leave out, and return, the frames for which a test of kind and frame is true."""
        dropped = []
        for kind, frames in self.by_kind.items():
            apart = [unwanted(kind, frame) for frame in frames]
            dropped += [frame for frame, out in zip(frames, apart, strict=True) if out]
            self.by_kind[kind] = [frame for frame, out in zip(frames, apart, strict=True) if not out]
        return dropped

    def refuse(self, name: str, reason: str) -> None:
        """Note a file that gave nothing."""
        self.n_files += 1
        self.refused.append(Refusal(where=name, reason=reason))


_KINDS = {
    "vasprun": (r"(?i).*vasprun.*\.xml", rb"(?s).*<modeling"),
    "outcar": (r"OUTCAR.*|.*OUTCAR|.*\.outcar", rb"\s*vasp\."),
    "json": (r"(?i).*\.jsonl?", rb"\s*[{\[]"),
    "extxyz": (r"(?i).*\.(ext)?xyz", rb"(?s)\s*\d+[ \t\r]*\n.*(Properties|Lattice)="),
    "phonopy": (r"(?i)(?=.*phono(py|3py)).*\.ya?ml", rb"(?s).*phonopy:"),
}
"""How each kind of file is called, and how it begins where its name says nothing."""


def kind_of(name: str) -> str | None:
    """Guess from a file's name (compression ending removed) what it holds; None for files of no interest."""
    base = PurePosixPath(name).name
    return next((kind for kind, (pattern, _) in _KINDS.items() if re.fullmatch(pattern, base)), None)


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
    path : folder, tar or zip archive, vasprun.xml, OUTCAR, extended XYZ, phonopy YAML, or JSON of atomate2 documents
    steps : "all" converged ionic steps of a run, or the "last"
    functional : that of labels whose files do not name one; a file that names another is refused
    expect : reduced formula by material name; a name is a folder of the path, or the file's name up to its first dot
    allow_rehearsal : take labels of the VASP stand-in; they stay marked ``rehearsal``
    """
    source = Path(path)
    if not source.exists():
        raise InputError(f"{source} does not exist.", "Check the path.")
    taken = Taken(steps, allow_rehearsal)
    try:
        if source.is_dir() or is_archive(source):
            _take_many(taken, source, limits, prefix="")
        else:
            _take_content(taken, source.name, read_bounded(source, limits), source)
    except InputError as error:
        # a damaged archive or a bomb ends its own source only; what was read before was checked file by file
        taken.refuse(source.name, error.message)
    _refuse_unexpected(taken, expect or {})
    _compare_with_outcars(taken)
    for names in taken.names_by_content.values():
        if len(names) > 1:  # a copied calculation the audit drops
            note = f"{', '.join(names)} have the same content: is one name wrong? Say --expect name=Formula"
            taken.notes.append(note)
    _drop_doubles(taken)
    if functional is not None:
        for frame in taken.drop(lambda _, frame: frame.info.get(FUNCTIONAL) not in (None, functional)):
            reason = f"its functional is {frame.info[FUNCTIONAL]}, not {functional}"
            taken.refused.append(Refusal(where=str(_source(frame)), reason=reason))
        for frame in taken.frames:
            frame.info[FUNCTIONAL] = functional
    if not (taken.by_kind or taken.refused or taken.notes or taken.force_constants):
        taken.notes.append("nothing in it is vasprun.xml, OUTCAR, extended XYZ, phonopy YAML or atomate2 JSON")
    return _report(taken, str(source))


def _take_many(taken: Taken, source: Path, limits: Limits, prefix: str) -> None:
    """Read every file of interest of a folder or archive; archives inside a folder are read, inside archives not."""
    for entry in iter_entries(source, lambda name: kind_of(name) is not None, limits):
        if entry.data is None:
            taken.refuse(prefix + entry.name, entry.refusal or "not readable")
        else:
            _take_content(taken, prefix + entry.name, entry.data, entry.path)
    if source.is_dir():
        for inner in sorted(p for p in source.rglob("*") if p.is_file() and not p.is_symlink() and is_archive(p)):
            try:
                _take_many(taken, inner, limits, prefix=f"{inner.relative_to(source).as_posix()}/")
            except InputError as error:
                taken.refuse(inner.relative_to(source).as_posix(), error.message)


def _take_content(taken: Taken, name: str, data: bytes, real: Path | None) -> None:
    """Read one file; whatever is wrong with it becomes a refusal."""
    kind = kind_of(bare_name(name)) or next((k for k, (_, head) in _KINDS.items() if re.match(head, data[:4096])), None)
    try:
        if kind in ("vasprun", "outcar"):
            run = parse_vasprun(data, name) if kind == "vasprun" else parse_outcar(data, name)
            if kind == "outcar":
                taken.witnesses[PurePosixPath(name).parent].append(run)
            taken.add(kind, *frames_of(run, name, steps=taken.steps, allow_rehearsal=taken.allow_rehearsal))
        elif kind == "extxyz":
            _take_xyz(taken, name, data)
        elif kind == "phonopy":
            taken.names_by_content[digest_bytes(data)].append(name)
            _take_phonopy(taken, name, real)
        elif kind == "json":
            _take_json(taken, name, data)
        else:
            taken.refuse(name, "it is none of vasprun.xml, OUTCAR, extended XYZ, phonopy YAML or atomate2 JSON")
    except PhonosmithError as error:
        taken.refuse(name, error.message)


def _take_xyz(taken: Taken, name: str, data: bytes) -> None:
    def frame(index: int, item: Atoms | InputError) -> Read:
        where = f"{name}, frame {index}"
        if isinstance(item, InputError):
            return [], [Refusal(where=where, reason=item.message)]
        item.info.setdefault(SOURCE, name)
        return judged(item, where, allow_rehearsal=taken.allow_rehearsal)

    taken.add("extxyz", *joined(starmap(frame, enumerate(parse_each(data.decode(errors="replace"), name)))))


def _take_phonopy(taken: Taken, name: str, real: Path | None) -> None:
    from phonosmith.harmonic.displacements import displaced_frames, displacements_and_forces
    from phonosmith.harmonic.files import read_phonopy
    from phonosmith.harmonic.model import atoms_of
    from phonosmith.reference.importers.beside import calculations_beside

    if real is None:
        taken.refuse(name, "phonopy files inside an archive are not read: unpack it, they belong to files beside them")
        return
    phonon = read_phonopy(real, calculations=calculations_beside)
    size = len(phonon.supercell)
    moved, forces, _ = displacements_and_forces(phonon.dataset, size) if phonon.dataset else (None, None, None)
    if forces is None and phonon.force_constants is None:
        taken.notes.append(f"{name} plans displacements that were not calculated beside it")
        return
    taken.force_constants.append(
        {
            "path": name,
            "formula": reduced_formula(atoms_of(phonon.primitive)),
            "supercell_atoms": size,
            "displacements": 0 if moved is None else len(moved),
            "largest_displacement": None if moved is None else float(np.abs(moved).max()),
            "largest_force": None if forces is None else float(np.abs(forces).max()),
            "force_constants_stored": phonon.force_constants is not None,
        }
    )
    if forces is None:
        taken.n_files += 1
        return
    frames = displaced_frames(phonon)
    for frame in frames:
        frame.info[SOURCE] = name
    # VASP prints eight decimals; forces of a potential carry all sixteen digits
    if np.abs(forces * 1e8 - np.round(forces * 1e8)).max() > 1e-2:
        taken.notes.append(f"{name}: forces carry more digits than VASP prints; are they a potential's, not DFT's?")
    taken.add("phonopy", frames)


def _take_json(taken: Taken, name: str, data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        lines = [line for line in text.splitlines() if line.strip()]
        tree = [load_json(line, "it") for line in lines] if ".jsonl" in name else load_json(text, "it")
    except InputError as error:
        taken.refuse(name, error.message)
        return
    if is_structures_json(tree):
        taken.add("structures", *frames_of_structures(tree, name))
        return
    documents = list(task_documents(tree))
    for inner, document in documents:
        read = frames_of_task(document, f"{name}: {inner}", steps=taken.steps, allow_rehearsal=taken.allow_rehearsal)
        taken.add("taskdoc", *read)
    if not documents:
        taken.refuse(name, "it holds no labelled configuration (no energies with forces)")


def _refuse_unexpected(taken: Taken, expected: Mapping[str, str]) -> None:
    """Refuse files that hold another composition than the one stated for their material."""
    problems: dict[str, str] = {}
    for atoms in taken.frames:
        path, formula = _source(atoms), reduced_formula(atoms)
        for name in (path.name.partition(".")[0], *path.parts):
            if expected.get(name, formula) != formula:
                problems[str(path)] = f"its composition {formula} is not the expected {expected[name]} of {name}"
    taken.refused += [Refusal(where=where, reason=reason) for where, reason in problems.items()]
    taken.drop(lambda _, atoms: str(_source(atoms)) in problems)
    taken.force_constants = [item for item in taken.force_constants if item["path"] not in problems]


def _compare_with_outcars(taken: Taken) -> None:
    """Refuse what a vasprun.xml says when the OUTCAR beside it tells of another end; else take its magnetic moments."""
    problems: dict[str, str] = {}
    last = {str(_source(frame)): frame for frame in taken.by_kind.get("vasprun", [])}
    alone = Counter(_source(frame).parent for frame in last.values())
    for where, frame in last.items():
        runs = taken.witnesses.get(_source(frame).parent, [])
        # of several runs in one folder, or one that was taken in part, nobody knows which the OUTCAR is of
        unclear = alone[_source(frame).parent] > 1 or any(item.where.startswith(where) for item in taken.refused)
        for run in [] if unclear or len(runs) > 1 else runs:
            if reasons := contradictions(frame, run):
                problems[where] = "; ".join(reason.message for reason in reasons)
            else:
                add_moments(frame, run)
    taken.refused += [Refusal(where=where, reason=reason) for where, reason in problems.items()]
    folders = {PurePosixPath(where).parent for where in problems}
    taken.drop(lambda kind, frame: kind in ("vasprun", "outcar") and _source(frame).parent in folders)


def _source(atoms: Atoms) -> PurePosixPath:
    return PurePosixPath(str(atoms.info.get(SOURCE, "")))


def _drop_doubles(taken: Taken) -> None:
    """Take a calculation once: vasprun.xml before OUTCAR of the same folder, full labels before phonopy's forces."""
    folders = {_source(frame).parent for frame in taken.by_kind.get("vasprun", [])}
    if twice := taken.drop(lambda kind, frame: kind == "outcar" and _source(frame).parent in folders):
        taken.notes.append(f"{len(twice)} OUTCAR frames lie beside a vasprun.xml and were not taken twice")
    full = [frame for kind, frames in taken.by_kind.items() if kind != "phonopy" for frame in frames]
    if same := taken.drop(lambda kind, frame: kind == "phonopy" and any(same_geometry(frame, f) for f in full)):
        note = f"{len(same)} displaced cells of phonopy are here as full calculations and were not taken twice"
        taken.notes.append(note)


def _report(taken: Taken, source: str) -> tuple[list[Atoms], SourceReport]:
    frames = taken.frames
    kinds = {kind: len(group) for kind, group in taken.by_kind.items() if group}
    functionals, settings = (
        dict(Counter(str(frame.info.get(key, "unknown")) for frame in frames)) for key in (FUNCTIONAL, SETTINGS)
    )
    single = "mixed" if len(functionals) > 1 else next(iter(functionals), "unknown")
    return frames, SourceReport(
        path=source,
        kind="mixed" if len(kinds) > 1 else next(iter([*kinds, *taken.by_kind, "none"])),
        kinds=kinds,
        n_files=taken.n_files,
        n_frames=len(frames),
        n_refused=len(taken.refused),
        refused=taken.refused,
        functional=None if single == "unknown" else single,
        functionals=functionals,
        settings=settings,
        formulas=dict(Counter(reduced_formula(frame) for frame in frames)),
        force_constants=taken.force_constants,
        notes=taken.notes,
    )


def _from_jobstore(steps: Steps, *, allow_rehearsal: bool) -> tuple[list[Atoms], SourceReport]:
    from jobflow import SETTINGS as JOBFLOW

    taken = Taken(steps, allow_rehearsal)
    taken.add("taskdoc", *read_jobstore(JOBFLOW.JOB_STORE, steps=steps, allow_rehearsal=allow_rehearsal))
    taken.n_files = len({str(atoms.info.get(SOURCE)) for atoms in taken.by_kind["taskdoc"]}) + len(taken.refused)
    return _report(taken, f"JobStore {JOBFLOW.JOB_STORE.name}")
