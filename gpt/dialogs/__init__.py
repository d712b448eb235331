"""Dialogs as training data: lines of JSON with messages, written by a chat template, of which only answers count.

Read `messages.py`, then `masking.py`; `preparation.py` makes token files of them, as `gpt.corpus` does of texts.
"""
