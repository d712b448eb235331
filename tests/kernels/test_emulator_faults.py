"""Kernels that are wrong, one fault each: the checked build finds it in every thread order and names the line."""

from contextlib import nullcontext

import numpy as np
import pytest

from kernels import emulator
from kernels.emulator import (
    AssertionFailed,
    BadShuffle,
    Crash,
    DataRace,
    DivergentBarrier,
    LaunchError,
    MisalignedAccess,
    OutOfBounds,
    RawModule,
    UninitializedRead,
    checked,
)

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
SEEDS = range(10)

# name: (what is raised, what the message says, body). A body is run by two blocks of 64 threads; `t` is the thread,
# `i` the thread in the grid, `x` and `y` have 128 floats each. The line with HERE, and THERE, must be in the message.
FAULTS = {
    "a missing barrier": (
        DataRace,
        "with no barrier between",
        """__shared__ float s[64];
        s[t] = x[i];             // HERE
        y[i] = s[63 - t];        // THERE""",
    ),
    "a missing barrier in dynamic shared memory": (
        DataRace,
        "dynamic shared memory",
        """extern __shared__ float s[];
        s[t] = x[i];             // HERE
        y[i] = s[63 - t];        // THERE""",
    ),
    "a missing second barrier of a tile loop": (
        DataRace,
        "byte .* of s",
        """__shared__ float s[64];
        float sum = 0.0f;
        for (int start = 0; start < 3; start++) {
            s[t] = x[t] + start;                             // HERE
            __syncthreads();
            for (int j = 0; j < 64; j++) sum += s[j];        // THERE
        }
        y[i] = sum;""",
    ),
    "a missing barrier inside one warp": (
        DataRace,
        "of s",
        """__shared__ float s[64];
        if (t < 2) {
            s[t] = x[t];             // HERE
            y[i] = s[1 - t];         // THERE
        }""",
    ),
    "a shuffle where a warp barrier is needed": (
        DataRace,
        "with no barrier between",
        """__shared__ float s[64];
        s[t] = x[i];                             // HERE
        float v = __shfl_sync(~0u, x[i], 0);
        y[i] = s[t ^ 1] + v;                     // THERE""",
    ),
    "a warp barrier that leaves lanes out": (
        DataRace,
        "with no barrier between",
        """__shared__ float s[64];
        s[t] = x[i];                                             // HERE
        __syncwarp(t % 32 < 16 ? 0x0000ffffu : 0xffff0000u);
        y[i] = s[t ^ 16];                                        // THERE""",
    ),
    "a warp barrier where the block must wait": (
        DataRace,
        "with no barrier between",
        """__shared__ float s[64];
        s[t] = x[i];             // HERE
        __syncwarp();
        y[i] = s[t ^ 32];        // THERE""",
    ),
    "all threads write one place": (DataRace, r"writes y\[0\]", "if (blockIdx.x == 0) y[0] = t;   // HERE"),
    "two blocks write one place": (DataRace, r"of block \(.,0,0\)", "y[t] = blockIdx.x;   // HERE"),
    "one byte of a word each, but the same": (
        DataRace,
        "byte 5 of s",
        """__shared__ unsigned char s[64];
        s[t == 6 ? 5 : t] = 1;     // HERE
        __syncthreads();
        y[i] = s[63 - t];""",
    ),
    "an atomic against a plain read": (
        DataRace,
        "with no barrier between",
        """__shared__ int s;
        if (t == 0) s = 0;
        __syncthreads();
        atomicAdd(&s, 1);        // HERE
        y[i] = s;                // THERE""",
    ),
    "a read past the end": (
        OutOfBounds,
        r"reads 4 bytes at x\[128\].*past the end of x \(float32, 128 elements\)",
        "y[i] = x[i + 1];   // HERE",
    ),
    "a read before the start": (OutOfBounds, r"x\[-1\].*before the start", "y[i] = x[i - 1];   // HERE"),
    "a write past the end": (OutOfBounds, r"writes 4 bytes at y\[128\]", "y[i + 1] = 0;   // HERE"),
    "a write far outside": (OutOfBounds, "no array of the launch is near", "y[i + (1 << 28)] = 0;   // HERE"),
    "a read past shared memory": (
        OutOfBounds,
        "byte 256 of dynamic shared memory",
        """extern __shared__ float s[];
        s[t] = x[i];
        __syncthreads();
        y[i] = s[t + 1];         // HERE""",
    ),
    "an index past a row of a tile": (
        OutOfBounds,
        r"uses the index 8 .* array of the type .*\[8\]",
        """__shared__ float s[8][8];
        s[t / 8][t % 8] = x[i];
        __syncthreads();
        y[i] = s[t / 8][t % 8 + 1];         // HERE""",
    ),
    "an atomic outside": (OutOfBounds, r"updates 4 bytes at y\[128\]", "atomicAdd(&y[i + 1], 1.0f);   // HERE"),
    "shared memory that nobody wrote": (
        UninitializedRead,
        "shared memory that nobody in its block has written",
        """__shared__ float s[64];
        if (t != 40) s[t] = x[i];
        __syncthreads();
        y[i] = s[t];             // HERE""",
    ),
    "shared memory of the block before": (
        UninitializedRead,
        "nobody in its block has written",
        """__shared__ float s[64];
        y[i] = s[t];             // HERE
        s[t] = x[i];""",
    ),
    "a barrier in a branch": (
        DivergentBarrier,
        r"that thread \(16,0,0\) never reaches: it has exited",
        """if (t < 16) {
            __syncthreads();         // HERE
        }
        y[i] = 0;""",
    ),
    "two barriers in two branches": (
        DivergentBarrier,
        "waits at that of",
        """if (t < 16)
            __syncthreads();         // HERE
        else
            __syncthreads();         // THERE
        y[i] = 0;""",
    ),
    "a mask that names a lane elsewhere": (
        BadShuffle,
        "which has exited",
        """if (t < 16)
            y[i] = __shfl_down_sync(0xffffffffu, x[i], 1);       // HERE""",
    ),
    "a mask without the caller": (
        BadShuffle,
        "does not name its own lane",
        "y[i] = __shfl_xor_sync(0x0000ffffu, x[i], 1);   // HERE",
    ),
    "a shuffle from outside its mask": (
        BadShuffle,
        "reads lane 16",
        "if (t % 32 < 16) y[i] = __shfl_down_sync(0x0000ffffu, x[i], 1);   // HERE",
    ),
    "a shuffle against a barrier": (
        BadShuffle,
        "waits at the barrier of",
        """if (t == 3)
            __syncthreads();                                 // THERE
        else
            y[i] = __shfl_sync(0xffffffffu, x[i], 0);        // HERE
        __syncthreads();""",
    ),
    "lanes with different masks": (
        BadShuffle,
        "is in __shfl_sync with mask 0xffffffff",
        "y[i] = __shfl_sync(t % 32 < 4 ? 0x1fu : ~0u, x[i], 0);   // HERE",
    ),
    "a float4 at an odd float": (
        MisalignedAccess,
        r"uses x\[\d+\] at .* as '.*float4', at an address 4 bytes past a multiple of 16",
        """float4 v = *(const float4 *)(x + 1);         // HERE
        y[i] = v.x;""",
    ),
    "a division by zero": (Crash, "divides an integer by zero", "y[i] = 10 / (int)(x[i] - x[i]);   // HERE"),
    "a recursion without end": (Crash, "overflows its stack", "y[i] = deep(x, i);"),
    "an assertion": (AssertionFailed, "fails the assertion t < 63", "assert(t < 63);   // HERE"),
}
PRELUDE = """
__device__ float deep(const float *x, int n) {
    volatile char frame[3000];
    frame[n & 1023] = 1;
    return n < -1 ? x[0] : deep(x, n + 1) + frame[n & 1023];
}
"""
KERNEL = """
extern "C" __global__ void kNUMBER(const float *x, float *y) {
    const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    BODY
}
"""
SOURCE = PRELUDE + "".join(
    KERNEL.replace("NUMBER", str(i)).replace("BODY", body) for i, (*_, body) in enumerate(FAULTS.values())
)
MODULE = RawModule(code=SOURCE, name="faults.cu")
X = np.arange(128, dtype=np.float32)


