"""Bond-order potentials of Tersoff's form, energies and analytic derivatives in numpy.

E = ½ Σ_ij f_c(r_ij) [ A exp(-λ₁ r_ij) - b_ij B exp(-λ₂ r_ij) ],  b_ij = (1 + (β ζ_ij)ⁿ)^(-1/2n),
ζ_ij = Σ_k≠j f_c(r_ik) γ (1 + c²/d² - c²/(d² + (cos θ_ijk - h)²)) exp[(λ₃ (r_ij - r_ik))^m].

J. Tersoff, Phys. Rev. B 37, 6991 (1988); 39, 5566 (1989). The notation of Erhart and Albe, Phys. Rev. B 71, 035211
(2005) (D₀, r₀, S, β, γ, c, d, h, R, D) and Tersoff's mixing rules are the same function written differently; see
`from_albe` and `from_mixing`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.empirical.bonds import Bonds, Derivatives, Floats, Integers, angles, collect, scatter
from phonosmith.potentials.empirical.triplets import triplet_table

NAMES = ("m", "gamma", "lambda3", "c", "d", "costheta0", "n", "beta", "lambda2", "B", "R", "D", "lambda1", "A")
"""Parameters of one ordered triplet (centre, bonded atom, third atom), in the order LAMMPS files list them.

A, B in eV; λ in 1/Å; the cutoff function falls from 1 to 0 between R - D and R + D, Å.
"""
_SMALLEST_ZETA = 1e-30
_LARGEST_EXPONENT = 69.0


def from_albe(elements: Sequence[str], pairs: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return Tersoff's triplet parameters for a potential published in Albe's pair notation.

    Parameters
    ----------
    elements
        Chemical symbols.
    pairs
        D0, r0, S, beta, gamma, c, d, h, R, D by pair, e.g. ``"Si-C"`` (either order). The exponential of the third
        atom (2μ) is taken as zero, as in Erhart and Albe's sets.
    """
    triplets = {}
    for centre, bonded, third in product(elements, repeat=3):
        bond = _pair(pairs, centre, bonded)
        angle = _pair(pairs, centre, third)
        depth = bond["D0"] / (bond["S"] - 1.0)
        lambda1 = bond["beta"] * math.sqrt(2.0 * bond["S"])
        lambda2 = bond["beta"] * math.sqrt(2.0 / bond["S"])
        triplets[f"{centre}-{bonded}-{third}"] = {
            "m": 1.0,
            "gamma": angle["gamma"],
            "lambda3": 0.0,
            "c": angle["c"],
            "d": angle["d"],
            "costheta0": -angle["h"],
            "n": 1.0,
            "beta": 1.0,
            "lambda2": lambda2,
            "B": bond["S"] * depth * math.exp(lambda2 * bond["r0"]),
            "R": angle["R"],
            "D": angle["D"],
            "lambda1": lambda1,
            "A": depth * math.exp(lambda1 * bond["r0"]),
        }
    return triplets


