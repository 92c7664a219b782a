"""The whole sampling protocol as one pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phonosmith.core.errors import InputError, MismatchError
from phonosmith.core.hashing import digest_atoms, digest_structure
from phonosmith.core.manifest import recorded
from phonosmith.potentials.base import require_elements
from phonosmith.sampling.documents import (
    CellRecord,
    ConfigurationRecord,
    FrameRecord,
    SamplingDoc,
    SamplingSettings,
    SupercellRecord,
)
from phonosmith.sampling.fire import Trajectory, relax_batch
from phonosmith.sampling.ladder import Start, shortest_distance, volume_ladder
from phonosmith.sampling.rattle import round_cell, round_positions
from phonosmith.sampling.selection import (
    Selection,
    near_duplicates,
    select_by_energy,
    training_order,
    unphysical_reason,
    validation_index,
)
from phonosmith.structures.extxyz import format_frames, parse_frames
from phonosmith.structures.reading import clean_structure, structure_warnings
from phonosmith.structures.standard import standard_primitive
from phonosmith.structures.supercell import SupercellChoice, describe_supercell, sampling_supercell

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from phonosmith.potentials.base import Potential
    from phonosmith.potentials.documents import PotentialRef


@dataclass
class SamplingResult:
    """Configurations for the reference calculations.

    Attributes
    ----------
    train
        Training frames, outermost first: any prefix is a nested training set.
    valid
        Validation frames, outermost first.
    document
        Every number behind them.
    starts, trajectories
        Starting configurations and relaxations, one per volume.
    """

    train: list[Atoms]
    valid: list[Atoms]
    document: SamplingDoc
    starts: list[Start]
    trajectories: list[Trajectory]


def sample_configurations(
    structure: Structure,
    potential: Potential,
    settings: SamplingSettings | None = None,
    seed: int = 0,
    *,
    reference: PotentialRef | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> SamplingResult:
    """Return the fine-tuning configurations of one material, unlabelled.

    Supercell, Monte Carlo rattle, lattice distortion, volume ladder, relaxation with the foundation, frames equally
    spaced in energy, split and order: section 4.2 of arXiv:2604.01017.

    Parameters
    ----------
    structure
        Relaxed crystal in any cell; its standard primitive cell is the start.
    potential
        Foundation potential that drives the relaxations.
    settings
        Defaults to the published protocol in the large cell.
    seed
        Every random draw follows from it.
    reference
        Identity of ``potential``, recorded in the document.
    on_step
        Progress callback of the relaxations: step number, configurations still moving.

    Raises
    ------
    InputError, PotentialError
        Before anything expensive, when the structure or its elements cannot be used.
    """
    chosen = settings or SamplingSettings()
    clean = clean_structure(structure)
    notes = structure_warnings(clean)
    primitive = standard_primitive(clean, chosen.symprec)
    return _run(primitive, potential, chosen, seed, reference, notes, on_step)


def regenerate(
    document: SamplingDoc, potential: Potential, *, on_step: Callable[[int, int], None] | None = None
) -> SamplingResult:
    """Rebuild the configurations of a document; the frames have identical digests on the same kind of machine.

    Starting configurations are identical on any platform. Later frames also depend on the last bits of the
    potential's forces, which differ between processors; they agree there to the accuracy of the forces.

    Raises
    ------
    MismatchError
        When the starting configurations differ from the recorded ones.
    """
    settings = document.settings.model_copy(update={"supercell_matrix": document.supercell.matrix})
    result = _run(document.primitive.structure(), potential, settings, document.seed, document.potential, [], on_step)
    pairs = zip(result.document.configurations, document.configurations, strict=True)
    if any(new.start_digest != old.start_digest for new, old in pairs):
        raise MismatchError(
            "The starting configurations differ from the document's.",
            "Use the versions of numpy and hiphive in its manifest.",
        )
    return result


def _run(
    primitive: Structure,
    potential: Potential,
    settings: SamplingSettings,
    seed: int,
    reference: PotentialRef | None,
    notes: Sequence[str],
    on_step: Callable[[int, int], None] | None,
) -> SamplingResult:
    warnings = list(notes)
    choice = _supercell(primitive, settings)
    warnings.extend(choice.warnings)
    supercell = perfect_supercell(primitive, choice)
    name = f"The foundation {reference.name}" if reference is not None else "The foundation"
    require_elements(potential, [supercell], name)
    inputs = {"primitive": digest_structure(primitive)}
    if reference is not None:
        inputs["potential"] = reference.sha256
    with recorded(inputs, settings.model_dump(mode="json"), seed) as manifest:
        starts = volume_ladder(
            supercell,
            seed,
            volume_factors=settings.volume_factors,
            mean_displacement=settings.mean_displacement,
            strain=settings.strain,
            min_distance_fraction=settings.rattle_distance_fraction,
            n_iter=settings.rattle_cycles,
        )
        trajectories = relax_batch(
            [start.atoms for start in starts],
            potential,
            fmax=settings.fmax,
            max_steps=settings.max_steps,
            cell=settings.relax_cell,
            on_step=on_step,
        )
        limit = settings.min_distance_fraction * shortest_distance(supercell)
        records, chosen = [], []
        notes_by_volume: dict[str, list[str]] = {}
        for start, trajectory in zip(starts, trajectories, strict=True):
            record, frames, remarks = _choose(start, trajectory, settings, limit)
            records.append(record)
            chosen.append(frames)
            for note in remarks:
                notes_by_volume.setdefault(note, []).append(f"{start.volume_factor:g}")
        warnings.extend(f"volume {', '.join(volumes)}: {note}" for note, volumes in notes_by_volume.items())
        train, valid = _split(records, chosen, settings)
    document = SamplingDoc(
        manifest=manifest,
        formula=primitive.composition.reduced_formula,
        seed=seed,
        settings=settings,
        potential=reference,
        primitive=CellRecord.of(primitive),
        supercell=SupercellRecord(
            matrix=[list(row) for row in choice.matrix],
            n_atoms=choice.n_atoms,
            lengths=list(choice.lengths),
            angles=list(choice.angles),
        ),
        configurations=records,
        train_digests=[digest_atoms(atoms) for atoms in train],
        valid_digests=[digest_atoms(atoms) for atoms in valid],
        warnings=warnings,
    )
    return SamplingResult(train, valid, document, starts, trajectories)


def _supercell(primitive: Structure, settings: SamplingSettings) -> SupercellChoice:
    if settings.supercell_matrix is not None:
        return describe_supercell(primitive, np.array(settings.supercell_matrix))
    return sampling_supercell(primitive, settings.cell, max_atoms=max(settings.max_atoms, len(primitive)))


def perfect_supercell(primitive: Structure, choice: SupercellChoice) -> Atoms:
    """Return the unstrained supercell as ASE Atoms, atoms sorted by species, rounded like every configuration."""
    from ase import Atoms
    from ase.build import make_supercell

    cell = Atoms(
        [site.specie.symbol for site in primitive],
        scaled_positions=primitive.frac_coords,
        cell=primitive.lattice.matrix,
        pbc=True,
    )
    # sorting keeps one block per element, which VASP's POSCAR and POTCAR need
    order = np.argsort(cell.numbers, kind="stable")
    atoms = make_supercell(cell[order], np.array(choice.matrix), order="atom-major", wrap=True)
    if len(atoms) != choice.n_atoms:
        raise InputError(f"The supercell has {len(atoms)} atoms instead of {choice.n_atoms}.", "Report this structure.")
    atoms.set_cell(round_cell(np.array(atoms.cell.array)))
    atoms.positions = round_positions(atoms.positions)
    return atoms


def _choose(
    start: Start, trajectory: Trajectory, settings: SamplingSettings, limit: float
) -> tuple[ConfigurationRecord, list[Atoms], list[str]]:
    """Select the frames of one relaxation; returns the record, its rounded frames and what to warn of."""
    warnings = list(start.rattled.warnings)
    selection = _distinct(trajectory, settings, _usable(trajectory, settings, limit))
    warnings.extend(selection.reasons)
    if not trajectory.converged:
        falls = trajectory.energies[-1] < trajectory.energies[0]
        warnings.append(
            f"relaxation not converged after {trajectory.n_steps} steps (largest force "
            f"{trajectory.fmax[-1]:.1e} eV/Å, asked {settings.fmax:.0e}); "
            + ("the energy fell, its frames are used" if falls else "the energy did not fall")
        )
    frames = [_rounded(trajectory.frames[step]) for step in selection.steps]
    repeated = set(near_duplicates([frame.positions for frame in frames], settings.duplicate_tolerance))
    records = []
    for layer, (step, frame) in enumerate(zip(selection.steps, frames, strict=True)):
        again = layer in repeated
        reason = f"no atom moved {settings.duplicate_tolerance:g} Å from an outer frame" if again else ""
        dropped = again and settings.duplicates == "drop"
        if again:
            warnings.append(f"frame {layer} is a near-duplicate and was {'dropped' if dropped else 'kept'}")
        records.append(
            FrameRecord(
                digest=digest_atoms(frame),
                layer=layer,
                step=step,
                target_energy=selection.targets[layer],
                energy=trajectory.energies[step],
                energy_fraction=selection.fractions[layer],
                max_force=trajectory.max_forces[step],
                min_distance=shortest_distance(frame),
                split="dropped" if dropped else "train",
                reason=reason,
            )
        )
    return _record(start, trajectory, records), frames, warnings


def _distinct(trajectory: Trajectory, settings: SamplingSettings, usable: list[bool]) -> Selection:
    """Select by energy, passing over steps that nearly repeat an outer one as long as there are others to take."""
    options: dict[str, Any] = {"fraction": settings.energy_fraction, "n_atoms": len(trajectory.frames[0])}
    first = select_by_energy(trajectory.energies, settings.n_select, usable=usable, **options)
    current, free = first, list(usable)
    while settings.duplicates == "drop":
        positions = [trajectory.frames[step].positions for step in current.steps]
        repeated = near_duplicates(positions, settings.duplicate_tolerance)
        if not repeated:
            return replace(current, reasons=first.reasons)
        for index in repeated:
            free[current.steps[index]] = False
        current = select_by_energy(trajectory.energies, settings.n_select, usable=free, **options)
        if len(current.steps) < len(first.steps):
            break
    return first


def _usable(trajectory: Trajectory, settings: SamplingSettings, limit: float) -> list[bool]:
    from ase.neighborlist import neighbor_list

    usable = []
    for frame, energy, force in zip(trajectory.frames, trajectory.energies, trajectory.max_forces, strict=True):
        distances = neighbor_list("d", frame, limit)
        shortest = float(distances.min()) if len(distances) else np.inf
        reason = unphysical_reason(shortest, force, min_distance=limit, max_force=settings.max_force, energy=energy)
        usable.append(reason is None)
    return usable


def _record(start: Start, trajectory: Trajectory, frames: list[FrameRecord]) -> ConfigurationRecord:
    parameters = start.atoms.cell.cellpar()
    return ConfigurationRecord(
        volume_factor=start.volume_factor,
        volume=float(start.atoms.get_volume()),
        rattle_seed=start.rattle_seed,
        strain_seed=start.strain_seed,
        sigma=start.rattled.sigma,
        mean_displacement=start.rattled.mean,
        rattle_min_distance=start.rattled.min_distance,
        length_factors=list(start.distortion.length_factors),
        angle_factors=list(start.distortion.angle_factors),
        strain_volume_factor=start.distortion.volume_factor,
        scale=start.scale,
        lengths=[float(value) for value in parameters[:3]],
        angles=[float(value) for value in parameters[3:]],
        start_digest=digest_atoms(start.atoms),
        converged=trajectory.converged,
        n_steps=trajectory.n_steps,
        final_fmax=trajectory.fmax[-1],
        energies=list(trajectory.energies),
        frames=frames,
    )


def _rounded(frame: Atoms) -> Atoms:
    """Return a frame rounded to what a file keeps (1e-8 Å changes an energy by less than 1e-7 eV)."""
    copy = frame.copy()
    copy.calc = None
    copy.set_cell(round_cell(np.array(copy.cell.array)))
    copy.positions = round_positions(copy.positions)
    return copy


def _split(
    records: list[ConfigurationRecord], chosen: list[list[Atoms]], settings: SamplingSettings
) -> tuple[list[Atoms], list[Atoms]]:
    """Put frames into the training and validation lists, in order, and note where each went."""
    factors = settings.volume_factors
    kept = [[layer for layer, frame in enumerate(record.frames) if frame.split != "dropped"] for record in records]
    validation = validation_index(factors)
    order = [(index, kept[index][rank]) for index, rank in training_order(factors, [len(item) for item in kept])]
    train, valid = [], []
    for position, (index, layer) in enumerate(order):
        train.append(_labelled(chosen[index][layer], records[index], layer, "train", position))
    for position, layer in enumerate(kept[validation]):
        valid.append(_labelled(chosen[validation][layer], records[validation], layer, "valid", position))
    return train, valid


def _labelled(atoms: Atoms, record: ConfigurationRecord, layer: int, split: str, position: int) -> Atoms:
    frame = record.frames[layer]
    frame.split = "train" if split == "train" else "valid"
    frame.position = position
    # the foundation's energy must never be mistaken for a label, hence no `energy` key
    atoms.info = {
        "split": split,
        "position": position,
        "volume_factor": record.volume_factor,
        "layer": layer,
        "step": frame.step,
        "foundation_energy": frame.energy,
        "energy_fraction": frame.energy_fraction,
    }
    return atoms


def frames_to_extxyz(frames: Sequence[Atoms]) -> bytes:
    """Return frames as extended XYZ; reading them back gives the same digests."""
    return format_frames(frames).encode()


def frames_from_extxyz(data: bytes) -> list[Atoms]:
    """Read what ``frames_to_extxyz`` wrote."""
    return parse_frames(data.decode(), "sampled frames") if data.strip() else []
