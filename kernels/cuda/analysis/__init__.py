"""What the CUDA kernels need of each architecture, found out without a GPU: `python -m kernels.cuda.analysis.report`.

`nvrtc.py` compiles the sources as CuPy does and reads back registers, shared memory and spills; `occupancy.py` turns
these into resident warps; `traffic.py` holds each kernel's bytes and operations as formulas; `report.py` prints it all.
Nothing here is imported by the kernels or by the engine.
"""
