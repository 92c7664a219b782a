"""The whole sampling protocol as one pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from phonosmith.core.errors import ConvergenceError, InputError, MismatchError
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
from phonosmith.sampling.rungs import Configuration, place_on_rungs, stored_steps
from phonosmith.sampling.selection import (
    Selection,
    near_duplicates,
    select_by_energy,
    training_order,
    validation_index,
)
from phonosmith.structures.reading import clean_structure, structure_warnings
from phonosmith.structures.standard import standard_primitive
from phonosmith.structures.supercell import SupercellChoice, describe_supercell, sampling_supercell

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from phonosmith.potentials.base import Potential
    from phonosmith.potentials.documents import PotentialRef


SETTLED = 0.01
"""Part of the energy drop that may fall in the second half of a relaxation stopped by the step cap."""


@dataclass
class SamplingResult:
    """Configurations for the reference calculations.

    Attributes
    ----------
    train, valid
        Frames, outermost first: any prefix of the training frames is a nested training set.
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
    standardise: bool = True,
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
        Foundation that drives the relaxations.
    settings
        Defaults to the published protocol in the large cell.
    seed
        Every random draw follows from it.
    reference
        Identity of ``potential``, recorded in the document.
    standardise
        Start from the standard primitive cell, or from the cell as given: that of a magnetic order, which symmetry
        without moments would reduce.
    on_step
        Progress callback of the relaxations: step number, configurations still moving.
    """
    settings = settings or SamplingSettings()
    clean = clean_structure(structure)
    primitive = standard_primitive(clean, settings.symprec) if standardise else clean
    return _run(primitive, potential, settings, seed, reference, structure_warnings(clean), on_step)


def regenerate(
    document: SamplingDoc, potential: Potential, *, on_step: Callable[[int, int], None] | None = None
) -> SamplingResult:
    """Rebuild the configurations of a document; the frames have identical digests on the same kind of machine.

    Starting configurations are identical on any platform. Later frames also depend on the last bits of the
    potential's forces, which differ between processors; they agree there to the accuracy of the forces.
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
    if settings.supercell_matrix is not None:
        choice = describe_supercell(primitive, np.array(settings.supercell_matrix))
    else:
        choice = sampling_supercell(primitive, settings.cell, max_atoms=max(settings.max_atoms, len(primitive)))
    warnings = [*notes, *choice.warnings]
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
            volume_of=settings.volume_of,
            mean_displacement=settings.mean_displacement,
            strain=settings.strain,
            min_distance_fraction=settings.rattle_distance_fraction,
            n_iter=settings.rattle_cycles,
        )
        trajectories = relax_batch(
            [start.atoms for start in starts],
            potential,
            fmax=settings.fmax,
            max_steps=settings.max_steps * settings.max_rounds,
            cell=settings.relax_cell,
            on_step=on_step,
        )
        limit = settings.min_distance_fraction * shortest_distance(supercell)
        physical = [_usable(trajectory, settings, limit) for trajectory in trajectories]
        selections = [_distinct(*pair, settings) for pair in zip(trajectories, physical, strict=True)]
        placed = place_on_rungs(trajectories, selections, physical, potential, settings.energy_tolerance)
        choices = [
            _choose(*parts, settings, limit) for parts in zip(starts, trajectories, selections, placed, strict=True)
        ]
        records = [record for record, _, _ in choices]
        volumes_by_note: dict[str, list[str]] = {}
        for record, _, remarks in choices:
            for note in remarks:
                volumes_by_note.setdefault(note, []).append(f"{record.volume_factor:g}")
        warnings.extend(f"volume {', '.join(volumes)}: {note}" for note, volumes in volumes_by_note.items())
        train, valid = _split(records, [frames for _, frames, _ in choices], settings)
        if not (train and valid) and not all(record.converged for record in records):
            lost = "training" if valid else "validation"
            raise ConvergenceError(
                f"No {lost} configuration of {primitive.composition.reduced_formula} is left: relaxations did not end "
                f"within {settings.max_rounds} times {settings.max_steps} steps.",
                "Allow more (max_steps, max_rounds), or use them as they are (unconverged: use).",
            )
    document = SamplingDoc(
        manifest=manifest,
        formula=primitive.composition.reduced_formula,
        seed=seed,
        settings=settings,
        potential=reference,
        primitive=CellRecord.of(primitive),
        supercell=SupercellRecord.model_validate(choice, from_attributes=True),
        configurations=records,
        train_digests=[digest_atoms(atoms) for atoms in train],
        valid_digests=[digest_atoms(atoms) for atoms in valid],
        warnings=warnings,
    )
    return SamplingResult(train, valid, document, starts, trajectories)


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
    return _rounded(atoms)


