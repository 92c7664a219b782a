"""The VASP stand-in executable."""