def line_of(name, mark):
    """The line of SOURCE, from 1, on which fault `name` has `mark`; None where it has none."""
    lines = SOURCE.splitlines()
    first = lines.index(f'extern "C" __global__ void k{list(FAULTS).index(name)}(const float *x, float *y) {{')
    size = len(FAULTS[name][2].splitlines()) + 2
    return next((n + 1 for n in range(first, first + size) if lines[n].endswith(f"// {mark}")), None)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_whatever_the_order(name):
    error, message, _ = FAULTS[name]
    kernel = f"k{list(FAULTS).index(name)}"
    for seed in SEEDS:
        y = np.zeros(128, np.float32)
        with pytest.raises(error, match=message) as caught, checked(seed):
            MODULE.get_function(kernel)((2,), (64,), (X, y), shared_mem=256)
        text = str(caught.value)
        assert text.startswith(f"kernel {kernel}, block (")
        for mark in ("HERE", "THERE"):
            if line := line_of(name, mark):
                assert f"faults.cu:{line}" in text
        assert not y.any(), "a launch that failed does not change its arrays"


CRASHES = [name for name in FAULTS if FAULTS[name][0] in (Crash, AssertionFailed, BadShuffle)]


@pytest.mark.parametrize("name", CRASHES)
def test_fault_that_would_hang_or_kill_the_process_is_an_error_in_the_fast_build_too(name):
    if name == "a shuffle against a barrier":
        pytest.skip("a GPU's barrier would wait no longer than for the threads that have not exited")
    with pytest.raises(FAULTS[name][0]):
        MODULE.get_function(f"k{list(FAULTS).index(name)}")((2,), (64,), (X, X.copy()), shared_mem=256)


