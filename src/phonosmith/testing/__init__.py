"""The VASP stand-in executable and helpers for tests."""
