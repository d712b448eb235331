"""From a corpus of any size to token files.

`embedded.py` has the corpora that every Python carries; `sources.py` (with `tables.py`) finds a source and cuts it into
pieces; `documents.py` turns a piece into documents; `split.py` decides what is for validation; `encoding.py` does that
in any process of `workers.py`; `token_files.py` writes the result, which `tokens.py` opens; `preparation.py` is the
whole of it. A new kind of source goes into `sources.py`, a new file format into `documents.py`.
"""
