"""A crystal of anharmonic bonds whose soft modes, wells and minima are known in closed form.

Atoms sit on an orthorhombic lattice. Bonds join the first, second and third neighbours along each axis. With s the
change of a bond vector, the energy of a bond of order n along axis a is Σ_c ½ k[n, a, c] s_c²; first neighbours have
¼ b[a, c] s_c⁴ + (1/6) d[a, c] s_c⁶ and ½ g[a] Σ_{c<c'} s_c² s_c'² besides. Energies depend on differences of positions
only, and the crystal's own symmetry holds where the coefficients have it; a rotated crystal is another crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray

from phonosmith.core.units import THZ_PER_SQRT_EV_PER_A2_AMU
from phonosmith.potentials.ase_potential import AsePotential

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]


class BondCalculator(Calculator):  # type: ignore[misc]  # ASE has no type information
    """Energy, forces and stress of the bond crystal.

    Parameters
    ----------
    edges
        Lattice constants, Å.
    springs
        k, shape (3 orders, 3 axes, 3 components), eV/Å².
    quartic
        b, shape (3, 3), eV/Å⁴.
    sextic
        d, shape (3, 3), eV/Å⁶.
    cross
        g, shape (3,), eV/Å⁴.
    """

    implemented_properties = ("energy", "forces", "stress", "free_energy")

    def __init__(self, edges: Any, springs: Any, quartic: Any, sextic: Any = None, cross: Any = None) -> None:
        super().__init__()
        self.edges = np.asarray(edges, dtype=float)
        self.springs = np.asarray(springs, dtype=float)
        self.quartic = np.asarray(quartic, dtype=float)
        self.sextic = np.zeros((3, 3)) if sextic is None else np.asarray(sextic, dtype=float)
        self.cross = np.zeros(3) if cross is None else np.asarray(cross, dtype=float)

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Fill ``results``."""
        super().calculate(atoms, list(properties), system_changes)
        if atoms is None:
            return
        energy, forces, virial = 0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3))
        for order in range(3):
            for axis in range(3):
                first, second, vectors = self._bonds(atoms, order + 1, axis)
                change = vectors - (order + 1) * self.edges[axis] * np.eye(3)[axis]
                value, slope = self._bond_energy(order, axis, change)
                energy += float(value.sum())
                np.add.at(forces, first, slope)
                np.add.at(forces, second, -slope)
                virial += slope.T @ vectors
        stress = (virial + virial.T) / 2 / atoms.get_volume()
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": forces,
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }

    def _bonds(self, atoms: Atoms, order: int, axis: int) -> tuple[Any, Any, Array]:
        """Return both atoms and the vector of every bond of an order along an axis."""
        wanted = order * self.edges[axis] * np.eye(3)[axis]
        inverse = np.linalg.inv(atoms.cell.array)
        apart = atoms.positions[None] - atoms.positions[:, None] - wanted
        apart -= np.rint(apart @ inverse) @ atoms.cell.array
        second = np.linalg.norm(apart, axis=2).argmin(axis=1)
        first = np.arange(len(atoms))
        return first, second, apart[first, second] + wanted

    def _bond_energy(self, order: int, axis: int, s: Array) -> tuple[Array, Array]:
        """Return energy and slope of bonds."""
        spring = self.springs[order, axis]
        value, slope = 0.5 * (s**2 @ spring), s * spring
        if order == 0:
            quartic, sextic, cross = self.quartic[axis], self.sextic[axis], self.cross[axis]
            squares = s**2
            total = squares.sum(axis=1)
            value = value + s**4 @ quartic / 4 + s**6 @ sextic / 6 + cross / 4 * (total**2 - (s**4).sum(axis=1))
            slope = slope + s**3 * quartic + s**5 * sextic + cross * s * (total[:, None] - squares)
        return value, slope


def bond_potential(elements: Sequence[str], edges: Any, springs: Any, quartic: Any, **options: Any) -> AsePotential:
    """Return the bond crystal as a potential; see `BondCalculator`."""
    return AsePotential(lambda: BondCalculator(edges, springs, quartic, **options), elements)


def bond_frequency(springs: Any, q: Any, component: int, mass: float) -> float:
    """Return the closed-form frequency in THz (imaginary negative) of a crystal of one atom per lattice point.

    ω² = (2/m) Σ_{n,a} k[n, a, c] (1 - cos 2πn q_a).
    """
    constants = np.asarray(springs, dtype=float)[:, :, component]
    orders = np.arange(1, 4)[:, None]
    square = 2 / mass * float((constants * (1 - np.cos(2 * np.pi * orders * np.asarray(q)[None]))).sum())
    return float(np.sign(square) * np.sqrt(abs(square)) * THZ_PER_SQRT_EV_PER_A2_AMU)
