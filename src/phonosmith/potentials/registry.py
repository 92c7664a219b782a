"""From a name to a potential: foundations, the embedded ones, own names, digests and files."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from phonosmith.core.artefacts import ArtefactStore, default_artefacts, write_atomic
from phonosmith.core.document import Document
from phonosmith.core.errors import ArtefactError, InputError, PhonosmithError, PotentialError
from phonosmith.core.hashing import digest_bytes
from phonosmith.core.userfiles import INDEX, edited_user_json, read_user_json
from phonosmith.potentials.architecture import architecture, architectures, find_foundation, foundations
from phonosmith.potentials.base import Potential
from phonosmith.potentials.container import is_model_file, read_header, store_model
from phonosmith.potentials.device import require_device
from phonosmith.potentials.documents import PotentialRef
from phonosmith.potentials.embedded import foundation_bytes, reference_bytes
from phonosmith.potentials.foreign import read_model_bytes, refuse_other_formats, unreadable

if TYPE_CHECKING:
    from phonosmith.potentials.backend import LammpsStyle

EMBEDDED = "embedded"
EMBEDDED_REFERENCE = "embedded-reference"
SHIPPED = {EMBEDDED: foundation_bytes, EMBEDDED_REFERENCE: reference_bytes}
_HEX = re.compile(r"[0-9a-fA-F]{6,64}")
_SHORT = re.compile(r"(?=.*[0-9])[0-9a-fA-F]{1,5}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")
# saved probe energies are rounded to 1e-6 eV; another processor may differ by a few float32 roundings of the weights
PROBE_TOLERANCE = 1e-5


def resolve(name: str, *, trust: bool = False) -> PotentialRef:
    """Return the reference of a potential given by own name, foundation name, file path or sha256 prefix.

    Parameters
    ----------
    name
        Looked up in this order: a name given with ``models add``, ``embedded`` and ``embedded-reference``, a foundation
        (``phonosmith models list``), a file, the first digits (six or more) of a sha256.
    trust
        Open a foreign pickle that is not trusted yet.
    """
    published = find_foundation(name)
    for known in (_indexed(name), _indexed(published[1].name) if published else None):
        if known is not None and default_artefacts().has(known.artefact):
            return known
    if name in SHIPPED:
        return _shipped(name)
    if published:
        owner, foundation = published
        return add(owner.fetch(foundation), name=foundation.name, trust=trust)
    if known := _indexed(name):
        raise ArtefactError(
            f"{name} is known here, but its artefact {known.short} is not in the store.",
            "Point PHONOSMITH_ARTEFACTS at the store it was added to, or add its file again.",
        )
    if Path(name).expanduser().is_file():
        return import_file(name, trust=trust)
    if _HEX.fullmatch(name):
        return _by_digest(name)
    raise _unknown(name)


def load(ref_or_name: PotentialRef | str, *, dtype: str | None = None, device: str | None = None) -> Potential:
    """Load a potential for evaluation; an artefact that is missing or altered is an ArtefactError.

    Parameters
    ----------
    ref_or_name
        Reference, or anything ``resolve`` takes.
    dtype
        float32 or float64; default the reference's (float64 unless it was registered otherwise).
    device
        cpu, cuda or auto (each evaluation goes where a step like it was measured to take less time); default the
        setting PHONOSMITH_DEVICE.
    """
    from phonosmith.settings import get_settings

    ref = resolve(ref_or_name) if isinstance(ref_or_name, str) else ref_or_name
    precision = dtype or ref.dtype
    if precision not in ("float32", "float64"):
        raise InputError(f"{precision!r} is not a precision.", "Choose float32 or float64.")
    if ref.artefact.sha256 != ref.sha256:
        raise ArtefactError(
            f"The reference of {ref.name} contradicts itself: {ref.short} and artefact {ref.artefact.sha256[:12]}.",
            "Take the reference from 'phonosmith models show'.",
        )
    data = default_artefacts().get_bytes(ref.artefact)
    place = require_device(device or get_settings().device)
    return architecture(ref.architecture).load(data, dtype=precision, device=place, name=ref.name)


def import_file(path: str | Path, *, name: str = "", trust: bool = False) -> PotentialRef:
    """Bring a model file into the artefact store and return its reference.

    A file of ours and files that hold no code are taken as they are; a foreign pickle is opened (if trusted) and kept
    as weights and architecture description. A pickle that was imported before is not opened again. A file of ours that
    is new here is rebuilt, and must predict what it was saved with (`check_model`).
    """
    source = Path(path).expanduser()
    data = read_model_bytes(source)
    if is_model_file(data) and not default_artefacts().has(digest_bytes(data)):
        check_model(data, str(path))
    return _import_bytes(data, name or source.stem, str(path), trust=trust)


def check_model(data: bytes, source: str) -> None:
    """Refuse a file of ours that is cut short, altered or not understood: rebuild it and probe its energies."""
    try:
        difference = architecture(read_header(data)["architecture"]).probe_difference(data)
    except PhonosmithError as error:
        raise PotentialError(f"{source} cannot be used: {error.message}", error.advice) from error
    except Exception as error:
        # what packages of potentials raise for a description they do not understand can be anything
        raise unreadable(f"{source} cannot be rebuilt", error) from error
    if difference is not None and not difference <= PROBE_TOLERANCE:
        raise PotentialError(
            f"{source} predicts other energies than it was saved with: off by {difference:.1e} eV.",
            "It was altered, or the installed packages differ: fetch it again and compare its sha256.",
        )


def _import_bytes(data: bytes, name: str, source: str, *, trust: bool = False) -> PotentialRef:
    if is_model_file(data):
        return store_model(data, name)
    owner = next((one for one in architectures() if one.recognises(data)), None)
    if owner is None:
        refuse_other_formats(data, source)
        raise PotentialError(f"{source} is not a readable model file.", "Fetch it again and compare its sha256.")
    return owner.bring(data, name, source, trust=trust)


def add(path: str | Path, *, name: str | None = None, trust: bool = False, sha256: str = "") -> PotentialRef:
    """Import a model file and remember it under a name (default: the file's name without its ending).

    A name that is not usable or already stands for another model is an InputError, and so is a file whose digest does
    not begin with ``sha256``.
    """
    name = name if name is not None else Path(path).stem
    _check_name(name)
    if sha256:
        digest = digest_bytes(read_model_bytes(path))
        if not _HEX.fullmatch(sha256) or not digest.startswith(sha256.lower()):
            raise InputError(
                f"{path} is not the file you mean: its sha256 is {digest}, not {sha256}.", "Fetch it again."
            )
    ref = import_file(path, name=name, trust=trust)
    remember(ref, source=str(path))
    return ref


def _check_name(name: str) -> None:
    """Refuse a name that could be mistaken for something else."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be a model's name.", "Use letters, digits and . _ + - (at most 80), e.g. --name si-delta."
        )
    if _HEX.fullmatch(name) or name in SHIPPED:
        raise InputError(f"The name {name!r} already means something else.", "Choose another with --name.")


