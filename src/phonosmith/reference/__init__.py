"""Reference labels: protocol, engines, gate, audit, datasets, import."""
