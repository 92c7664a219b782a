"""Charts as plain data, drawn by the script of a page."""
