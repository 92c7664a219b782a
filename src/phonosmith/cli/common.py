"""What commands share: registration, errors with advice, answers, options, inputs, tables, progress."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from phonosmith.core.errors import ConfigurationError, InputError, PhonosmithError, lacks_room

if TYPE_CHECKING:
    from jobflow import JobStore
    from pydantic import BaseModel
    from pymatgen.core import Structure
    from rich.text import Text

    from phonosmith.analysis.documents import PotentialReport
    from phonosmith.core.artefacts import ArtefactStore
    from phonosmith.potentials.base import Potential
    from phonosmith.potentials.documents import PotentialRef
    from phonosmith.reference.engines import ReferenceEngine

P = ParamSpec("P")
R = TypeVar("R")
Model = TypeVar("Model", bound="BaseModel")

JSON = typer.Option(False, "--json", help="Print one JSON object on standard output, all else on standard error.")
STORE = typer.Option(None, "--store", help="SQLite job store; by default that of your settings.")
JOBFLOW = typer.Option(False, "--jobflow", help="Read the job store of jobflow.yaml (MongoDB, ...).")
ARTEFACTS = typer.Option(None, "--artefacts", help="Folder of the artefact store (default: the configured one).")
CAMPAIGN = typer.Option(None, "--campaign", help="Only reports of this campaign.")
STRUCTURE = typer.Argument(..., help="Crystal: CIF, POSCAR or anything pymatgen reads.")
_NAMED = "name, 'embedded', sha256 prefix or file."
POTENTIAL = typer.Option(..., "--potential", help=f"Potential: {_NAMED}")
FOUNDATION = typer.Option(..., "--foundation", help=f"Foundation: {_NAMED}")
TRUST = typer.Option(False, "--trust", help="Open a foreign model file: a pickle that can run any code when opened.")
SUPERCELL = typer.Option(
    None,
    help='"4 4 4" or 4x4x4: so many times the cell in the file along its own a, b, c; or nine integers, row by row '
    "phonopy's matrix (its columns are the new vectors); default by --min-length.",
)
MIN_LENGTH = typer.Option(None, "--min-length", help="Shortest edge of the phonon supercell, Å (default: 20).")
RELAX = typer.Option(True, "--relax/--no-relax", help="Relax cell and atoms first, keeping the symmetry.")
TEMPERATURES = typer.Option(None, "--temperature", help="Temperature, K; several as in 100,300,500.")
SETTINGS = typer.Option(None, "--set", metavar="KEY=VALUE", help="Of the strategy (repeatable).")
SEED = typer.Option(0, "--seed", help="Seed of every random draw.")
WALLTIME = typer.Option(None, "--walltime", min=1.0, help="Stop after so many seconds; run again to go on.")
CAMPAIGN_FILE = typer.Argument(..., metavar="CAMPAIGN.yaml", help="What to do; see workflows/campaign.yaml.")
QUEUE = typer.Option(None, "--engine", help="fireworks or jobflow-remote: in their queue.")
PROJECT = typer.Option(None, "--project", help="jobflow-remote: project; its default when not given.")
LAUNCHPAD = typer.Option(None, "--launchpad", help="FireWorks: launchpad file (FireWorks' own default).")
ROUTING = typer.Option(None, "--routing", help="File with 'routing' (workers dft, gpu, inference).")
ENGINE_POTENTIAL = typer.Option(None, "--potential", help="Potential of forcefield or of a --rehearsal.")
PROTOCOL = typer.Option(None, "--protocol", help="YAML of settings that differ from PBE, 520 eV, ...")
REHEARSAL = typer.Option(False, "--rehearsal", help="Play VASP with the stand-in: finds wrong settings.")
WORKDIR = typer.Option(None, "--workdir", help="Folder of the calculations, kept (default: a temporary one).")
ATTEMPTS = typer.Option(2, "--attempts", min=1, help="How often a transient failure is started.")
ALLOW_REHEARSAL = typer.Option(False, "--allow-rehearsal", help="Take labels of the VASP stand-in.")
DOCUMENTS = typer.Option(None, "--out", help="Folder for the full document (JSON).")

app = typer.Typer(
    name="phonosmith",
    help="Fine-tune a foundation interatomic potential for one material and prove that its phonons can be trusted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


START, DATA, TRAINING, EVALUATION, CAMPAIGNS, MODELS = (
    "Start here", "Data", "Training", "Evaluation", "Campaigns", "Models",
)  # fmt: skip
"""Groups of commands in --help, in their order."""


def command(
    name: str, panel: str = "", group: typer.Typer = app, *, formerly: Mapping[str, str] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a command of the program, in a panel of its help (or of a group), whose errors are explained.

    ``formerly`` are options as they were spelled before, without dashes: still understood, not in --help.
    """
    old = formerly or {}
    settings = {"token_normalize_func": lambda word: old.get(word, word)} if old else None

    def add(function: Callable[P, R]) -> Callable[P, R]:
        made = explained(function)
        made.__doc__ = _flowing(function.__doc__ or "")
        return group.command(name, rich_help_panel=panel or None, context_settings=settings)(made)

    return add


