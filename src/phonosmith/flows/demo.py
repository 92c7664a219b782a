"""The demonstrations: the whole pipeline without DFT (embedded foundation and reference), and with a published one.

`demo_flow` needs nothing but the package, `real_demo_flow` GPAW and SevenNet's published weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import InputError, did_you_mean
from phonosmith.flows.material import FineTuneMaterialMaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobflow import Flow
    from pymatgen.core import Structure

DEMO_STRATEGIES = ("scratch", "transfer", "freeze1", "delta", "delta+pft")
DEMO_EPOCHS = 60
FOUNDATION, REFERENCE = "embedded", "embedded-reference"
REAL_FOUNDATION = "7net-0"
REAL_STRATEGIES = ("transfer",)
REAL_EPOCHS = 60


@dataclass(frozen=True)
class RealCrystal:
    """A crystal of the demonstration with real DFT and the settings of its calculations, labels and phonons alike.

    Attributes
    ----------
    prototype, lattice_constant
        Of ASE's ``bulk``; Å. It is only the start: the reference relaxes the crystal.
    encut, kspacing
        Plane-wave cutoff in eV and k-point spacing in Å⁻¹ (VASP's convention).
    """

    prototype: str
    lattice_constant: float
    encut: float
    kspacing: float

    def structure(self, name: str) -> Structure:
        """Return the primitive cell."""
        from ase.build import bulk
        from pymatgen.io.ase import AseAtomsAdaptor

        return AseAtomsAdaptor.get_structure(bulk(name, self.prototype, a=self.lattice_constant))


REAL_CRYSTALS = {
    "Si": RealCrystal("diamond", 5.47, encut=200.0, kspacing=0.36),
    "AlAs": RealCrystal("zincblende", 5.73, encut=250.0, kspacing=0.36),
}


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


def real_demo_flow(
    materials: Sequence[str] = tuple(REAL_CRYSTALS),
    strategies: Sequence[str] = REAL_STRATEGIES,
    epochs: int = REAL_EPOCHS,
    *,
    sizes: Sequence[int] = (),
    small: bool = False,
) -> Flow:
    """Return the flow that fine-tunes SevenNet-0 on real PBE by GPAW, with GPAW's phonons as the truth.

    The published protocol in small, so that it ends within a quarter of an hour on two cores: labels and displaced
    cells of sixteen atoms. ``sizes``: numbers of training labels, all six by default. ``small``: primitive cells and
    few labels, a test of the way in a minute or two whose numbers mean little.
    """
    from jobflow import Flow

    from phonosmith.potentials.registry import resolve
    from phonosmith.reference.engines import make_engine
    from phonosmith.reference.gpaw import require_gpaw

    for material in materials:
        if material not in REAL_CRYSTALS:
            raise InputError(
                f"There is no demonstration with real DFT of {material!r}.",
                f"{did_you_mean(material, REAL_CRYSTALS)}Known: {', '.join(REAL_CRYSTALS)}.",
            )
    require_gpaw()
    foundation = resolve(REAL_FOUNDATION)
    flows = []
    for material in materials:
        crystal = REAL_CRYSTALS[material]
        protocol = {
            "encut": crystal.encut,
            "kspacing": crystal.kspacing * (1.5 if small else 1.0),
            "ediff": 1e-7,
            "displacement_kpoints": "kspacing",
        }
        maker = FineTuneMaterialMaker(
            name="demo",
            engine=make_engine("gpaw", protocol),
            strategies=tuple(strategies),
            relax=True,
            evaluate=("phonons",),
            training={"epochs": epochs, "batch_size": 1, "lr": 0.003},
            n_train=tuple(sizes),
            **(_SMALL if small else _REAL),
        )
        flows.append(maker.make(crystal.structure(material), foundation, material))
    return Flow(flows, name="demo with real DFT")


_DOUBLED = [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
_REAL: dict[str, Any] = {
    "sampling": {
        "supercell_matrix": _DOUBLED,
        "volume_of": "supercell",
        "volume_factors": [0.97, 1.0, 1.03],
        "n_select": 3,
        "fmax": 0.02,
    },
    "supercell": _DOUBLED,
}
_SMALL: dict[str, Any] = {
    "sampling": _REAL["sampling"] | {"supercell_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "n_select": 1},
    "supercell": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "mesh": 8,
}
