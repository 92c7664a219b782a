"""Fakes and synthetic data the tests share; imported as ``helpers.NAME``."""
