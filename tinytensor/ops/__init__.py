"""Floor 2: the differentiable operations, one Function each, forward and VJP side by side.

`elementwise.py` shows the pattern; `reduce.py`, `shape.py` and `linalg.py` follow it, and `fused.py` holds what a GPT
needs in one piece, computed by the primitives of floor 0.
"""
