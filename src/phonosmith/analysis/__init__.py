"""Store queries to typed rows, tables and statistics."""
