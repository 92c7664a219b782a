"""Follow imaginary modes: energies over their amplitudes, minima, and relaxation from there to new phases.

Where a high-symmetry crystal has an imaginary mode, some displacement along it lowers the energy. Each subspace of
modes gets the smallest commensurate supercell and a grid over its real amplitudes (`mode_grid`); every inequivalent
minimum away from zero is relaxed, symmetry kept, and the phase it ends in is named (`phases`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from phonosmith.core.document import Document
from phonosmith.core.errors import InputError, PhonosmithError
from phonosmith.core.manifest import recorded
from phonosmith.evaluation.guarded import closer_than
from phonosmith.evaluation.modes.documents import FollowedMode, GridMinimum, Phase, TransitionDoc
from phonosmith.evaluation.modes.grid import GridOptions, Sample, Survey, run_survey
from phonosmith.evaluation.modes.phases import distinct_phases, phase_of, relax_displaced
from phonosmith.evaluation.modes.search import (
    Q_TOLERANCE,
    ImaginaryMode,
    find_imaginary_modes,
    whole,
)
from phonosmith.evaluation.modes.supercell import ModeSpace, mode_space, smallest_supercell
from phonosmith.evaluation.phonons.stability import STRICT_THZ

if TYPE_CHECKING:
    from ase import Atoms

    from phonosmith.core.manifest import Manifest
    from phonosmith.harmonic.model import HarmonicModel
    from phonosmith.potentials.base import Potential
    from phonosmith.potentials.documents import PotentialRef

Array = NDArray[np.float64]

CLOSEST = 0.6
"""Part of the crystal's shortest distance below which a displaced cell is not calculated: atoms would overlap."""


