"""Nequix: files, graphs, energies with their derivatives."""
