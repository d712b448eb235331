"""From a corpus of any size to token files.

`folders.py` finds the files of a source, and has the corpora that every Python carries; `sources.py` cuts them into
pieces (`pieces.py`); `documents.py` turns a piece into documents, by the `formats`; `split.py` decides what is for
validation; `encoding.py` does that in any process of `workers.py`; `token_files.py` writes the result, which
`tokens.py` opens; `preparation.py` is the whole of it. A new kind of source goes into `sources.py`, a new file format
into `formats`.
"""
