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
from itertools import product

import numpy as np

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.empirical.bonds import Bonds, Derivatives, Floats, collect, scatter
from phonosmith.potentials.empirical.triplets import Parameters, TripletPotential

_SMALLEST_ZETA = 1e-30
_LARGEST_EXPONENT = 69.0
_ALBE = {"m": 1.0, "lambda3": 0.0, "n": 1.0, "beta": 1.0}
_MIXED = {"m": 3.0, "lambda3": 0.0, "gamma": 1.0}
"""What the notations leave out, in Tersoff's own."""


class Tersoff(TripletPotential):
    """One parameter set; parameters by triplet (centre, bonded atom, third atom), in the order LAMMPS files list them.

    A, B in eV; λ in 1/Å; the cutoff function falls from 1 to 0 between R - D and R + D, Å.
    """

    kind = "Tersoff"
    names = ("m", "gamma", "lambda3", "c", "d", "costheta0", "n", "beta", "lambda2", "B", "R", "D", "lambda1", "A")

    @property
    def reach(self) -> Floats:
        """Lengths at which bonds end, Å, by triplet."""
        return self.table["R"] + self.table["D"]

    def evaluate(self, bonds: Bonds) -> Derivatives:
        """Return energies, forces and virials of a batch of configurations."""
        bonds, pair = self.pairs(bonds, self.reach)
        r = bonds.length
        unit = bonds.vector / r[:, None]
        fc, dfc = _cutoff_function(r, pair["R"], pair["D"])
        repulsion = pair["A"] * np.exp(-pair["lambda1"] * r)
        attraction = -pair["B"] * np.exp(-pair["lambda2"] * r)

        p, q, angle = self.angles(bonds)
        gamma, c, d, h, m, lambda3 = (angle[name] for name in ("gamma", "c", "d", "costheta0", "m", "lambda3"))
        unit_p, unit_q = unit[p], unit[q]
        cosine = np.einsum("ij,ij->i", unit_p, unit_q)
        denominator = d**2 + (h - cosine) ** 2
        g = gamma * (1.0 + (c / d) ** 2 - c**2 / denominator)
        dg = -2.0 * gamma * c**2 * (h - cosine) / denominator**2
        stretch = lambda3 * (r[p] - r[q])
        growth = np.exp(np.clip(stretch**m, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
        d_growth = growth * m * lambda3 * np.where(lambda3 == 0.0, 0.0, stretch ** (m - 1.0))
        zeta: Floats = np.bincount(p, fc[q] * g * growth, len(r)).astype(np.float64)  # integers where no angle is
        order, d_order = _bond_order(zeta, pair["beta"], pair["n"])

        energy = 0.5 * fc * (repulsion + order * attraction)
        slope = 0.5 * (
            dfc * (repulsion + order * attraction)
            - fc * (pair["lambda1"] * repulsion + order * pair["lambda2"] * attraction)
        )
        weight = (0.5 * fc * attraction * d_order)[p]
        bend = (fc[q] * dg * growth)[:, None]
        along = fc[q] * g * d_growth
        toward_p = bend * ((unit_q - cosine[:, None] * unit_p) / r[p][:, None]) + along[:, None] * unit_p
        toward_q = bend * ((unit_p - cosine[:, None] * unit_q) / r[q][:, None])
        toward_q += (dfc[q] * g * growth - along)[:, None] * unit_q
        gradient = slope[:, None] * unit
        gradient += scatter(len(r), p, weight[:, None] * toward_p)
        gradient += scatter(len(r), q, weight[:, None] * toward_q)
        return collect(bonds, energy, gradient)


def from_albe(elements: Sequence[str], pairs: Parameters) -> Tersoff:
    """Translate a potential published in Albe's pair notation.

    ``pairs`` holds D0, r0, S, beta, gamma, c, d, h, R, D by pair, e.g. ``"Si-C"`` (either order). The exponential of
    the third atom (2μ) is taken as zero, as in Erhart and Albe's sets.
    """
    triplets = {}
    for centre, bonded, third in product(elements, repeat=3):
        bond, angle = _pair(pairs, centre, bonded), _pair(pairs, centre, third)
        depth = bond["D0"] / (bond["S"] - 1.0)
        lambda1 = bond["beta"] * math.sqrt(2.0 * bond["S"])
        lambda2 = bond["beta"] * math.sqrt(2.0 / bond["S"])
        triplets[f"{centre}-{bonded}-{third}"] = {
            **_ALBE,
            **{name: angle[name] for name in ("gamma", "c", "d", "R", "D")},
            "costheta0": -angle["h"],
            "lambda1": lambda1,
            "A": depth * math.exp(lambda1 * bond["r0"]),
            "lambda2": lambda2,
            "B": bond["S"] * depth * math.exp(lambda2 * bond["r0"]),
        }
    return Tersoff.from_triplets(elements, triplets)


def from_mixing(elements: Sequence[str], parameters: Parameters) -> Tersoff:
    """Translate a multicomponent set in the notation of Tersoff (1989).

    ``parameters`` holds A, B, lambda, mu, beta, n, c, d, h, R, S by element and chi by pair (``"C-Si"``). λ and μ mix
    arithmetically; A, B and the cutoffs R, S geometrically.
    """
    triplets = {}
    for centre, bonded, third in product(elements, repeat=3):
        own, partner, other = parameters[centre], parameters[bonded], parameters[third]
        chi = 1.0 if centre == bonded else _pair(parameters, centre, bonded)["chi"]
        inner, outer = math.sqrt(own["R"] * other["R"]), math.sqrt(own["S"] * other["S"])
        triplets[f"{centre}-{bonded}-{third}"] = {
            **_MIXED,
            **{name: own[name] for name in ("c", "d", "n", "beta")},
            "costheta0": own["h"],
            "lambda1": 0.5 * (own["lambda"] + partner["lambda"]),
            "A": math.sqrt(own["A"] * partner["A"]),
            "lambda2": 0.5 * (own["mu"] + partner["mu"]),
            "B": chi * math.sqrt(own["B"] * partner["B"]),
            "R": 0.5 * (inner + outer),
            "D": 0.5 * (outer - inner),
        }
    return Tersoff.from_triplets(elements, triplets)


def _pair(pairs: Parameters, one: str, other: str) -> Mapping[str, float]:
    for name in (f"{one}-{other}", f"{other}-{one}"):
        if name in pairs:
            return pairs[name]
    raise PotentialError(f"No parameters for the pair {one}-{other}.", "Add the pair to the parameter file.")


def _cutoff_function(r: Floats, R: Floats, D: Floats) -> tuple[Floats, Floats]:
    """Return Tersoff's smooth cutoff and its derivative (1/Å)."""
    phase = np.pi * (r - R) / (2.0 * D)
    inside, outside = r <= R - D, r >= R + D
    value = np.where(inside, 1.0, np.where(outside, 0.0, 0.5 * (1.0 - np.sin(phase))))
    return value, np.where(inside | outside, 0.0, -0.25 * np.pi / D * np.cos(phase))


def _bond_order(zeta: Floats, beta: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return b(ζ) and db/dζ; a pair without a third atom has b = 1."""
    scaled = beta * np.maximum(zeta, 0.0)
    alone = scaled < _SMALLEST_ZETA
    safe = np.where(alone, 1.0, scaled)
    power = safe**n
    value = (1.0 + power) ** (-0.5 / n)
    slope = -0.5 * value / (1.0 + power) * power / safe * beta
    return np.where(alone, 1.0, value), np.where(alone, 0.0, slope)
