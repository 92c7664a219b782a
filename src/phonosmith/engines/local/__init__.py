"""The local runner: state, workers, retry."""
