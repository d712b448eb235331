"""The differentiable operations, one Function each, forward and VJP side by side.

`elementwise.py` shows the pattern, on top of `arguments.py` and `dtypes.py`, which say how axes are spelled and which
dtype is computed in. By subject, each file importing from earlier ones only: `activations`, `logic` (no gradients),
`indexing`, `linalg` and `reduce`; `order` and `shape`; `einsum` and `scan`. Then the operations a GPT spends its time
in, twice: `composed.py` writes them in elementary ones, and `fused.py`, `rotary.py`, `attention.py` and `losses.py`
have the same in one piece each, computed by the primitives of `kernels`.
"""

from tinytensor.ops import composed as composed
