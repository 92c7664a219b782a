"""Crystals with known soft modes for the tests of mode following."""

import warnings

import numpy as np
from ase.build import bulk
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from helpers.bond_crystal import bond_potential
from phonosmith.evaluation.phonons.fastpath import harmonic_from_potential
from phonosmith.evaluation.relax import relax_atoms
from phonosmith.potentials.registry import load, resolve

EDGES = (3.0, 3.3, 3.7)


def stiff_springs():
    """Return springs of a stable crystal: 4 along each bond, 2 across, 1 to second neighbours (eV/Å²)."""
    springs = np.zeros((3, 3, 3))
    springs[0] = 2.0 + 2.0 * np.eye(3)
    springs[1] = 1.0
    return springs


def orthorhombic(springs, quartic=2.0, supercell=(6, 4, 4), **options):
    """Return (harmonic model, potential) of an orthorhombic crystal of one atom."""
    potential = bond_potential(["Si"], EDGES, springs, np.full((3, 3), quartic), **options)
    structure = Structure(Lattice.orthorhombic(*EDGES), ["Si"], [[0, 0, 0]])
    return harmonic_from_potential(structure, potential, np.diag(supercell)), potential


def doubling():
    """Return springs that make x-bonds soft across z: an instability at X = (1/2, 0, 0) alone."""
    springs = stiff_springs()
    springs[0, 0, 2], springs[1, 0, 2] = -1.0, 1.0
    return springs


def tripling():
    """Return springs whose softest mode along x, across z, is at q = 1/3, by design of three orders of neighbours."""
    springs = stiff_springs()
    springs[:, 0, 2] = -1.0, -0.5, 0.8
    return springs


def rocksalt(first=-0.2, second=1.0, third=0.05, quartic=2.0, cross=0.5, edge=3.0):
    """Return (harmonic model, potential) of a rocksalt crystal whose optical mode at Γ is soft."""
    springs = np.zeros((3, 3, 3))
    springs[0], springs[1], springs[2] = first, second, third
    potential = bond_potential(["Na", "Cl"], [edge] * 3, springs, np.full((3, 3), quartic), cross=[cross] * 3)
    sites = [[0, 0, 0], [0.5, 0.5, 0.5]]
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(2 * edge), ["Na", "Cl"], sites)
    return harmonic_from_potential(structure, potential, 2 * np.eye(3, dtype=int)), potential


def germanium(kind, edge):
    """Return (harmonic model, potential) of a high-symmetry germanium crystal by an empirical potential."""
    potential = load(resolve("embedded-reference"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms = relax_atoms(bulk("Ge", kind, a=edge), potential, fmax=1e-4).atoms
    return harmonic_from_potential(AseAtomsAdaptor.get_structure(atoms), potential, 4 * np.eye(3, dtype=int)), potential