def _flowing(text: str) -> str:
    """Return a docstring whose paragraphs break where the terminal ends, with brackets that are no markup."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(paragraphs).replace("[", "\\[")


def listed(option: str, given: Sequence[str]) -> list[str]:
    """Return the words of an option that takes several, as in ``a,b`` or repeated; none may be empty or come twice.

    >>> listed("cell", ["small, large", "primitive"])
    ['small', 'large', 'primitive']
    """
    words = [word.strip() for text in given for word in text.split(",")]
    for word in words:
        if not word or words.count(word) > 1:
            what = f"{word!r} twice" if word else "an empty word"
            raise ConfigurationError(f"--{option} {','.join(given)!r} has {what}.", f"Write e.g. --{option} a,b,c.")
    return words


def required_seed(seed: int) -> int:
    """Return a seed; a negative one is refused."""
    if seed < 0:
        raise ConfigurationError(f"--seed {seed} is no seed.", "Give a whole number from 0.")
    return seed


def asked_temperatures(given: Sequence[str], lowest: float = 0.0) -> list[float]:
    """Return the temperatures of --temperature in K, none below ``lowest``.

    >>> asked_temperatures(["100, 300"])
    [100.0, 300.0]
    """
    words = " ".join(given).replace(",", " ").split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if not values or not all(lowest <= value < float("inf") for value in values):
        raise InputError(f"--temperature {' '.join(given)!r} are no temperatures.", "Give K, as in 100,300,500.")
    return values


def print_json(payload: object) -> None:
    """Print one JSON object on standard output (not-a-number becomes null: JSON has no NaN)."""
    from pydantic_core import to_jsonable_python

    plain = to_jsonable_python(
        payload, inf_nan_mode="null", fallback=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)
    )
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def answer(payload: object, show: Callable[[], None], *, json_output: bool) -> None:
    """Print what a command found: one JSON object, or words for people."""
    if json_output:
        print_json(payload)
    else:
        show()


def result_line(entry: PotentialReport) -> dict[str, Any]:
    """Return what the commands that run a pipeline print about one potential as JSON."""
    return {
        "strategy": entry.strategy,
        "phonon_mae_thz": entry.phonons and entry.phonons.mae_thz,
        "expected_mae_thz": entry.expected_mae_thz and entry.expected_mae_thz.model_dump(),
        "omega_max_error_percent": entry.phonons and entry.phonons.omega_max_error_percent,
        "valid_force_mae_mev_per_angstrom": entry.valid_force_mae,
        "verdict": "fit" if entry.verdict.fit else "not fit",
        "reasons": entry.verdict.reasons,
        "potential": entry.potential.sha256,
    }


def shown(value: float | None, form: str) -> str:
    """Return a number in a format, a dash where there is none."""
    return "-" if value is None else format(value, form)


class StoppedError(PhonosmithError):
    """Ctrl-C, before or outside what goes on by itself; the exit code is that of shells."""

    exit_code = INTERRUPTED


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into one line with advice and the right exit code; anything else keeps its traceback.

    With ``--json`` the object ``{"error": ..., "advice": ...}`` is printed as well, so that scripts see the reason. A
    file the system refuses (no permission, no space, a file where a folder should be) is the user's to mend, too.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PhonosmithError as error:
            problem: PhonosmithError = error
        except OSError as error:
            if error.strerror is None or (error.filename is None and not lacks_room(error)):
                raise
            # where the system does not say which file it was, it was one that was being written
            what = f"Cannot use {error.filename}" if error.filename is not None else "Cannot write"
            advice = "Check the path, its permissions and the disk space."
            problem = InputError(f"{what}: {error.strerror}.", advice)
            problem.__cause__ = error
        except KeyboardInterrupt:
            problem = StoppedError("Stopped.", "Nothing half-written is left. Give the same command again.")
        if kwargs.get("json_output"):
            print_json({"error": problem.message, "advice": problem.advice})
        typer.secho(f"Error: {problem.message}", fg="red", err=True)
        if problem.advice:
            typer.secho(f"  -> {problem.advice}", err=True)
        raise typer.Exit(problem.exit_code) from problem

    return wrapper


def open_store(path: Path | None, *, jobflow: bool) -> JobStore:
    """Return an existing job store; reading makes no new one.

    A folder stands for the ``store.sqlite`` in it, None for the file of the settings; ``jobflow`` for the store of
    ``jobflow.yaml``.
    """
    if jobflow:
        if path is not None:
            raise InputError("--store and --jobflow name two stores.", "Give one of them.")
        return _configured()
    from phonosmith.engines.store.sqlite import open_embedded_jobstore
    from phonosmith.settings import get_settings

    file = path or get_settings().database_file
    if file.is_dir():
        file = file / "store.sqlite"
    if not file.is_file():
        advice = "Name one with --store, or use --jobflow for that of jobflow.yaml."
        raise InputError(f"There is no job store {file}.", advice)
    with file.open("rb") as stream:
        if stream.read(16) not in (b"", b"SQLite format 3\x00"):
            raise InputError(f"{file} is no SQLite file.", "Name the store.sqlite that a run wrote.")
    return open_embedded_jobstore(file)


def open_artefacts(folder: Path | None, store: Path | None) -> ArtefactStore:
    """Return the artefact store: the one named, the one beside a demonstration's job store, or the configured one."""
    from phonosmith.core.artefacts import ArtefactStore, DirectoryBackend, default_artefacts

    if folder is None and store is not None and "PHONOSMITH_ARTEFACTS" not in os.environ:
        beside = (store if store.is_dir() else store.parent) / "artefacts"
        folder = beside if beside.is_dir() else None
    if folder is None:
        return default_artefacts()
    if not folder.is_dir():
        raise InputError(f"There is no artefact store {folder}.", "Name the folder with --artefacts.")
    return ArtefactStore(DirectoryBackend(folder))


