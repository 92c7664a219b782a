"""The embedded job store on SQLite."""
