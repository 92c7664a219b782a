"""Imaginary modes: found, followed, and the phases they lead to."""
