"""The demonstration: the whole pipeline on the embedded foundation, with the embedded reference in the place of DFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phonosmith.core.errors import InputError
from phonosmith.flows.material import FineTuneMaterialMaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobflow import Flow

DEMO_STRATEGIES = ("scratch", "transfer", "freeze1", "delta", "delta+pft")
DEMO_EPOCHS = 60
FOUNDATION, REFERENCE = "embedded", "embedded-reference"


def demo_flow(material: str = "Si", strategies: Sequence[str] = DEMO_STRATEGIES, epochs: int = DEMO_EPOCHS) -> Flow:
    """Return the flow of one demonstration material.

    Smaller than the published protocol so that it ends within minutes on two cores: supercells of eight primitive
    cells, 10 Å phonon cells, at most 60 epochs. All sixteen labels are used: steps of the relaxations, at volumes over
    the undistorted cell.
    Sampling, labels, audit, training, phonons, elastic constants, equation of state, forgetting and verdict are those
    of a real campaign.
    """
    from phonosmith.potentials.embedded import DEMO_MATERIALS, read_crystal
    from phonosmith.potentials.registry import resolve
    from phonosmith.reference.engines import make_engine

    if material not in DEMO_MATERIALS:
        raise InputError(f"There is no demonstration material {material!r}.", f"Known: {', '.join(DEMO_MATERIALS)}.")
    maker = FineTuneMaterialMaker(
        name="demo",
        engine=make_engine("forcefield", potential=REFERENCE),
        strategies=tuple(strategies),
        sampling={
            "supercell_matrix": [[2, 0, 0], [0, 2, 0], [0, 0, 2]],
            "volume_of": "supercell",
            "energy_tolerance": 1.0,
        },
        training={"epochs": epochs, "batch_size": 4},
        evaluate=("phonons", "elastic", "eos", "forgetting"),
        n_train=(16,),
        min_length=10.0,
        curvature_min_length=5.0,
    )
    return maker.make(read_crystal(f"embedded:{material}"), resolve(FOUNDATION), material)
