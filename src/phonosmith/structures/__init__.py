"""Crystals: reading, standard cells, supercell choice, pre-flight size and cost."""
