"""Audit of a labelled dataset before any training."""
