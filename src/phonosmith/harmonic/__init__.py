"""Harmonic crystals: the model, its files, the one fit of force constants, matching of cells, the oracle."""
