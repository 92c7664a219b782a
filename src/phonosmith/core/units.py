"""The only unit conversions of the package.

Conventions: lengths Å, energies eV, forces eV/Å, stress eV/Å³ in ASE's sign (positive = tension, Voigt order
xx yy zz yz xz xy), force constants eV/Å², frequencies THz (imaginary ones negative), moduli GPa, temperature K.
Values follow CODATA 2018 as exact definitions allow; ASE and phonopy use the same to better than 1e-7.
"""

from __future__ import annotations

import math

ELEMENTARY_CHARGE = 1.602176634e-19
"""C (exact)."""
AVOGADRO = 6.02214076e23
"""1/mol (exact)."""
BOLTZMANN = 1.380649e-23
"""J/K (exact)."""
PLANCK = 6.62607015e-34
"""J s (exact)."""
HBAR = PLANCK / (2 * math.pi)
"""J s."""
ATOMIC_MASS = 1.66053906660e-27
"""kg."""

GPA_PER_EV_PER_A3 = ELEMENTARY_CHARGE * 1e21
"""1 eV/Å³ in GPa (160.2177)."""
EV_PER_A3_PER_GPA = 1.0 / GPA_PER_EV_PER_A3
"""1 GPa in eV/Å³."""
EV_PER_A3_PER_VASP_KBAR = -0.1 * EV_PER_A3_PER_GPA
"""1 kbar as VASP prints stress (positive = compression) in ASE's eV/Å³ (positive = tension)."""
KJ_PER_MOL_PER_EV = ELEMENTARY_CHARGE * AVOGADRO / 1000
"""1 eV per particle in kJ/mol (96.485)."""
THZ_PER_SQRT_EV_PER_A2_AMU = math.sqrt(ELEMENTARY_CHARGE / (ATOMIC_MASS * 1e-20)) / (2 * math.pi * 1e12)
"""ν of a force constant of 1 eV/Å² on 1 amu, in THz (15.633)."""
KG_PER_M3_PER_AMU_PER_A3 = ATOMIC_MASS * 1e30
"""Density 1 amu/Å³ in kg/m³."""
