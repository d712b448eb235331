"""Floor 0: fused primitives on raw arrays, which know nothing of autograd.

`kernels.cpu` (NumPy) and `kernels.cuda` (CUDA C through CuPy) hold the same functions with the same signatures;
`kernels.emulator` runs the CUDA source on a CPU. Read `kernels/cpu/softmax.py` first, then `kernels/cuda/softmax.cu`.
"""
