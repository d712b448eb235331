"""Exercises for those who study the engine and its kernels: `python -m learn.puzzles`, from a clone."""
