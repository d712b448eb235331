"""Fused primitives on raw arrays, which know nothing of autograd.

`kernels.cpu` (NumPy) and `kernels.cuda` (CUDA C through CuPy) hold the same functions with the same signatures;
`kernels.emulator` runs the CUDA source on a CPU. Both check their arguments by `shapes.py`, and take `options.py`.
Read `kernels/cpu/softmax.py` first, then `kernels/cuda/softmax.cu`.

Layering, lowest first: `dtypes.py`, `options.py` and `caches.py` import nothing of this project, `namespace.py` and
`shapes.py` only the first, `newton_schulz.py` only `namespace.py`; `kernels.cpu`, `kernels.cuda` and `kernels.emulator`
import them, and of one another only `kernels.cuda.analysis` imports the emulator. Nothing here imports `tinytensor`,
which imports this package.
"""
