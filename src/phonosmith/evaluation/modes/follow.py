"""Follow imaginary modes: energies over their amplitudes, minima, and relaxation from there to new phases.

Where a high-symmetry crystal has an imaginary mode, some displacement along it lowers the energy. Each subspace of
modes gets the smallest commensurate supercell and a grid over its real amplitudes (`mode_grid`); every inequivalent
minimum away from zero is relaxed, symmetry kept, and the phase it ends in is named (`phases`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import InputError, PhonosmithError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Pathway, Phase, TransitionDoc
from phonosmith.evaluation.modes.grid import GridOptions, Sample, Survey, run_survey
from phonosmith.evaluation.modes.phases import distinct_phases, phase_of, relax_displaced
from phonosmith.evaluation.modes.search import (
    MAX_DENOMINATOR,
    Q_TOLERANCE,
    ImaginaryMode,
    commensurate,
    find_imaginary_modes,
)
from phonosmith.evaluation.modes.supercell import ModeSpace, mode_space

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.core.manifest import Manifest
    from phonosmith.harmonic.model import HarmonicModel
    from phonosmith.potentials.base import Potential
    from phonosmith.potentials.documents import PotentialRef

Array = NDArray[np.float64]
Relaxer = Callable[[list["Atoms"], list[GridMinimum], Phase], list[Pathway]]
Sampler = Callable[[list["Atoms"]], Sequence[tuple[float | None, Any]]]

MAX_ATOMS = 1000
"""Atoms of the largest commensurate supercell, as in the published study."""
CLOSEST = 0.6
"""Part of the crystal's shortest distance below which a displaced cell is not calculated: atoms would overlap."""
MAX_MINIMA = 12
"""Minima of one subspace that are relaxed, lowest first."""


@dataclass(frozen=True)
class FollowOptions:
    """How modes are found and followed.

    Attributes
    ----------
    threshold_thz
        Modes below minus this are followed; None takes the setting ``stability_threshold_thz``.
    max_atoms
        Larger commensurate supercells are left out, with the reason.
    max_denominator, q_tolerance
        See `find_imaginary_modes`.
    grid
        See `GridOptions`.
    max_minima
        Minima of one subspace that are relaxed, lowest first.
    """

    threshold_thz: float | None = None
    max_atoms: int = MAX_ATOMS
    max_denominator: int = MAX_DENOMINATOR
    q_tolerance: float = Q_TOLERANCE
    grid: GridOptions = field(default_factory=GridOptions)
    max_minima: int = MAX_MINIMA

    @classmethod
    def of(cls, content: FollowOptions | dict[str, Any] | None) -> FollowOptions:
        """Take options from a dictionary (grid options nested), as jobs carry them."""
        if isinstance(content, cls):
            return content
        values = {key: value for key, value in dict(content or {}).items() if not key.startswith("@")}  # type: ignore[arg-type]
        grid = values.pop("grid", None) or {}
        known: dict[str, Any] = {
            key: tuple(value) if key == "points" else value for key, value in grid.items() if key[:1] != "@"
        }
        return cls(**values, grid=GridOptions(**known))

    def __post_init__(self) -> None:
        if self.max_atoms < 1 or self.max_denominator < 1 or self.max_minima < 1:
            raise InputError("Largest cell, denominator and number of minima must be at least one.", "Raise them.")


def plan_modes(model: HarmonicModel, options: FollowOptions) -> list[tuple[FollowedMode, ModeSpace | None]]:
    """Return every imaginary mode with its space of amplitudes, or without one and with the reason."""
    modes = find_imaginary_modes(
        model,
        threshold_thz=options.threshold_thz,
        max_denominator=options.max_denominator,
        tolerance=options.q_tolerance,
    )
    return [_planned(model, mode, options) for mode in modes]