def _choose(
    start: Start,
    trajectory: Trajectory,
    selection: Selection,
    placed: list[Configuration],
    settings: SamplingSettings,
    limit: float,
) -> tuple[ConfigurationRecord, list[Atoms], list[str]]:
    """Return the record of one relaxation, its chosen and rounded frames, and what to warn of."""
    warnings = [*start.rattled.warnings, *selection.reasons]
    if not trajectory.converged:
        used = settings.unconverged == "use" or settings.max_steps == 0 or _settled(trajectory)
        warnings.append(
            f"relaxation not converged after {trajectory.n_steps} steps (largest force "
            f"{trajectory.fmax[-1]:.1e} eV/Å, asked {settings.fmax:.0e}); "
            + ("its frames are used" if used else "its frames are left out: allow more steps")
        )
        if not used:
            return _record(start, trajectory, []), [], warnings
    kept = [
        stored if one.between and not _physical(one.frame, one.max_force, settings, limit) else one
        for one, stored in zip(placed, stored_steps(trajectory, selection), strict=True)
    ]
    achieved = [(kept[0].energy - one.energy) / selection.drop if selection.drop else 0.0 for one in kept]
    missed = float(np.abs(np.subtract(achieved, selection.parts)).max(initial=0.0))
    if missed > settings.energy_tolerance:
        warnings.append(f"rungs of the energy ladder are missed by up to {100 * missed:.0f} % of the drop")
    frames = [_rounded(one.frame) for one in kept]
    repeated = set(near_duplicates([frame.positions for frame in frames], settings.duplicate_tolerance))
    records = []
    for layer, (one, frame) in enumerate(zip(kept, frames, strict=True)):
        again = layer in repeated
        dropped = again and settings.duplicates == "drop"
        if again:
            warnings.append(f"frame {layer} is a near-duplicate and was {'dropped' if dropped else 'kept'}")
        records.append(
            FrameRecord(
                digest=digest_atoms(frame),
                layer=layer,
                step=one.step,
                between=one.between,
                target_energy=selection.targets[layer],
                energy=one.energy,
                energy_fraction=achieved[layer],
                max_force=one.max_force,
                min_distance=shortest_distance(frame),
                split="dropped" if dropped else "train",
                reason=f"no atom moved {settings.duplicate_tolerance:g} Å from an outer frame" if again else "",
            )
        )
    return _record(start, trajectory, records), frames, warnings


def _settled(trajectory: Trajectory) -> bool:
    """Tell whether the energy is so near its end that every rung of the ladder is known to a hundredth of the drop."""
    energies = np.array(trajectory.energies)
    drop = energies[0] - energies.min()
    return bool(len(energies) > 1 and drop > 0 and energies[len(energies) // 2] - energies.min() <= SETTLED * drop)


def _distinct(trajectory: Trajectory, usable: list[bool], settings: SamplingSettings) -> Selection:
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
    """Tell which steps are physical."""
    return [
        _physical(frame, force, settings, limit)
        for frame, force in zip(trajectory.frames, trajectory.max_forces, strict=True)
    ]


def _physical(frame: Atoms, force: float, settings: SamplingSettings, limit: float) -> bool:
    """Tell whether no atoms are nearer than a limit in Å and no force (eV/Å) is larger than the settings allow."""
    from ase.neighborlist import neighbor_list

    return bool(force <= settings.max_force) and not np.any(neighbor_list("d", frame, limit) < limit)


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
        lengths=parameters[:3].tolist(),
        angles=parameters[3:].tolist(),
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
    places: dict[Literal["train", "valid"], list[tuple[int, int]]] = {
        "train": [(index, kept[index][rank]) for index, rank in training_order(factors, [len(item) for item in kept])],
        "valid": [(validation, layer) for layer in kept[validation]],
    }
    for split, frames in places.items():
        for position, (index, layer) in enumerate(frames):
            frame = records[index].frames[layer]
            frame.split, frame.position = split, position
            # the foundation's energy must never be mistaken for a label, hence no `energy` key
            chosen[index][layer].info = {
                "split": split,
                "position": position,
                "volume_factor": records[index].volume_factor,
                "layer": layer,
                "step": frame.step,
                "foundation_energy": frame.energy,
                "energy_fraction": frame.energy_fraction,
            } | ({"between": frame.between} if frame.between else {})
    train, valid = ([chosen[index][layer] for index, layer in frames] for frames in places.values())
    return train, valid
