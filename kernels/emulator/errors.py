"""What can go wrong in an emulated launch, one exception per kind of fault.

Each message is one sentence with the kernel, block, thread and, where the fault has one, the line of the `.cu` source.
Next: module.py, which raises them.
"""


class EmulatorError(Exception):
    """Something a CUDA kernel, or its launch, must not do; also a source that does not compile."""


class CompileError(EmulatorError):
    """The CUDA source does not compile, or there is no compiler."""


class LaunchError(EmulatorError):
    """The launch is one that no CUDA device accepts, or its arguments do not fit the kernel's parameters."""


class OutOfBounds(EmulatorError):
    """A read or write outside the arrays of the launch and the block's shared memory."""


class UninitializedRead(EmulatorError):
    """A read of memory that was never written."""


class DataRace(EmulatorError):
    """Two threads touch the same byte, at least one writes, and no barrier is between them."""


class DivergentBarrier(EmulatorError):
    """Some threads of a block wait at a barrier that the others never reach."""


class BadShuffle(EmulatorError):
    """A warp primitive whose mask does not name exactly the lanes that call it."""


class MisalignedAccess(EmulatorError):
    """An address that is not a multiple of its type's alignment, such as a `float4` at an odd `float`."""


class Crash(EmulatorError):
    """What would have killed the process: an invalid address, a stack overflow, an integer division by zero."""


class AssertionFailed(EmulatorError):
    """An `assert` in device code does not hold, or `__trap()` was called."""


class UndefinedArithmetic(EmulatorError):
    """A signed overflow, a shift by the width of its type or more, a float that its integer type cannot hold."""


class ReadOnlyWrite(EmulatorError):
    """A write through a pointer to const, or to `__constant__` memory."""


class RestrictViolation(EmulatorError):
    """A write to memory that is also used through another parameter, and one of the two is `__restrict__`."""


class SameValueRace(DataRace):
    """Two threads write the same value to the same place, with no barrier between.

    Allowed inside `checked(same_value_writes=True)`.
    """


class NotDeterministic(EmulatorError):
    """A result that depends on the order of atomic operations; only where `checked(deterministic=True)` asks for it."""


class Deadlock(EmulatorError):
    """Every thread that has not exited waits for another one."""