def _planned(
    model: HarmonicModel, mode: ImaginaryMode, options: FollowOptions
) -> tuple[FollowedMode, ModeSpace | None]:
    document = FollowedMode(
        q=[float(value) for value in mode.q],
        label=mode.label,
        frequency_thz=mode.frequency_thz,
        multiplicity=len(mode.bands) * (1 if _real(mode.q) else 2),
        band_indices=list(mode.bands),
        exact=mode.exact,
        q_refined=None if mode.q_refined is None else [float(value) for value in mode.q_refined],
        skipped=mode.skipped,
    )
    near = commensurate(mode.q, options.max_denominator)
    if mode.skipped is not None or near is None:
        return document, None
    size = near[1] * len(model.phonon.primitive)
    document.n_atoms = size
    if size > options.max_atoms:
        document.skipped = (
            f"the smallest commensurate supercell has {size} atoms, more than the {options.max_atoms} allowed"
        )
    elif document.multiplicity > len(options.grid.points):
        document.skipped = (
            f"{document.multiplicity} degenerate modes: grids are for up to {len(options.grid.points)} dimensions"
        )
    if document.skipped is not None:
        return document, None
    space = mode_space(model.phonon, near[0], mode.eigenvectors, options.max_denominator)
    document.multiplicity = space.dimension
    document.supercell_matrix = space.matrix.tolist()
    document.n_symmetry = len(space.operations)
    return document, space


def _real(q: Array) -> bool:
    """Tell whether q and -q are equivalent: real patterns then come one per eigenvector."""
    return bool(np.abs(2 * q - np.rint(2 * q)).max() < 1e-6)


def displaced_cells(space: ModeSpace, amplitudes: Array) -> tuple[list[int], list[Atoms]]:
    """Return displaced supercells whose atoms do not overlap, and which of the amplitudes they belong to."""
    from ase.neighborlist import neighbor_list

    from phonosmith.sampling.ladder import shortest_distance

    limit = CLOSEST * shortest_distance(space.atoms)
    frames = [space.frame(point) for point in amplitudes]
    good = [i for i, frame in enumerate(frames) if not len(neighbor_list("i", frame, limit))]
    return good, [frames[i] for i in good]


def to_samples(space: ModeSpace, size: int, places: Sequence[int], results: Sequence[Any]) -> list[Sample]:
    """Return one sample per amplitude from (energy in eV or None, forces in eV/Å or None) of those calculated."""
    samples = [Sample(None)] * size
    for place, (energy, forces) in zip(places, results, strict=True):
        if energy is None or not np.isfinite(energy):
            continue
        known = forces is not None and bool(np.all(np.isfinite(forces)))
        slope = tuple(float(value) for value in space.gradient(forces)) if known else None
        samples[place] = Sample(float(energy), slope)
    return samples


def record_survey(document: FollowedMode, space: ModeSpace, survey: Survey) -> None:
    """Write a survey into the document of its mode, energies per atom."""
    size = len(space.atoms)
    document.grid_shape = list(survey.energies.shape)
    document.amplitudes = survey.axis.tolist()
    document.energies = [float(value) / size if np.isfinite(value) else None for value in survey.energies.ravel()]
    document.max_displacement = space.reach * float(survey.axis[-1])
    document.n_energies, document.n_energies_plain = survey.n_energies, survey.n_plain
    document.single_minimum, document.fit_r2 = survey.single_minimum, survey.fit_r2
    document.minima = [
        GridMinimum(amplitudes=one.amplitudes.tolist(), energy_ev_per_atom=one.energy / size) for one in survey.minima
    ]
    document.notes = list(survey.notes)


def chosen_starts(document: FollowedMode, space: ModeSpace, limit: int) -> tuple[list[Atoms], list[GridMinimum]]:
    """Return displaced crystals to relax, lowest minima first, and say in the document how many were left out."""
    starts = document.minima[:limit]
    if len(document.minima) > limit:
        document.notes.append(f"{len(document.minima) - limit} of {len(document.minima)} minima were not relaxed")
    return [space.frame(start.amplitudes) for start in starts], starts


