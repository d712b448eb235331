"""Formats of files: `archives.py` for compressed files and archives, `rows.py` and `tables.py` for rows with a text."""
