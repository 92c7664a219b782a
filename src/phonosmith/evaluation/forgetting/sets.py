"""Structures a fine-tuned potential was not tuned on.

The published protocol tunes on cells rattled by 0.1 Å, distorted by up to 2 % and scaled by up to 5 % in volume. The
sets here go beyond each of these, or to other materials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import InputError
from phonosmith.evaluation.mechanics.fastpath import scaled_cell
from phonosmith.sampling.ladder import volume_ladder
from phonosmith.sampling.rattle import draw_seed
from phonosmith.structures.standard import standard_primitive
from phonosmith.structures.supercell import sampling_supercell

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

FAR_DISPLACEMENT = 0.3
"""Å, mean; three times the protocol's."""
LARGE_STRAIN = 0.08
"""Largest relative change of a length or angle; four times the protocol's."""
OUTER_VOLUMES = (0.85, 0.89, 0.93, 1.07, 1.11, 1.15)
"""Volumes over the given one, all outside ±6 %."""
MAX_ATOMS = 64
MAX_REPLAY = 20
"""Structures drawn from a replay pool."""
_NEAR = 0.97, 1.0, 1.03


@dataclass(frozen=True)
class FrameSet:
    """Structures to compare potentials on, named as in ``ForgettingSet``; labels that all carry are the truth."""

    name: str
    kind: str
    frames: Sequence[Atoms]


def _ladder(structure: Structure, count: int, seed: int, *, max_atoms: int = MAX_ATOMS, **how: Any) -> list[Atoms]:
    """Return rattled and distorted cells; what is not said in ``how`` is as for training."""
    if count < 1:
        raise InputError(f"{count} structures are no set.", "Ask for at least one.")
    primitive = standard_primitive(structure)
    choice = sampling_supercell(primitive, "small", max_atoms=max(max_atoms, len(primitive)))
    supercell = choice.build(primitive).to_ase_atoms(msonable=False)
    factors = list(islice(cycle(_NEAR), count))
    return [
        start.atoms for start in volume_ladder(supercell, seed, volume_factors=factors, volume_of="supercell", **how)
    ]


def far_set(structure: Structure, seed: int = 0, count: int = 4) -> FrameSet:
    """Return the same material far from equilibrium: rattled three times as far as the training cells."""
    draw = draw_seed(seed, "forgetting far")
    frames = _ladder(structure, count, draw, mean_displacement=FAR_DISPLACEMENT, min_distance_fraction=0.7)
    return FrameSet(f"rattled {FAR_DISPLACEMENT:g} Å", "far", frames)


def strained_set(structure: Structure, seed: int = 0, count: int = 4) -> FrameSet:
    """Return the same material rattled as in training in cells distorted four times as far."""
    frames = _ladder(structure, count, draw_seed(seed, "forgetting strain"), strain=LARGE_STRAIN)
    return FrameSet(f"strain {100 * LARGE_STRAIN:g} %", "strain", frames)


def eos_set(structure: Structure) -> FrameSet:
    """Return the primitive cell at volumes outside the range of training, fractional coordinates kept."""
    atoms = standard_primitive(structure).to_ase_atoms(msonable=False)
    return FrameSet("EOS outside ±6 %", "eos", [scaled_cell(atoms, factor) for factor in OUTER_VOLUMES])


def other_set(name: str, structure: Structure, seed: int = 0, count: int = 2) -> FrameSet:
    """Return another material's cells, rattled and distorted as training cells are."""
    frames = _ladder(structure, count, draw_seed(seed, "forgetting", name), max_atoms=32)
    return FrameSet(f"other material {name}", "other", frames)


def demonstration_structures() -> dict[str, Structure]:
    """Return the package's demonstration materials: the other materials of a first look."""
    from pymatgen.core import Structure

    from phonosmith.potentials.embedded import DEMO_MATERIALS, demo_structure

    return {name: Structure.from_ase_atoms(demo_structure(name)) for name in DEMO_MATERIALS}


def default_sets(
    structure: Structure,
    seed: int = 0,
    *,
    count: int = 4,
    replay: Sequence[Atoms] = (),
    given: Sequence[Atoms] = (),
) -> list[FrameSet]:
    """Return the sets that are judged; other materials are the demonstration materials, the same compound left out.

    Parameters
    ----------
    structure, seed
        The material that was tuned on, at equilibrium; seed of every draw.
    count
        Structures in each random set of the same material; other materials get half as many.
    replay
        Structures that training replayed, or would have; at most 20 are drawn.
    given
        Frames of other materials; labels that all of them carry are the truth.
    """
    sets = [far_set(structure, seed, count), strained_set(structure, seed, count), eos_set(structure)]
    for name, other in demonstration_structures().items():
        if other.composition.reduced_formula != structure.composition.reduced_formula:
            sets.append(other_set(name, other, seed, max(count // 2, 1)))
    if replay:
        from phonosmith.training.replay import draw  # imports torch

        sets.append(FrameSet("replay pool", "replay", draw(replay, MAX_REPLAY, draw_seed(seed, "forgetting replay"))))
    if given:
        sets.append(FrameSet("given frames", "other", list(given)))
    return sets
