"""Submission to FireWorks and jobflow-remote."""
