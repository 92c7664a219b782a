"""VASP: makers, handlers, readers of its output."""
