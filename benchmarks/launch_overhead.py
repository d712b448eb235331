"""How long does Python take to check and cast a kernel's arguments (`kernels/cuda/launch.py`)?

    python benchmarks/launch_overhead.py

The launch itself is stubbed out, on arrays of the emulated device; printed is the CPU time of a call, a median of nine.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from kernels.cuda import launch
from kernels.emulator import cupy_like

CALLS = 2000


def zeros(*shape: int):
    """A float32 array of the emulated device."""
    return cupy_like.zeros(shape, dtype=np.float32)


def calls():
    """{kernel: a function that launches it}."""
    x, weight, statistic = zeros(8, 64), zeros(64), zeros(8, 1)
    backward = (x, x, weight, statistic, statistic, x, 8, 64)
    attention = (zeros(1, 8, 3, 2, 32), zeros(1, 8, 2, 32), zeros(1, 2, 8), 8, 2, 2, 32, 0.5, 0, 1.0, 1, 2, 3)
    options = {"shared": 1000, "HEAD": 32, "BLOCK_M": 64, "BLOCK_N": 64}
    return {
        "gelu_forward": lambda: launch.launch_elements("gelu.cu", "gelu_forward", x.size, (x, x, x.size)),
        "layer_norm_backward": lambda: launch.launch_rows("layer_norm.cu", "layer_norm_backward", 8, 64, backward),
        "attention_forward": lambda: launch.launch(
            "attention.cu", "attention_forward", (2, 1), (256,), attention, **options
        ),
    }


def microseconds(function) -> float:
    """CPU time of one call."""
    samples = []
    for _ in range(9):
        start = time.process_time()
        for _ in range(CALLS):
            function()
        samples.append((time.process_time() - start) / CALLS)
    return 1e6 * statistics.median(samples)


def main() -> int:
    """The command: a line for each kernel."""
    launch._function = lambda *_: lambda grid, block, args, shared_mem: None  # instead of a compiled kernel
    for kernel, function in calls().items():
        print(f"{kernel}: {microseconds(function):.1f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
