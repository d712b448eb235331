"""Checks a CUDA puzzle: the learner's kernel runs on the checked emulator, in several orders of threads and blocks.

So an answer is refused, with thread and line, for a data race, an access outside of the arrays, a read of memory that
nobody has written, or a barrier that not all threads reach, even if its numbers are right. Where the task is to spare
memory traffic, the emulator's counts are compared with what is needed.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from gpt.errors import UserError
from kernels.emulator import MISSING, Launch, RawModule, available, checked
from kernels.emulator.errors import EmulatorError
from learn.puzzle import Puzzle, Refused

ORDERS = 3  # of threads and blocks: a race is found in every one of them, a dependence on the order is not


@dataclass(frozen=True)
class Run:
    """One launch of a kernel with the parameters (inputs..., output, sizes...) and what it must compute.

    inputs, sizes: by name; arrays and ints, in the order of the kernel's parameters.
    expected: the output; the kernel gets an array of this shape and dtype that counts as never written, or that is zero
        if `zeroed`.
    most_reads: how many numbers its threads may read from global memory in all.
    shared: whether the numbers have to pass through shared memory; if False, there is to be no barrier either.
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    inputs: dict[str, np.ndarray]
    expected: np.ndarray
    sizes: dict[str, int] = field(default_factory=dict)
    zeroed: bool = False
    most_reads: int | None = None
    shared: bool | None = None

    def __str__(self) -> str:
        sizes = "".join(f", {name} = {size}" for name, size in self.sizes.items())
        return f"launched with grid {self.grid}, block {self.block}{sizes}"


class Output:
    """An array of the emulated device: its memory, and which bytes of it have been written."""

    def __init__(self, run: Run):
        self.host = np.zeros_like(run.expected)
        self.written = np.full(self.host.nbytes, run.zeroed, np.uint8)


@dataclass(frozen=True)
class CudaPuzzle(Puzzle):
    """A kernel that the learner writes. `runs` draws the inputs of its launches from a generator of random numbers."""

    runs: Callable[[np.random.Generator], Iterator[Run]]
    kind: ClassVar[str] = "cuda"
    suffix: ClassVar[str] = ".cu"

    def prepare(self, path: Path) -> None:
        """Compile the file `path`; Refused with the compiler's first error, UserError if there is no compiler."""
        if not available():
            raise UserError(MISSING)
        self._module(path)

    def check(self, path: Path) -> None:
        """Raise Refused unless the kernel in the file `path` is right in every run and order, and within the limits."""
        self.check_kernel(self._module(path), self.name)

    def _module(self, path: Path) -> RawModule:
        module = RawModule(code=path.read_text(encoding="utf-8", errors="replace"), name=path.name)
        try:
            with checked():
                module.get_function(self.name)
        except EmulatorError as error:
            raise Refused(f"{error}{quoted(str(error), module)}") from None
        return module

    def check_kernel(self, module: RawModule, kernel: str) -> None:
        """Raise Refused unless the kernel of this name is right."""
        for run in self.runs(np.random.default_rng(0)):
            for seed in range(ORDERS):
                output = Output(run)
                arguments = [*run.inputs.values(), output, *map(np.int32, run.sizes.values())]
                try:
                    with checked(seed) as launches:
                        module.get_function(kernel)(run.grid, run.block, arguments)
                except EmulatorError as error:
                    raise Refused(f"{error}{quoted(str(error), module)}\n{run}") from None
                compare(run, output)
                compare_counts(run, launches[0])


def quoted(message: str, module: RawModule) -> str:
    """The lines of the source that a message names, each on a line of its own."""
    lines = module.code.splitlines()
    numbers = dict.fromkeys(map(int, re.findall(rf"{re.escape(module.name)}:(\d+)", message)))
    return "".join(f"\n{number:5} | {lines[number - 1]}" for number in numbers if number <= len(lines))


def compare(run: Run, output: Output) -> None:
    """Raise Refused for the first element of the output that was not written, or is wrong."""
    written = output.written.reshape(*run.expected.shape, -1).min(axis=-1)  # 0 or 1 for each byte of an element
    close = np.isclose(output.host, run.expected, rtol=1e-4, atol=5e-5)
    wrong = np.argwhere((written == 0) | ~close)
    if len(wrong):
        index = tuple(wrong[0])
        name = f"out[{', '.join(map(str, index))}]"
        if not written[index]:
            raise Refused(f"{name} was never written\n{run}")
        raise Refused(f"{name} is {output.host[index]:.6g}, expected {run.expected[index]:.6g}\n{run}")


def compare_counts(run: Run, launch: Launch) -> None:
    """Raise Refused for a kernel whose numbers are right, but not computed as the task asks."""
    reads = launch.bytes_read // 4  # every number of these puzzles has 4 bytes
    if run.most_reads is not None and reads > run.most_reads:
        raise Refused(
            f"the result is right, but the threads read {reads:,} numbers from global memory, where "
            f"{run.most_reads:,} are enough\n{run}"
        )
    if run.shared and not launch.shared_bytes_read:
        raise Refused(f"the result is right, but no thread reads shared memory\n{run}")
    if run.shared is False and (launch.shared_bytes_written or launch.barriers):
        raise Refused(f"the result is right, but it uses shared memory or __syncthreads; shuffles need neither\n{run}")
