"""Labelled configurations: files, identity, labels, offsets."""