class FollowOptions(Document):
    """How modes are found and followed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold_thz: float | None = Field(
        STRICT_THZ,
        ge=0,
        description="modes below minus this are followed, as published; None takes the setting "
        "stability_threshold_thz, above the noise of interpolation, THz",
    )
    max_atoms: int = Field(1000, description="larger commensurate supercells are left out; as in the published study")
    qpoints: tuple[tuple[float, float, float], ...] = Field(
        (), description="wave vectors to follow besides those found, fractions of the primitive reciprocal vectors"
    )
    q_tolerance: float = Field(
        Q_TOLERANCE, gt=0, description="how far a band minimum may lie from its commensurate point, each coordinate"
    )
    grid: GridOptions = Field(default_factory=GridOptions, description="how amplitudes are surveyed")
    max_minima: int | None = Field(
        None, description="minima of one subspace that are relaxed, lowest first; all of them as published"
    )

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if self.max_atoms < 1 or (self.max_minima is not None and self.max_minima < 1):
            raise InputError("Largest cell and number of minima must be at least one.", "Raise them.")
        return self


def plan_modes(model: HarmonicModel, options: FollowOptions) -> list[tuple[FollowedMode, ModeSpace | None]]:
    """Return every imaginary mode with its space of amplitudes, or without one and with the reason."""
    modes = find_imaginary_modes(
        model,
        threshold_thz=options.threshold_thz,
        most_cells=max(1, options.max_atoms // len(model.phonon.primitive)),
        tolerance=options.q_tolerance,
        qpoints=options.qpoints,
    )
    return [_planned(model, mode, options) for mode in modes]


def _planned(
    model: HarmonicModel, mode: ImaginaryMode, options: FollowOptions
) -> tuple[FollowedMode, ModeSpace | None]:
    document = FollowedMode(
        q=mode.q.tolist(),
        label=mode.label,
        frequency_thz=mode.frequency_thz,
        # real patterns come one per eigenvector where q and -q are equivalent
        multiplicity=len(mode.bands) * (1 if whole(2 * mode.q, 1e-6) else 2),
        band_indices=list(mode.bands),
        exact=mode.exact,
        q_refined=None if mode.q_refined is None else mode.q_refined.tolist(),
        skipped=mode.skipped,
    )
    if mode.skipped is not None:
        return document, None
    primitive, dimensions = model.phonon.primitive, len(options.grid.points)
    matrix = smallest_supercell(mode.q, np.asarray(primitive.cell))
    size = document.n_atoms = round(np.linalg.det(matrix)) * len(primitive)
    if size > options.max_atoms:
        document.skipped = (
            f"the smallest commensurate supercell has {size} atoms, more than the {options.max_atoms} allowed"
        )
    elif document.multiplicity > dimensions:
        document.skipped = f"{document.multiplicity} degenerate modes: grids are for up to {dimensions} dimensions"
    if document.skipped is not None:
        return document, None
    space = mode_space(model.phonon, mode.q, mode.eigenvectors)
    document.multiplicity = space.dimension
    document.supercell_matrix = space.matrix.tolist()
    document.n_symmetry = len(space.operations)
    return document, space


def displaced_cells(space: ModeSpace, amplitudes: Array) -> dict[int, Atoms]:
    """Return displaced supercells whose atoms do not overlap, by their place among the amplitudes."""
    from phonosmith.sampling.ladder import shortest_distance

    limit = CLOSEST * shortest_distance(space.atoms)
    frames = {place: space.frame(point) for place, point in enumerate(amplitudes)}
    return {place: frame for place, frame in frames.items() if not closer_than(frame, limit)}


def to_sample(space: ModeSpace, energy: float | None, forces: Any) -> Sample:
    """Return what an energy (eV or None) and forces (eV/Å or None) say about one point."""
    if energy is None or not np.isfinite(energy):
        return Sample(None)
    known = forces is not None and np.isfinite(forces).all()
    return Sample(float(energy), tuple(space.gradient(forces).tolist()) if known else None)


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


def chosen_starts(document: FollowedMode, space: ModeSpace, limit: int | None) -> tuple[list[Atoms], list[GridMinimum]]:
    """Return displaced crystals to relax, lowest minima first, and say in the document how many were left out."""
    starts = document.minima[:limit]
    if len(starts) < len(document.minima):
        left_out = len(document.minima) - len(starts)
        document.notes.append(f"{left_out} of {len(document.minima)} minima were not relaxed")
    return [space.frame(start.amplitudes) for start in starts], starts


def follow_with_potential(
    model: HarmonicModel,
    potential: Potential,
    *,
    method: str = "",
    ref: PotentialRef | None = None,
    options: FollowOptions | None = None,
    relax: bool = True,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> TransitionDoc:
    """Follow the imaginary modes of a harmonic model on a potential's energy surface, each round in one batch.

    The crystal should be relaxed with the same potential, or forces at zero amplitude remain.

    Parameters
    ----------
    model
        Force constants of the crystal; its primitive cell is the initial phase.
    method, ref
        Name of the potential in the document; its identity.
    relax
        Relax from the minima.
    on_progress
        Is told in words what happens, how many modes are done, and of how many.
    """
    settings = options or FollowOptions()
    inputs = {} if ref is None else {"potential": ref.sha256}
    with recorded(inputs=inputs, settings=settings.model_dump()) as manifest:
        on_progress("looking for imaginary modes", 0, 1)
        initial = initial_phase(model)
        planned = plan_modes(model, settings)
        for number, (document, space) in enumerate(planned):
            if space is not None:
                on_progress(describe(document), number, len(planned))
                _follow_one(document, space, potential, initial if relax else None, settings)
        on_progress("done", len(planned), len(planned))
    name = method or (ref.name if ref is not None else potential.architecture)
    return transition_document(model, [document for document, _ in planned], name, manifest, ref)


def _follow_one(
    document: FollowedMode, space: ModeSpace, potential: Potential, initial: Phase | None, options: FollowOptions
) -> None:
    """Survey and relax one mode; what goes wrong is recorded and does not end the others."""
    started = time.perf_counter()

    def sample(amplitudes: Array) -> list[Sample]:
        samples, cells = [Sample(None)] * len(amplitudes), displaced_cells(space, amplitudes)
        evaluated = potential.evaluate(list(cells.values()), stress=False) if cells else []
        for place, one in zip(cells, evaluated, strict=True):
            samples[place] = to_sample(space, one.energy, one.forces)
        return samples

    try:
        record_survey(document, space, run_survey(space, options.grid, sample))
        if initial is not None:
            displaced, starts = chosen_starts(document, space, options.max_minima)
            document.pathways = relax_displaced(displaced, starts, potential, initial)
    except PhonosmithError as error:
        document.skipped = f"failed: {error.message}"
    document.seconds = time.perf_counter() - started


def describe(document: FollowedMode) -> str:
    """Return a mode in a few words: point, frequency, size."""
    place = document.label or "q = " + " ".join(f"{value:.4g}" for value in document.q)
    atoms = "" if document.n_atoms is None else f", {document.n_atoms} atoms"
    return f"{place}, {document.frequency_thz:.3f} THz, {document.multiplicity}-fold{atoms}"


def initial_phase(model: HarmonicModel) -> Phase:
    """Return the phase whose modes are followed: the primitive cell of the phonons."""
    from phonosmith.harmonic.model import to_structure

    return phase_of(to_structure(model.phonon.primitive))


def transition_document(
    model: HarmonicModel,
    modes: list[FollowedMode],
    method: str,
    manifest: Manifest,
    potential: PotentialRef | None = None,
) -> TransitionDoc:
    """Put followed modes together: distinct final phases, totals."""
    initial = initial_phase(model)
    return TransitionDoc(
        formula=model.formula,
        method=method,
        potential=potential,
        initial=initial,
        modes=modes,
        phases=distinct_phases([pathway for mode in modes for pathway in mode.pathways], initial),
        n_energies=sum(mode.n_energies for mode in modes),
        missing=[part for mode in modes for part in mode.missing],
        seconds=manifest.wall_seconds,
        manifest=manifest,
    )
