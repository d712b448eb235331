"""The differentiable operations, one Function each, forward and VJP side by side.

`elementwise.py` shows the pattern; `reduce.py`, `shape.py` and `linalg.py` follow it. `composed.py` writes what a GPT
needs in elementary operations, and `fused.py` has the same in one piece each, computed by the primitives of `kernels`.
"""
