"""Published interatomic potentials with parameters instead of networks."""

FORMAT = "phonosmith-empirical"
"""Name of the file format, in the file itself."""
