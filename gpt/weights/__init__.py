"""Weights on disk, in the names and layout of GPT-2 and Hugging Face.

`safetensors.py` reads and writes the file format; `families/` maps Hugging Face's names and configurations to ours and
back; `directory.py` saves model directories, and `load.py` finds and loads them.
"""