def remember(ref: PotentialRef, *, source: str = "") -> None:
    """Make a reference findable by its name on this machine; a foundation's name is for its published file alone."""
    _check_name(ref.name)
    if published := find_foundation(ref.name):
        foundation = published[1]
        genuine = not foundation.sha256 or foundation.sha256 in (ref.sha256, *ref.parents)
        if ref.name != foundation.name or not genuine:
            raise InputError(
                f"{ref.name} is the name of the published {foundation.name}, and this is another file or spelling.",
                f"Choose another --name, or add the published file as {foundation.name}.",
            )
    with edited_user_json(INDEX) as index:
        there = index.get(ref.name)
        if there is not None and there["ref"]["sha256"] != ref.sha256:
            raise InputError(
                f"The name {ref.name} already stands for {there['ref']['sha256'][:12]}.", "Choose another with --name."
            )
        index[ref.name] = {
            "ref": ref.model_dump(mode="json"),
            "source": source,
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def list_named() -> list[tuple[PotentialRef, str]]:
    """Return every potential with a name here and where it came from, the embedded ones first, no `damaged_entries`."""
    damaged = damaged_entries()
    own = [(name, entry) for name, entry in sorted(read_user_json(INDEX).items()) if name not in damaged]
    return [(_shipped(name), "package") for name in SHIPPED] + [
        (_entry_ref(name, entry), str(entry.get("source", ""))) for name, entry in own
    ]


def damaged_entries() -> dict[str, str]:
    """Return what is wrong with entries of the model index that cannot be read, by name: the others still count."""
    wrong = {}
    for name, entry in sorted(read_user_json(INDEX).items()):
        try:
            _entry_ref(name, entry)
        except PotentialError as error:
            wrong[name] = str(error)
    return wrong


def _entry_ref(name: str, entry: Any) -> PotentialRef:
    try:
        return PotentialRef.model_validate(entry["ref"])
    except (ValueError, KeyError, TypeError) as error:
        raise PotentialError(
            f"The entry {name} of the model index is damaged: {error}.", "Add the model again."
        ) from error


def _indexed(name: str) -> PotentialRef | None:
    entry = read_user_json(INDEX).get(name)
    return None if entry is None else _entry_ref(name, entry)


def _by_digest(prefix: str) -> PotentialRef:
    """Return the one potential whose digest begins with prefix; a name given here is kept."""
    prefix = prefix.lower()
    named = {ref.sha256: ref for ref, _ in list_named() if ref.sha256.startswith(prefix)}
    for sha256 in default_artefacts().find(prefix):
        data = b"" if sha256 in named else default_artefacts().get_bytes(sha256)
        # foreign files are no artefacts, whoever would open them as a last resort
        if is_model_file(data) or any(one.recognises(data) for one in architectures() if not one.last_resort):
            named[sha256] = _import_bytes(data, sha256[:12], sha256)
    if len(named) > 1:
        raise InputError(
            f"{prefix} fits {len(named)} potentials: {', '.join(sorted(digest[:16] for digest in named))}.",
            "Give more digits.",
        )
    if not named:
        raise PotentialError(
            f"No potential in the artefact store begins with {prefix}.", "See 'phonosmith models list'."
        )
    return next(iter(named.values()))


def _shipped(name: str) -> PotentialRef:
    return _import_bytes(SHIPPED[name](), name, f"the package's {name} potential")


def _unknown(name: str) -> PotentialError:
    names = [*SHIPPED, *(foundation.name for _, foundation in foundations()), *read_user_json(INDEX)]
    spelled = {one.lower(): one for one in names}
    close = [spelled[one] for one in difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.8)]
    endings = {one.plain_suffix for one in architectures()} | {".safetensors", ".pt", ".json"}
    if "/" in name or name.endswith(tuple(endings - {""})):
        return PotentialError(f"There is no model file {name}.", "Check the path.")
    if _SHORT.fullmatch(name):
        return PotentialError(
            f"There is no potential called {name!r}.", "To name one by its sha256, give six digits or more."
        )
    guess = f"Did you mean {close[0]}? " if close else ""
    return PotentialError(
        f"There is no potential called {name!r}.",
        f"{guess}Known: {', '.join(dict.fromkeys(names))}. "
        f"Or give a file, or add one: phonosmith models add FILE --name {name}.",
    )