def follow_modes(
    model: HarmonicModel,
    sample: Sampler,
    relax: Relaxer | None,
    *,
    method: str,
    options: FollowOptions | None = None,
    potential: PotentialRef | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TransitionDoc:
    """Find the imaginary modes of a crystal, survey their amplitudes and relax from every minimum.

    Parameters
    ----------
    model
        Force constants of the crystal; its primitive cell is the initial phase.
    sample
        Returns (energy in eV or None, forces in eV/Å or None) of many supercells.
    relax
        Returns the pathways of displaced crystals (None: do not relax).
    method, potential
        Name of the potential or protocol; identity of the potential.
    on_progress
        Is told in words what happens, how many modes are done, and of how many.
    """
    settings = options or FollowOptions()
    tell = on_progress or (lambda *_: None)
    inputs = {} if potential is None else {"potential": potential.sha256}
    with recorded(inputs=inputs, settings=asdict(settings)) as manifest:
        tell("looking for imaginary modes", 0, 1)
        initial = initial_phase(model)
        planned = plan_modes(model, settings)
        for number, (document, space) in enumerate(planned, start=1):
            if space is not None:
                tell(describe(document), number - 1, len(planned))
                _follow_one(document, space, sample, relax, initial, settings)
        tell("done", len(planned), len(planned))
    return transition_document(model, [document for document, _ in planned], initial, method, potential, manifest)


def _follow_one(
    document: FollowedMode,
    space: ModeSpace,
    sample: Sampler,
    relax: Relaxer | None,
    initial: Phase,
    options: FollowOptions,
) -> None:
    """Survey and relax one mode; what goes wrong is recorded and does not end the others."""
    started = time.perf_counter()

    def answer(amplitudes: Array) -> list[Sample]:
        places, frames = displaced_cells(space, amplitudes)
        return to_samples(space, len(amplitudes), places, sample(frames) if frames else [])

    try:
        record_survey(document, space, run_survey(space, options.grid, answer))
        if relax is not None:
            document.pathways = relax(*chosen_starts(document, space, options.max_minima), initial)
    except PhonosmithError as error:
        document.skipped = f"failed: {error.message}"
    document.seconds = time.perf_counter() - started


def describe(document: FollowedMode) -> str:
    """Return a mode in a few words: point, frequency, size."""
    place = document.label or "q = " + " ".join(f"{value:.4g}" for value in document.q)
    return f"{place}, {document.frequency_thz:.3f} THz, {document.multiplicity}-fold" + (
        "" if document.n_atoms is None else f", {document.n_atoms} atoms"
    )


def initial_phase(model: HarmonicModel) -> Phase:
    """Return the phase whose modes are followed: the primitive cell of the phonons."""
    from phonosmith.harmonic.model import to_structure

    return phase_of(to_structure(model.phonon.primitive))


def transition_document(
    model: HarmonicModel,
    modes: list[FollowedMode],
    initial: Phase,
    method: str,
    potential: PotentialRef | None,
    manifest: Manifest,
) -> TransitionDoc:
    """Put followed modes together: distinct final phases, totals."""
    return TransitionDoc(
        formula=model.formula,
        method=method,
        potential=potential,
        initial=initial,
        modes=modes,
        phases=distinct_phases([pathway for mode in modes for pathway in mode.pathways], initial),
        n_energies=sum(mode.n_energies for mode in modes),
        seconds=manifest.wall_seconds,
        manifest=manifest,
    )


def follow_with_potential(
    model: HarmonicModel,
    potential: Potential,
    *,
    method: str = "",
    ref: PotentialRef | None = None,
    options: FollowOptions | None = None,
    relax: bool = True,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TransitionDoc:
    """Follow the imaginary modes of a harmonic model on a potential's energy surface, each round in one batch.

    The crystal should be relaxed with the same potential, or forces at zero amplitude remain. For the arguments see
    `follow_modes`; ``ref`` is the identity of the potential.
    """

    def sample(frames: list[Atoms]) -> list[tuple[float, Array]]:
        return [(one.energy, one.forces) for one in potential.evaluate(frames, stress=False)]

    def relaxed(frames: list[Atoms], starts: list[GridMinimum], initial: Phase) -> list[Pathway]:
        return relax_displaced(frames, starts, potential, initial)

    name = method or (ref.name if ref is not None else potential.architecture)
    return follow_modes(
        model, sample, relaxed if relax else None, method=name, options=options, potential=ref, on_progress=on_progress
    )
