"""What ships in the package: a small foundation, the empirical reference that plays DFT, and demonstration materials.

The model card (README.md beside this file) says what they are and are not.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from phonosmith.core.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from phonosmith.potentials.empirical.potential import EmpiricalPotential

DEMO_MATERIALS = {"Si": "diamond", "Ge": "diamond", "C": "diamond", "SiC": "zincblende"}
"""Material and prototype; every one is covered by both the foundation and the reference."""
_START = {"Si": 5.43, "Ge": 5.66, "C": 3.57, "SiC": 4.36}


def foundation_bytes() -> bytes:
    """Return the file of the embedded foundation."""
    return (files(__name__) / "foundation.safetensors").read_bytes()


def reference_bytes() -> bytes:
    """Return the parameter file of the embedded reference."""
    return (files(__name__) / "reference.json").read_bytes()


def teacher_bytes() -> bytes:
    """Return the parameter file of the potentials that the embedded foundation was trained on."""
    return (files(__name__) / "teacher.json").read_bytes()


def demo_structure(name: str, *, cubic: bool = False) -> Atoms:
    """Return a demonstration crystal (one of `DEMO_MATERIALS`) at the embedded reference's lattice constant.

    ``cubic`` gives the conventional cell of eight atoms instead of the primitive cell of two.
    """
    from ase.build import bulk

    if name not in DEMO_MATERIALS:
        raise InputError(f"{name!r} is not a demonstration material.", f"Choose one of {', '.join(DEMO_MATERIALS)}.")
    return bulk(name, DEMO_MATERIALS[name], a=reference_lattice_constant(name), cubic=cubic)


def read_crystal(source: str | Path) -> Structure:
    """Return a crystal from a file (see ``read_structure``), or a demonstration crystal, as in ``embedded:Si``."""
    from pymatgen.core import Structure

    from phonosmith.structures.reading import read_structure

    kind, _, name = str(source).partition(":")
    return Structure.from_ase_atoms(demo_structure(name)) if kind == "embedded" else read_structure(source)


def lattice_constant(potential: EmpiricalPotential, name: str) -> float:
    """Return the lattice constant (Å) of a demonstration material at which an empirical potential has no pressure."""
    from ase.build import bulk
    from scipy.optimize import brentq

    def pressure(a: float) -> float:
        (evaluation,) = potential.evaluate([bulk(name, DEMO_MATERIALS[name], a=a)])
        return -float(evaluation.stress[:3].mean())

    return float(brentq(pressure, 0.95 * _START[name], 1.05 * _START[name], xtol=1e-12))


@cache
def reference_lattice_constant(name: str) -> float:
    """Return the lattice constant (Å) of a demonstration material in the embedded reference."""
    from phonosmith.potentials.empirical.potential import load_empirical

    return lattice_constant(load_empirical(reference_bytes()), name)
