"""Energy models behind the stand-in."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class PairMorse(Calculator):
    """Morse pairs with a smooth cutoff for any elements; equilibrium distance 1.1 times the sum of covalent radii.

    It holds crystals together and has consistent derivatives: all that a rehearsal of a material without a
    potential of its own needs.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]
    depth = 0.35
    width = 1.6
    cutoff = 6.0

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Compute energy (eV), forces (eV/Å) and stress (eV/Å³)."""
        from ase.data import covalent_radii
        from ase.neighborlist import neighbor_list

        super().calculate(atoms, properties, system_changes)
        first, second, distance, vector = neighbor_list("ijdD", self.atoms, self.cutoff)
        numbers = self.atoms.numbers
        best = 1.1 * (covalent_radii[numbers[first]] + covalent_radii[numbers[second]])
        decay = np.exp(-self.width * (distance - best))
        ratio = (distance / self.cutoff) ** 2
        switch, slope = (1 - ratio) ** 2, -4 * distance / self.cutoff**2 * (1 - ratio)
        pair = self.depth * (decay**2 - 2 * decay)
        derivative = -2 * self.depth * self.width * (decay**2 - decay) * switch + pair * slope
        along = (derivative / distance)[:, None] * vector
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, first, along)
        stress = 0.5 * np.einsum("pa,pb->ab", along, vector) / self.atoms.get_volume()
        energy = float(0.5 * (pair * switch).sum())
        voigt = np.array([stress[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])
        self.results = {"energy": energy, "free_energy": energy, "forces": forces, "stress": voigt}


def tersoff_silicon() -> Calculator:
    """Return Tersoff's silicon (Phys. Rev. B 38, 9902)."""
    from ase.calculators.tersoff import Tersoff, TersoffParameters

    silicon = TersoffParameters(
        m=3.0, gamma=1.0, lambda3=0.0, c=1.0039e5, d=16.217, h=-0.59825, n=0.78734, beta=1.1e-6, lambda2=1.73222,
        B=471.18, R=2.85, D=0.15, lambda1=2.4799, A=1830.8,
    )  # fmt: skip
    return Tersoff({("Si", "Si", "Si"): silicon})


def make_calculator(name: str, kwargs: Mapping[str, Any]) -> Calculator:
    """Return the calculator a name or dotted path stands for."""
    from ase.calculators.emt import EMT

    known: dict[str, Callable[[], Calculator]] = {"morse": PairMorse, "tersoff-si": tersoff_silicon, "emt": EMT}
    if name in known:
        return known[name]()
    module, _, attribute = name.rpartition(".")
    if not module:
        raise SystemExit(f"The stand-in knows no calculator '{name}': emt, tersoff-si, morse or a dotted path.")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"The stand-in's calculator '{name}' cannot be imported: {error}.") from error
    return factory(**kwargs)
