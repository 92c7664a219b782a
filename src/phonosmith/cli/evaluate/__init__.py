"""Commands that judge potentials."""
