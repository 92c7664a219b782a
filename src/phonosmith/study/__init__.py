"""One material in one call: planned, carried out, watched, judged."""