def from_mixing(elements: Sequence[str], parameters: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return Tersoff's triplet parameters for a multicomponent set in the notation of Tersoff (1989).

    Parameters
    ----------
    elements
        Chemical symbols.
    parameters
        A, B, lambda, mu, beta, n, c, d, h, R, S by element and chi by pair (``"C-Si"``). λ and μ mix arithmetically;
        A, B and the cutoffs R, S geometrically.
    """
    triplets = {}
    for centre, bonded, third in product(elements, repeat=3):
        own, partner, other = parameters[centre], parameters[bonded], parameters[third]
        chi = 1.0 if centre == bonded else _pair(parameters, centre, bonded)["chi"]
        inner, outer = math.sqrt(own["R"] * other["R"]), math.sqrt(own["S"] * other["S"])
        triplets[f"{centre}-{bonded}-{third}"] = {
            "m": 3.0,
            "gamma": 1.0,
            "lambda3": 0.0,
            "c": own["c"],
            "d": own["d"],
            "costheta0": own["h"],
            "n": own["n"],
            "beta": own["beta"],
            "lambda2": 0.5 * (own["mu"] + partner["mu"]),
            "B": chi * math.sqrt(own["B"] * partner["B"]),
            "R": 0.5 * (inner + outer),
            "D": 0.5 * (outer - inner),
            "lambda1": 0.5 * (own["lambda"] + partner["lambda"]),
            "A": math.sqrt(own["A"] * partner["A"]),
        }
    return triplets


def _pair(pairs: Mapping[str, Mapping[str, float]], one: str, other: str) -> Mapping[str, float]:
    for name in (f"{one}-{other}", f"{other}-{one}"):
        if name in pairs:
            return pairs[name]
    raise PotentialError(f"No parameters for the pair {one}-{other}.", "Add the pair to the parameter file.")


@dataclass(frozen=True)
class Tersoff:
    """One parameter set, ready to evaluate batches.

    Attributes
    ----------
    elements
        Chemical symbols covered.
    table
        Every parameter of `NAMES` as an array of shape (n_elements, n_elements, n_elements).
    """

    elements: tuple[str, ...]
    table: dict[str, Floats]

    @classmethod
    def from_triplets(cls, elements: Sequence[str], triplets: Mapping[str, Mapping[str, float]]) -> Tersoff:
        """Build from parameters by triplet, e.g. ``"Si-C-C"`` (centre, bonded, third)."""
        table = triplet_table(elements, triplets, NAMES, "Tersoff")
        return cls(tuple(elements), table)

    @property
    def cutoff(self) -> float:
        """Longest bond, Å."""
        return float((self.table["R"] + self.table["D"]).max())

    def evaluate(self, bonds: Bonds) -> Derivatives:
        """Return energies, forces and virials of a batch of configurations."""
        own, partner = bonds.species[bonds.first], bonds.species[bonds.second]
        centre = (own, partner, partner)
        bonds = bonds.keep(bonds.length < self.table["R"][centre] + self.table["D"][centre])
        own, partner = bonds.species[bonds.first], bonds.species[bonds.second]
        pair = {name: values[own, partner, partner] for name, values in self.table.items()}
        r = bonds.length
        unit = bonds.vector / r[:, None]
        fc, dfc = _cutoff_function(r, pair["R"], pair["D"])
        repulsion = pair["A"] * np.exp(-pair["lambda1"] * r)
        attraction = -pair["B"] * np.exp(-pair["lambda2"] * r)

        p, q = angles(bonds)
        term = self._angle_terms(bonds, p, q, unit, fc[q], dfc[q])
        zeta: Floats = np.bincount(p, term["value"], len(r)).astype(np.float64)  # integers when there is no angle
        order, d_order = _bond_order(zeta, pair["beta"], pair["n"])

        energy = 0.5 * fc * (repulsion + order * attraction)
        slope = 0.5 * (
            dfc * (repulsion + order * attraction)
            - fc * (pair["lambda1"] * repulsion + order * pair["lambda2"] * attraction)
        )
        weight = (0.5 * fc * attraction * d_order)[p]
        gradient = slope[:, None] * unit
        gradient += scatter(len(r), p, weight[:, None] * term["toward_p"])
        gradient += scatter(len(r), q, weight[:, None] * term["toward_q"])
        return collect(bonds, energy, gradient)

    def _angle_terms(
        self, bonds: Bonds, p: Integers, q: Integers, unit: Floats, fc: Floats, dfc: Floats
    ) -> dict[str, Floats]:
        """Return every summand of ζ and its derivative with respect to both bond vectors."""
        where = (bonds.species[bonds.first[p]], bonds.species[bonds.second[p]], bonds.species[bonds.second[q]])
        gamma, c, d, h, m, lambda3 = (
            self.table[name][where] for name in ("gamma", "c", "d", "costheta0", "m", "lambda3")
        )
        r_p, r_q = bonds.length[p], bonds.length[q]
        unit_p, unit_q = unit[p], unit[q]
        cosine = np.einsum("ij,ij->i", unit_p, unit_q)
        denominator = d**2 + (h - cosine) ** 2
        g = gamma * (1.0 + (c / d) ** 2 - c**2 / denominator)
        dg = -2.0 * gamma * c**2 * (h - cosine) / denominator**2
        stretch = lambda3 * (r_p - r_q)
        exponent = np.clip(stretch**m, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        growth = np.exp(exponent)
        d_growth = growth * m * lambda3 * np.where(lambda3 == 0.0, 0.0, stretch ** (m - 1.0))
        d_cos_p = (unit_q - cosine[:, None] * unit_p) / r_p[:, None]
        d_cos_q = (unit_p - cosine[:, None] * unit_q) / r_q[:, None]
        bend = (fc * dg * growth)[:, None]
        along = fc * g * d_growth
        return {
            "value": fc * g * growth,
            "toward_p": bend * d_cos_p + along[:, None] * unit_p,
            "toward_q": bend * d_cos_q + (dfc * g * growth - along)[:, None] * unit_q,
        }


def _cutoff_function(r: Floats, R: Floats, D: Floats) -> tuple[Floats, Floats]:
    """Return Tersoff's smooth cutoff and its derivative (1/Å)."""
    phase = np.pi * (r - R) / (2.0 * D)
    inside: NDArray[np.bool_] = r <= R - D
    outside: NDArray[np.bool_] = r >= R + D
    edge = ~(inside | outside)
    value = np.where(inside, 1.0, np.where(edge, 0.5 * (1.0 - np.sin(phase)), 0.0))
    slope = np.where(edge, -0.25 * np.pi / D * np.cos(phase), 0.0)
    return value, slope


def _bond_order(zeta: Floats, beta: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return b(ζ) and db/dζ; a pair without a third atom has b = 1."""
    scaled = beta * np.maximum(zeta, 0.0)
    alone = scaled < _SMALLEST_ZETA
    safe = np.where(alone, 1.0, scaled)
    power = safe**n
    base = 1.0 + power
    value = base ** (-0.5 / n)
    slope = -0.5 * value / base * power / safe * beta
    return np.where(alone, 1.0, value), np.where(alone, 0.0, slope)
