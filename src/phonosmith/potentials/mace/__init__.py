"""MACE: files, graphs, energies with their derivatives, blocks."""