def plain_bytes(ref: PotentialRef, store: ArtefactStore | None = None) -> bytes:
    """Return a potential of the store as the file the rest of the world reads, weights in the precision they have."""
    return architecture(ref.architecture).plain_bytes((store or default_artefacts()).get_bytes(ref.artefact))


def export_plain(ref: PotentialRef, path: str | Path) -> Path:
    """Write a potential of the store as the file the rest of the world reads; return its path."""
    target = Path(path)
    write_atomic(target, plain_bytes(ref))
    return target


def export_lammps(ref: PotentialRef, path: str | Path, style: LammpsStyle) -> Path:
    """Write a potential of the store as the file a LAMMPS pair style reads; return its path.

    Its numbers are in double precision; of several heads the last is written, mace's own choice.
    """
    backend = architecture(ref.architecture).backend()
    model = backend.unpack(default_artefacts().get_bytes(ref.artefact), "float64", ref.name)
    target = Path(path)
    write_atomic(target, backend.lammps_bytes(backend.single_head(model, backend.heads(model)[-1]), style))
    return target


class Verification(Document):
    """Outcome of checking one potential."""

    name: str = Field(description="human name")
    sha256: str = Field(description="identity that was checked")
    ok: bool = Field(description="present, unaltered, loadable, and the probe agrees")
    message: str = Field("", description="what is wrong, or what was checked")
    probe_difference: float | None = Field(None, description="largest deviation from the saved probe energies, eV")


def verify_potential(ref: PotentialRef) -> Verification:
    """Check one potential of the artefact store."""
    difference = None
    try:
        difference = architecture(ref.architecture).probe_difference(default_artefacts().get_bytes(ref.artefact))
        ok, message = difference is None or difference <= PROBE_TOLERANCE, "unaltered and loads"
    except PhonosmithError as error:
        ok, message = False, str(error)
    except Exception as error:  # noqa: BLE001  # one model that cannot be rebuilt must not hide the others
        ok, message = False, str(unreadable("cannot be rebuilt", error))
    if difference is not None:
        agreement = f"unaltered; probe energies agree to {difference:.0e} eV"
        other = f"the installed {ref.architecture} predicts other energies: off by {difference:.1e} eV"
        message = agreement if ok else other
    return Verification(name=ref.name, sha256=ref.sha256, ok=ok, message=message, probe_difference=difference)
