"""Interatomic potentials: identity, registry, one adapter per architecture."""
