"""Timing that can be trusted: the device synchronized, warm-up left out, medians with their spread.

`timed` is for any block of code of your own:

    with timed("matmul", device) as t:
        y = a @ b
    t.seconds

`measure` is for a function that can be called again and again, and is what the benchmarks use.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import tinytensor as tt

SAMPLES = 7  # timings whose median is quoted
SAMPLE_SECONDS = 5e-3  # a sample of shorter calls has several, else the clock's own cost would count
MOST_SECONDS = 1.0  # of slower functions, fewer samples are taken; three at least


class Stopwatch:
    """seconds: how long the block took, once it is over."""

    seconds: float = float("nan")


@contextmanager
def timed(name: str = "", device: str | tt.Device = "cpu"):
    """Time a block of code, device work included, and print it as "name: 1.23 ms" if it has a name.

    Kernels run asynchronously on a GPU, so it is synchronized at both ends.
    """
    device, stopwatch = tt.device(device), Stopwatch()
    device.synchronize()
    start = time.perf_counter()
    yield stopwatch
    device.synchronize()
    stopwatch.seconds = time.perf_counter() - start
    if name:
        print(f"{name}: {milliseconds(stopwatch.seconds)} ms")


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, and the quartiles that half of the samples lie between."""

    seconds: float
    quartiles: tuple[float, float]
    samples: int

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, relative to the median."""
        return (self.quartiles[1] - self.quartiles[0]) / 2 / self.seconds


def measure(function: Callable[[], object], device: tt.Device) -> Timing:
    """Time `function`, which works on `device`. It is first called twice: the first call compiles and fills caches."""
    function()
    with timed(device=device) as once:
        function()
    inner = max(1, round(SAMPLE_SECONDS / once.seconds))
    samples = []
    for _ in range(max(3, min(SAMPLES, int(MOST_SECONDS / (inner * once.seconds))))):
        with timed(device=device) as all_calls:
            for _ in range(inner):
                function()
        samples.append(all_calls.seconds / inner)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median, (low, high), len(samples))


def milliseconds(seconds: float) -> str:
    """Milliseconds to three significant digits, without an exponent."""
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"
