"""Physical properties and their comparison, one code path for DFT and potentials."""
