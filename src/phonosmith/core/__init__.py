"""Units, hashing, manifests, errors and the artefact store."""