def _configured() -> JobStore:
    from maggma.stores import MemoryStore

    from phonosmith.engines.queues.fireworks import configured_store

    store, where = configured_store()
    # exactly MemoryStore: its subclasses keep files
    if type(store.docs_store) is MemoryStore:
        raise ConfigurationError(
            f"jobflow's job store is in memory and forgets everything ({where} names no other).",
            "Write a JOB_STORE into jobflow.yaml ('phonosmith doctor' shows one), or name a SQLite file with --store.",
        )
    return store


@dataclass(frozen=True)
class Case:
    """A crystal and the potential a command looks at it with."""

    crystal: Structure
    potential: Potential
    ref: PotentialRef

    def relaxed(self) -> Case:
        """Return the case with cell and atoms relaxed, the symmetry kept."""
        from pymatgen.io.ase import AseAtomsAdaptor

        from phonosmith.evaluation.relax import relax_atoms
        from phonosmith.potentials.base import require_elements

        atoms = AseAtomsAdaptor.get_atoms(self.crystal, msonable=False)
        require_elements(self.potential, [atoms], self.ref.name)
        return replace(self, crystal=AseAtomsAdaptor.get_structure(relax_atoms(atoms, self.potential).atoms))


def load_case(structure: Path, potential: str, *, trust: bool = False) -> Case:
    """Read a crystal and load a potential by name, file or hash."""
    from phonosmith.potentials.registry import load, resolve
    from phonosmith.structures.reading import read_structure

    crystal = read_structure(structure)
    ref = resolve(potential, trust=trust)
    return Case(crystal, load(ref), ref)


def asked_supercell(supercell: str | None, min_length: float | None) -> list[list[int]] | None:
    """Return the matrix of --supercell, None where the rule shall choose."""
    from phonosmith.evaluation.phonons.fastpath import parse_supercell

    if supercell is not None and min_length is not None:
        raise InputError("--supercell and --min-length exclude each other.", "Give one of them.")
    return None if supercell is None else parse_supercell(supercell)


def reference_engine(
    name: str, protocol: Path | None, potential: str | None, symbols: set[str], *, rehearsal: bool, trust: bool
) -> ReferenceEngine:
    """Return the engine that --engine and its options name, its program checked before anything is computed."""
    from phonosmith.potentials.registry import resolve
    from phonosmith.reference.engines import make_engine
    from phonosmith.reference.protocol import load_protocol

    fields = None if protocol is None else read_yaml(protocol)
    if fields is not None and not isinstance(fields, dict):
        raise ConfigurationError(f"{protocol} must hold 'field: value' lines.", "See the reference protocol's fields.")
    # a name may also be the dotted path of an ASE calculator
    opened = resolve(potential, trust=True) if potential and trust and Path(potential).is_file() else potential
    made = make_engine(name, load_protocol(fields), opened, rehearsal=rehearsal)
    if name == "gpaw":
        from phonosmith.reference.gpaw import require_gpaw

        require_gpaw()
    elif name == "forcefield":
        from phonosmith.reference.forcefield import CalculatorSpec, require_covered

        require_covered(CalculatorSpec.model_validate(made.calculator), symbols)
    elif not rehearsal:
        from phonosmith.reference.vasp.makers import require_vasp

        require_vasp(made.protocol, symbols)
    return made


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds."""
    from phonosmith.core.reading import load_yaml, read_bounded

    return load_yaml(read_bounded(path), str(path))


def checked_options(model: type[Model], name: str, participle: str, **values: object) -> Model:
    """Return options as settings; what they do not allow is refused."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        advice = f"See 'phonosmith {name} --help'."
        raise InputError(f"These options cannot be {participle}: {wrong}.", advice) from error


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str | Text = "", left: int = 1
) -> None:
    """Print a table: ``left`` columns of text, then numbers, then columns whose name begins with a blank as text."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for place, name in enumerate(columns):
        to_the_left = place < left or name.startswith(" ")
        table.add_column(name.strip(), justify="left" if to_the_left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep libraries' prints off standard output and their import warnings off the screen."""
    root = logging.getLogger()
    level = root.level
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.setLevel(max(level, logging.ERROR))
        try:
            yield
        finally:
            root.setLevel(level)
