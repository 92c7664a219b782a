"""Elastic constants, equations of state and what follows from them."""