def test_invalid_address_in_the_fast_build_names_thread_and_line():
    module = RawModule(
        code=KERNEL.replace("NUMBER", "").replace("BODY", "if (i == 70) *(float *)8 = 1;"), name="bad.cu"
    )
    with pytest.raises(Crash, match=r"block \(1,0,0\), thread \(6,0,0\) touches the invalid address 0x8 at bad.cu:4"):
        module.get_function("k")((2,), (64,), (X, X.copy()))
    with pytest.raises(Crash):  # and neither process nor emulator is affected
        module.get_function("k")((2,), (64,), (X, X.copy()))


class DeviceArray:
    """The least that a device array has to be: memory, and which of its bytes somebody wrote."""

    def __init__(self, host, written):
        self.host, self.written = host, written


def test_unwritten_global_memory():
    body = "if (i < 64) y[i] = x[i];   // HERE"
    module = RawModule(code=KERNEL.replace("NUMBER", "").replace("BODY", body), name="unwritten.cu")
    x = DeviceArray(X.copy(), np.ones(512, np.uint8))
    y = DeviceArray(np.zeros(128, np.float32), np.zeros(512, np.uint8))
    with checked():
        kernel = module.get_function("k")
        kernel((2,), (64,), (x, y))
        np.testing.assert_array_equal(y.written, np.arange(512) < 256)
        kernel((1,), (64,), (y, x))  # reads only what the first launch wrote
        with pytest.raises(UninitializedRead, match=r"reads x\[0\] at unwritten.cu:4, which nobody has written"):
            kernel((2,), (64,), (DeviceArray(y.host, np.roll(y.written, 4)), x))
    kernel((2,), (64,), (x, y))
    assert y.written.all(), "the fast build cannot tell, so all counts as written"


def test_arrays_that_share_memory_stay_shared():
    memory = np.arange(256, dtype=np.float32)
    module = RawModule(code=KERNEL.replace("NUMBER", "").replace("BODY", "y[i] = x[i] + y[i];"))
    with checked():
        kernel = module.get_function("k")
        kernel((2,), (64,), (memory[:128], memory[:128]))
        kernel((2,), (64,), (memory[:128], memory[128:]))
    np.testing.assert_array_equal(memory[:128], 2 * np.arange(128))
    np.testing.assert_array_equal(memory[128:], np.arange(128, 256) + 2 * np.arange(128))
    with checked(), pytest.raises(DataRace):
        kernel((2,), (64,), (memory[1:129], memory[:128]))


@pytest.mark.parametrize("build", ["fast", "checked"])
def test_too_much_shared_memory(build):
    module = RawModule(
        code=KERNEL.replace("NUMBER", "").replace("BODY", "extern __shared__ float s[]; s[t] = t; y[t] = s[t];")
    )
    with checked() if build == "checked" else nullcontext():
        kernel = module.get_function("k")
        with pytest.raises(LaunchError, match=r"k: 50000 bytes of dynamic shared memory .* at most 49152"):
            kernel((1,), (64,), (X, X.copy()), shared_mem=50000)
        kernel.max_dynamic_shared_size_bytes = 50000
        kernel((1,), (64,), (X, X.copy()), shared_mem=50000)
