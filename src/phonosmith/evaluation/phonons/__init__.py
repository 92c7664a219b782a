"""Phonons of reference and potentials: mesh, bands, DOS, thermodynamics, stability, comparison."""
