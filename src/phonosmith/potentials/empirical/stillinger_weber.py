"""Stillinger-Weber potentials, energies and analytic derivatives in numpy.

E = Σ_i<j A ε [B (σ/r)^p - (σ/r)^q] exp(σ/(r - aσ))
  + Σ_i Σ_j<k λ ε (cos θ_jik - cos θ₀)² exp(γσ/(r_ij - aσ) + γσ/(r_ik - aσ)).

F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985). With several elements the pair constants, γ, σ and a are
those of the triplet (i, j, j); ε, λ and cos θ₀ of an angle are those of (i, j, k), whatever the order of j and k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from phonosmith.core.errors import PotentialError
from phonosmith.potentials.empirical.bonds import Bonds, Derivatives, Floats, collect, scatter
from phonosmith.potentials.empirical.triplets import Parameters, TripletPotential

_EDGE = 1e-6
"""The potential and all derivatives vanish exponentially at aσ; this close (in units of σ) they are zero in float64."""


class StillingerWeber(TripletPotential):
    """One parameter set; ε in eV, σ in Å, the rest without unit."""

    kind = "Stillinger-Weber"
    names = ("epsilon", "sigma", "a", "lambda", "gamma", "costheta0", "A", "B", "p", "q")

    @classmethod
    def from_triplets(cls, elements: Sequence[str], triplets: Parameters) -> Self:
        """Build from parameters by triplet; those of an angle must not depend on the order of its ends."""
        built = super().from_triplets(elements, triplets)
        for name in ("epsilon", "lambda", "costheta0"):
            if not np.allclose(built.table[name], built.table[name].transpose(0, 2, 1), rtol=1e-12):
                raise PotentialError(
                    f"Stillinger-Weber's {name} differs between i-j-k and i-k-j.",
                    "An angle has one value: make them equal.",
                )
        return built

    @property
    def reach(self) -> Floats:
        """Lengths at which bonds end, Å, by triplet."""
        return self.table["a"] * self.table["sigma"]

    def evaluate(self, bonds: Bonds) -> Derivatives:
        """Return energies, forces and virials of a batch of configurations."""
        bonds, pair = self.pairs(bonds, (self.table["a"] - _EDGE) * self.table["sigma"])
        r, sigma = bonds.length, pair["sigma"]
        unit = bonds.vector / r[:, None]
        gap = r - pair["a"] * sigma
        fade = np.exp(sigma / gap)
        high, low = pair["B"] * (sigma / r) ** pair["p"], (sigma / r) ** pair["q"]
        depth = 0.5 * pair["A"] * pair["epsilon"]
        energy = depth * (high - low) * fade
        slope = depth * fade * ((pair["q"] * low - pair["p"] * high) / r - (high - low) * sigma / gap**2)

        reachable = np.exp(pair["gamma"] * sigma / gap)
        d_reachable = -pair["gamma"] * sigma / gap**2
        p, q, angle = self.angles(bonds)
        unit_p, unit_q = unit[p], unit[q]
        cosine = np.einsum("ij,ij->i", unit_p, unit_q)
        excess = cosine - angle["costheta0"]
        # both orders of (j, k) are summed with half the energy each: twice the derivative on the first bond is all
        strength = 0.5 * angle["lambda"] * angle["epsilon"] * reachable[p] * reachable[q]
        angle_energy = strength * excess**2
        bend = (2.0 * strength * excess)[:, None] * (unit_q - cosine[:, None] * unit_p) / r[p][:, None]
        along = (angle_energy * d_reachable[p])[:, None] * unit_p
        energy = energy + np.bincount(p, angle_energy, len(r))
        gradient = slope[:, None] * unit + 2.0 * scatter(len(r), p, bend + along)
        return collect(bonds, energy, gradient)
