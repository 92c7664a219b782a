"""The embedded store and the local runner."""
