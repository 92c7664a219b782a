"""Makers that join the stages."""
