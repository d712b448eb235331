"""The emulator as a tool for other people's CUDA: `python -m kernels.emulator check FILE.cu`, and a pytest plugin.

Nothing here imports tinytensor. Read check.py first.
"""
