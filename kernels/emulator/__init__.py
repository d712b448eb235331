"""CUDA source on the CPU: `RawModule` with CuPy's call signature, stricter than a GPU.

    from kernels.emulator import RawModule
    saxpy = RawModule(code=source).get_function("saxpy")
    saxpy((4,), (256,), (x, y, np.float32(2), np.int32(1000)))

Arguments are NumPy arrays (or objects with a `.host` array) and NumPy scalars. Importing needs no compiler; the first
`get_function` does, see `available`. Read module.py first, then include/emulator/device.h and runtime/runtime.cpp.
"""

from kernels.emulator.checks import Launch, checked, gpu_rounding
from kernels.emulator.compiler import MISSING, available
from kernels.emulator.errors import (
    AssertionFailed,
    BadShuffle,
    CompileError,
    Crash,
    DataRace,
    Deadlock,
    DivergentBarrier,
    EmulatorError,
    LaunchError,
    MisalignedAccess,
    NotDeterministic,
    OutOfBounds,
    ReadOnlyWrite,
    RestrictViolation,
    SameValueRace,
    UndefinedArithmetic,
    UninitializedRead,
)
from kernels.emulator.memory.sparse import sparse
from kernels.emulator.module import RawKernel, RawModule, runtime

__all__ = [
    "MISSING",
    "AssertionFailed",
    "BadShuffle",
    "CompileError",
    "Crash",
    "DataRace",
    "Deadlock",
    "DivergentBarrier",
    "EmulatorError",
    "Launch",
    "LaunchError",
    "MisalignedAccess",
    "NotDeterministic",
    "OutOfBounds",
    "RawKernel",
    "RawModule",
    "ReadOnlyWrite",
    "RestrictViolation",
    "SameValueRace",
    "UndefinedArithmetic",
    "UninitializedRead",
    "available",
    "checked",
    "gpu_rounding",
    "runtime",
    "sparse",
]
