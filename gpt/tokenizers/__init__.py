"""Text to token ids and back: single characters, or byte-pair encoding as in GPT-2.

Start with `characters.py`. `load.py` says what a tokenizer is and finds saved ones; a new kind of tokenizer is a file
here, and an entry in `load.KINDS`.
"""
