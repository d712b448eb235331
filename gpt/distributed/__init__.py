"""One training run by several ranks, which an MPI launcher has started.

`launch.py` connects them and ends them together, `agreement.py` makes sure that they are the same program on the same
data, and `run.py` is the run as rank 0, which writes it, and the others see it.
"""
