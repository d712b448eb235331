"""Kernels that are wrong in ways that no access to an array shows by itself: each class faulty in several ways."""

import subprocess
import sys

import numpy as np
import pytest

from kernels import emulator
from kernels.emulator import (
    BadShuffle,
    DataRace,
    Deadlock,
    MisalignedAccess,
    NotDeterministic,
    OutOfBounds,
    RawModule,
    ReadOnlyWrite,
    RestrictViolation,
    SameValueRace,
    UndefinedArithmetic,
    UninitializedRead,
    checked,
)

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
SEEDS = range(3)

# name: (what is raised, what the message says, body). A body is run by two blocks of 64 threads; `t` is the thread,
# `i` the thread in the grid, `x` and `y` have 128 floats each, `n` is 128 and `big` 2^30. The line with HERE must be in
# the message, and what stands after THERE.
FAULTS = {
    # ---- accesses whose result is used on one path only
    "a load before its guard": (
        OutOfBounds,
        r"reads 4 bytes at x\[",
        "float v = x[i + 64];  // HERE\nif (i < 64) y[i] = v;",
    ),
    "a race before a guard": (
        DataRace,
        "of s at",
        "__shared__ float s[64];\ns[t] = t;\nfloat v = s[63 - t];  // HERE\nif (n < t) y[i] = v;",
    ),
    # ---- local variables that nobody wrote
    "a scalar": (UninitializedRead, "the local variable sum at", "float sum;\nsum += x[i];  // HERE\ny[i] = sum;"),
    "a scalar times zero": (
        UninitializedRead,
        "of scale|variable scale",
        "float scale;\ny[i] = x[i] + 0 * scale;  // HERE",
    ),
    "a scalar on one path": (
        UninitializedRead,
        "variable v",
        "float v;\nif (t < 60) v = x[i];\ny[i] = v;  // HERE",
    ),
    "the last element of an array": (
        UninitializedRead,
        r"variable a \(byte 12\)",
        """float a[4], sum = 0;
        for (int j = 0; j < 3; j++) a[j] = x[j];
        for (int j = 0; j < 4; j++)
            sum += a[j];  // HERE
        y[i] = sum;""",
    ),
    "an array through a pointer": (
        UninitializedRead,
        r"variable a \(byte 8\)",
        "float a[3];\nset_all(a, 2);\ny[i] = sum_of(a, 3);",
    ),
    "an integer as an index": (UninitializedRead, "variable j", "int j;\nif (x[i] < 0) j = 0;\ny[i] = x[j];  // HERE"),
    "one member of a vector": (
        UninitializedRead,
        "variable v",
        "float4 v;\nv.x = v.y = v.z = x[i];\nif (t == 0) *(float4 *)y = v;  // HERE",
    ),
    "again in each iteration": (
        UninitializedRead,
        "variable v",
        """float sum = 0;
        for (int j = 0; j < 2; j++) {
            float v;
            if (j == 0) v = 1;
            sum += v;  // HERE
        }
        y[i] = sum;""",
    ),
    # ---- several arrays in one dynamic shared buffer
    "past the first part": (
        OutOfBounds,
        "past the end of a part of dynamic shared memory",
        """extern __shared__ float s[];
        float *a = __shared_part__(s, 64), *b = __shared_part__(s + 64, 64);
        a[t] = x[i]; b[t] = 0;
        __syncthreads();
        y[i] = a[t + 1];  // HERE""",
    ),
    "before the second part": (
        OutOfBounds,
        "before the start of a part",
        """extern __shared__ float s[];
        float *a = __shared_part__(s, 64), *b = __shared_part__(s + 64, 64);
        a[t] = b[t] = x[i];
        __syncthreads();
        y[i] = b[t - 1];  // HERE""",
    ),
    "a write into the next part": (
        OutOfBounds,
        "writes 4 bytes",
        """extern __shared__ char bytes[];
        int *a = __shared_part__((int *)bytes, 32);
        float *b = __shared_part__((float *)(bytes + 128), 64);
        b[t] = 0;
        if (t < 32) a[t + 1] = t;  // HERE
        y[i] = b[t];""",
    ),
    "a part that nobody wrote": (
        UninitializedRead,
        "shared memory",
        """extern __shared__ float s[];
        float *a = __shared_part__(s, 64), *b = __shared_part__(s + 64, 64);
        a[t] = x[i];
        __syncthreads();
        y[i] = b[t];  // HERE""",
    ),
    "parts larger than the buffer": (
        OutOfBounds,
        "declares a part of 512 bytes that does not fit",
        "extern __shared__ float s[];\nfloat *a = __shared_part__(s + 64, 128);\na[t] = 1;\ny[i] = a[t];",
    ),
    # ---- races on variables of the module
    "all threads count in a plain variable": (DataRace, "of counter", "counter++;  // HERE\ny[i] = 1;"),
    "one thread writes, another reads": (
        DataRace,
        "of table",
        "if (t == 0) table[3] = x[i];  // HERE\ny[i] = table[t % 8];  // THERE",
    ),
    "two blocks write a variable": (
        DataRace,
        r"of block \(.,0,0\)",
        "if (t == 0) table[0] = i;  // HERE",
    ),
    "an atomic against a plain read of a variable": (
        DataRace,
        "of counter",
        "atomicAdd(&counter, 1);  // HERE\n__syncthreads();\ny[i] = counter;  // THERE",
    ),
    "a plain read that no compare-and-swap follows": (
        DataRace,
        "of counter",
        "int seen = counter;  // HERE\nif (t % 2) atomicCAS(&counter, seen, seen + 1);  // THERE\ny[i] = seen;",
    ),
    # ---- arithmetic
    "an offset beyond 2^31": (
        UndefinedArithmetic,
        r"computes 1073741824 \* 2 .* overflows 'int'",
        "if (i == 2)\ny[(i * big) & 1] = 1;  // HERE",
    ),
    "a sum beyond 2^31": (
        UndefinedArithmetic,
        r"1073741952 \+ 1073741824 .* overflows 'int'",
        "int j = big + (big + n);  // HERE\ny[i] = j;",
    ),
    "the negative of the smallest integer": (
        UndefinedArithmetic,
        r"-\(-2147483648\)",
        "int least = -big - big;\ny[i] = -least;  // HERE",
    ),
    "a difference": (UndefinedArithmetic, "overflows", "int j = -big - big - n;  // HERE\ny[i] = j;"),
    "a shift by the width": (UndefinedArithmetic, "shifts by 32 at", "y[i] = 1u << (n / 4);  // HERE"),
    "a shift by a negative number": (UndefinedArithmetic, "shifts by -1 at", "y[i] = n >> (n - 129);  // HERE"),
    "a shift of 64 bits": (UndefinedArithmetic, "shifts by 64 at", "y[i] = 1ull << (n / 2);  // HERE"),
    "a float too large for an integer": (
        UndefinedArithmetic,
        "which cannot hold it",
        "y[i] = (int)(x[i] * 1e9f);  // HERE",
    ),
    "not a number as an integer": (UndefinedArithmetic, "nan", "y[i] = (int)(0.0f / (x[i] - x[i]));  // HERE"),
    "a negative float as an unsigned char": (
        UndefinedArithmetic,
        "unsigned char",
        "unsigned char c = (unsigned char)(-1000.0f - x[i]);  // HERE\ny[i] = c;",
    ),
    # ---- writes through const
    "const cast away": (ReadOnlyWrite, r"writes x\[", "((float *)x)[i] = 0;  // HERE"),
    "const cast away by a function": (
        ReadOnlyWrite,
        r"writes x\[.* which is const",
        "set_all(const_cast<float *>(x), 1);",
    ),
    "an atomic on const": (ReadOnlyWrite, r"updates x\[0\]", "atomicAdd((float *)x, 1.0f);  // HERE"),
    "constant memory": (ReadOnlyWrite, "coefficients", "((float *)coefficients)[t % 4] = x[i];  // HERE"),
    # ---- shuffles
    "a width of 24": (
        BadShuffle,
        "the width 24, which is not a power of two",
        "y[i] = __shfl_sync(~0u, x[i], 0, 24);  // HERE",
    ),
    "a width of 0": (BadShuffle, "the width 0", "y[i] = __shfl_xor_sync(~0u, x[i], 1, t / 64);  // HERE"),
    "a width of 64": (BadShuffle, "the width 64", "y[i] = __shfl_down_sync(~0u, x[i], 1, n / 2);  // HERE"),
    # ---- vectors in shared memory that is not aligned for them
    "a float4 in an array of floats": (
        MisalignedAccess,
        "bytes past a multiple of 16",
        """__shared__ float s[256];
        for (int j = 0; j < 4; j++) s[4 * t + j] = x[i];
        float4 v = ((float4 *)s)[t];  // HERE
        y[i] = v.x;""",
    ),
    "a float4 written to a row": (
        MisalignedAccess,
        "bytes past a multiple of 16",
        "__shared__ float s[64][4];\n*(float4 *)s[t] = make_float4(1, 2, 3, 4);  // HERE\ny[i] = s[t][0];",
    ),
    "a double in an array of bytes": (
        MisalignedAccess,
        "bytes past a multiple of 8",
        "__shared__ char s[512];\n((double *)s)[t] = x[i];  // HERE\ny[i] = ((double *)s)[t];",
    ),
    "a float2 in an array of integers": (
        MisalignedAccess,
        "bytes past a multiple of 8",
        "__shared__ int s[130];\n((float2 *)s)[t] = make_float2(1, 2);  // HERE\ny[i] = ((float2 *)s)[t].y;",
    ),
    # ---- waiting for what never comes
    "a lock that is never released": (
        Deadlock,
        "waits for another thread",
        """__shared__ int lock;
        if (t == 0) lock = 0;
        __syncthreads();
        while (atomicCAS(&lock, 0, 1) != 0) {}
        y[i] = 1;""",
    ),
    "a flag that nobody sets": (
        Deadlock,
        "waits for another thread",
        "volatile __shared__ int flag;\nif (t == 0) flag = 0;\n__syncthreads();\nwhile (flag == 0) {}\ny[i] = 1;",
    ),
    # ---- fences that are missing, or in the wrong place
    "the last block without a fence": (
        DataRace,
        "of block",
        """__shared__ int last;
        if (t == 0) {
            table[blockIdx.x] = x[i];  // THERE
            last = atomicAdd((int *)&y[127], 1) == gridDim.x - 1;
        }
        __syncthreads();
        if (last && t == 1) y[0] = table[0] + table[1];  // HERE""",
    ),
    "a fence after the ticket": (
        DataRace,
        "of block",
        """__shared__ int last;
        if (t == 0) {
            table[blockIdx.x] = x[i];  // THERE
            last = atomicAdd((int *)&y[127], 1) == gridDim.x - 1;
            __threadfence();
        }
        __syncthreads();
        if (last && t == 1) y[0] = table[0] + table[1];  // HERE""",
    ),
    "a fence for the block alone": (
        DataRace,
        "of block",
        """__shared__ int last;
        if (t == 0) {
            table[blockIdx.x] = x[i];  // THERE
            __threadfence_block();
            last = atomicAdd((int *)&y[127], 1) == gridDim.x - 1;
        }
        __syncthreads();
        if (last && t == 1) y[0] = table[0] + table[1];  // HERE""",
    ),
    "a lock without fences": (
        DataRace,
        "of sum",
        """__shared__ int lock, sum;
        if (t == 0) lock = sum = 0;
        __syncthreads();
        while (atomicCAS(&lock, 0, 1) != 0) {}
        sum += t;  // HERE
        atomicExch(&lock, 0);
        __syncthreads();
        y[i] = sum;""",
    ),
    "volatile in place of a warp barrier": (
        DataRace,
        "with no barrier between",
        """volatile __shared__ float s[64];
        s[t] = x[i];
        __syncthreads();
        if (t < 32) { s[t] += s[t + 32]; s[t] += s[t + 16]; }  // HERE
        y[i] = x[i];""",
    ),
    # ---- one value from several threads
    "a flag that every thread sets": (
        SameValueRace,
        "the same value",
        "__shared__ int found;\nif (x[i] >= 0) found = 1;  // HERE\n__syncthreads();\ny[i] = found;",
    ),
    "different values behind a flag": (
        DataRace,
        "with no barrier between",
        "__shared__ int which;\nif (t > 10) which = t;  // HERE\n__syncthreads();\ny[i] = which;",
    ),
}
PRELUDE = """
__device__ int counter;
__device__ float table[8];
__constant__ float coefficients[4] = {1, 2, 3, 4};
__device__ void set_all(float *a, int n) { for (int j = 0; j < n; j++) a[j] = 1; }
__device__ float sum_of(const float *a, int n) { float s = 0; for (int j = 0; j < n; j++) s += a[j]; return s; }
"""
KERNEL = """
extern "C" __global__ void kNUMBER(const float *x, float *y, int n, int big) {
    const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    BODY
}
"""


def source_of(bodies):
    return PRELUDE + "".join(KERNEL.replace("NUMBER", str(i)).replace("BODY", body) for i, body in enumerate(bodies))


SOURCE = source_of(body for *_, body in FAULTS.values())
MODULE = RawModule(code=SOURCE, name="holes.cu")
X = np.arange(128, dtype=np.float32)
MORE = (np.int32(128), np.int32(2**30))


def line_of(name, mark):
    """The line of SOURCE, from 1, on which fault `name` has `mark`; None where it has none."""
    lines = SOURCE.splitlines()
    first = next(n for n, line in enumerate(lines) if f" k{list(FAULTS).index(name)}(" in line)
    size = len(FAULTS[name][2].splitlines()) + 2
    return next((n + 1 for n in range(first, first + size) if lines[n].endswith(f"// {mark}")), None)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_whatever_the_order(name):
    error, message, _ = FAULTS[name]
    kernel = f"k{list(FAULTS).index(name)}"
    for seed in SEEDS:
        y = np.zeros(128, np.float32)
        with pytest.raises(error, match=message) as caught, checked(seed):
            MODULE.get_function(kernel)((2,), (64,), (X, y, *MORE), shared_mem=512)
        assert caught.type is error
        text = str(caught.value)
        assert text.startswith(f"kernel {kernel}, block (")
        assert "thread (" in text
        for mark in ("HERE", "THERE"):
            if line := line_of(name, mark):
                assert f"holes.cu:{line}" in text


def test_same_value_writes_can_be_allowed():
    kernel = MODULE.get_function(f"k{list(FAULTS).index('a flag that every thread sets')}")
    with checked(same_value_writes=True):
        kernel((2,), (64,), (X, X.copy(), *MORE))
    different = MODULE.get_function(f"k{list(FAULTS).index('different values behind a flag')}")
    with checked(same_value_writes=True), pytest.raises(DataRace):
        different((2,), (64,), (X, X.copy(), *MORE))


# ---- offsets beyond 2^31, with memory that is only touched here and there ------------------------------------------

OFFSETS = """
extern "C" __global__ void rows_by_int(float *x, int row, int stride) { int at = row * stride; x[at] = 1; }
extern "C" __global__ void late_cast(float *x, int row, int stride) { x[(size_t)(row * stride)] = 1; }
extern "C" __global__ void sum(float *x, int base, int add) { x[base + add] = 1; }
extern "C" __global__ void right(float *x, int row, int stride) { x[(size_t)row * stride + threadIdx.x] = 2; }
"""


@pytest.mark.parametrize("name", ["rows_by_int", "late_cast", "sum"])
def test_an_offset_that_needs_more_than_32_bits(name):
    x = emulator.sparse((3 << 30,))
    module = RawModule(code=OFFSETS, name="offsets.cu")
    args = (x, np.int32(3), np.int32(2**30 - 1)) if name != "sum" else (x, np.int32(2**31 - 1), np.int32(1))
    with checked(), pytest.raises(UndefinedArithmetic, match=r"overflows 'int'"):
        module.get_function(name)((1,), (1,), args)
    with checked():
        module.get_function("right")((1,), (3,), (x, np.int32(3), np.int32(2**30 - 1)))
    assert x[3 * (2**30 - 1) + 2] == 2
    assert x[:4].tolist() == [0] * 4


# ---- __restrict__ ---------------------------------------------------------------------------------------------------

RESTRICT = """
extern "C" __global__ void shift(const float *__restrict__ x, float *__restrict__ y) {
    y[threadIdx.x] = 2 * x[threadIdx.x];
}
extern "C" __global__ void one(const float *x, float *__restrict__ y) { y[threadIdx.x + 1] = x[threadIdx.x]; }
extern "C" __global__ void both(float *__restrict__ x, float *__restrict__ y) {
    x[threadIdx.x] = 1; y[threadIdx.x] = 2;
}
extern "C" __global__ void add(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ y) {
    y[threadIdx.x] = a[threadIdx.x] + b[threadIdx.x];
}
"""


@pytest.mark.parametrize("name", ["shift", "one", "both"])
def test_restricted_arguments_that_share_memory(name):
    kernel = RawModule(code=RESTRICT, name="restrict.cu").get_function(name)
    memory = np.arange(200, dtype=np.float32)
    with checked():
        kernel((1,), (64,), (memory[:100], memory[100:]))
    with (
        checked(),
        pytest.raises(RestrictViolation, match=r"kernel \w+, block .* at restrict.cu:\d, .* at restrict.cu:\d"),
    ):
        kernel((1,), (64,), (memory, memory))
    with checked(), pytest.raises(RestrictViolation):
        kernel((1,), (64,), (memory[:100], memory[8:108]))


def test_restricted_arguments_that_share_what_nobody_writes_are_right():
    kernel = RawModule(code=RESTRICT).get_function("add")
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    with checked():
        kernel((1,), (64,), (x, x, y))
    assert y.tolist() == [2] * 64


# ---- atomics whose order decides ------------------------------------------------------------------------------------

ORDERS = {
    "a sum in one block": "atomicAdd(&y[0], 0.1f * t);  // HERE",
    "a sum of blocks": "if (t == 0) atomicAdd(&y[0], 1.0f / (3 + blockIdx.x));  // HERE",
    "a sum in shared memory": """__shared__ float s; if (t == 0) s = 0; __syncthreads();
        atomicAdd(&s, x[i] / 3);  // HERE
        __syncthreads(); y[i] = s;""",
    "differences": "atomicSub(&y[t % 2], 0.3f);  // HERE",
}
FIXED = {
    "integers": "atomicAdd((int *)y, t);",
    "whole numbers": "atomicAdd(&y[0], 1.0f);",
    "one sum for each thread": "atomicAdd(&y[i], 0.1f); atomicAdd(&y[i], 0.7f);",
    "the largest": "atomicMax((int *)y, t);",
    "in turns": """for (int j = 0; j < 64; j++) {
        if (t == j) atomicAdd(&y[64 * blockIdx.x], 0.1f * t);
        __syncthreads();
    }""",
}


def order_of(bodies, name):
    source = source_of(bodies.values())
    kernel = RawModule(code=source, name="order.cu").get_function(f"k{list(bodies).index(name)}")
    y = np.zeros(128, np.float32)
    with checked() as launches:
        kernel((4 if "blocks" in name else 2,), (64,), (np.arange(256, dtype=np.float32), np.resize(y, 256), *MORE))
    line = next((n for n, text in enumerate(source.splitlines(), 1) if text.endswith("HERE")), 0)
    return launches[0].not_deterministic, kernel, line


@pytest.mark.parametrize("name", ORDERS)
def test_atomics_whose_order_decides_are_reported(name):
    found, kernel, _ = order_of(ORDERS, name)
    assert len(found) == 1
    assert "round in an order that is not fixed" in found[0]
    assert "order.cu:" in found[0]
    with checked(deterministic=True), pytest.raises(NotDeterministic, match=r"kernel k\d, line order.cu:\d+"):
        kernel((4,), (64,), (np.arange(256, dtype=np.float32), np.zeros(256, np.float32), *MORE))


@pytest.mark.parametrize("name", FIXED)
def test_atomics_whose_order_decides_nothing_are_not(name):
    assert order_of(FIXED, name)[0] == ()


# ---- bank conflicts and coalescing ----------------------------------------------------------------------------------

ACCESSES = """
extern "C" __global__ void k(const float *x, float *y) {
    __shared__ float tile[32][32], swizzled[32][32], padded[32][33];
    int t = threadIdx.x;
    for (int r = 0; r < 32; r++) {
        tile[r][t] = x[32 * r + t];
        swizzled[r][t ^ r] = x[32 * r + t];
        padded[r][t] = x[32 * t + r];             // UNCOALESCED
    }
    __syncwarp();
    float sum = 0;
    for (int c = 0; c < 32; c++) sum += tile[t][c];              // CONFLICTS
    for (int c = 0; c < 32; c++) sum += swizzled[t][c ^ t];
    for (int c = 0; c < 32; c++) sum += padded[t][c];
    __shared__ __align__(16) float4 wide[32];
    wide[t] = *(const float4 *)(x + 4 * t);
    float4 v = wide[t];
    sum += v.x + v.w + tile[0][0];
    y[t] = sum;
}
"""


def test_bank_conflicts_and_uncoalesced_accesses_are_counted_by_line():
    with checked(count_lines=True) as launches:
        RawModule(code=ACCESSES, name="accesses.cu").get_function("k")(
            (1,), (32,), (np.ones(1024, np.float32), X.copy())
        )
    at = {text.split("// ")[-1]: n for n, text in enumerate(ACCESSES.splitlines(), 1)}
    lines = {(line.memory, line.line): line for line in launches[0].lines}
    conflict = lines["shared", f"accesses.cu:{at['CONFLICTS']}"]
    assert (conflict.accesses, conflict.transfers, conflict.least, conflict.excess) == (32, 32 * 32, 32, 31 * 32)
    uncoalesced = lines["global", f"accesses.cu:{at['UNCOALESCED']}"]
    assert (uncoalesced.transfers, uncoalesced.least) == (32 * 32, 32 * 4)
    others = [line for line in launches[0].lines if line not in (conflict, uncoalesced)]
    assert [line.line for line in others if line.excess] == []


# ---- the fast build -------------------------------------------------------------------------------------------------

FAST = """
import numpy as np
from kernels.emulator import RawModule, OutOfBounds
k = RawModule(code='extern "C" __global__ void k(float *y, int from, int to) {'
                   'for (int i = from; i < to; i++) y[i] = 1e30f; }').get_function("k")
found = 0
for size in (1, 10, 128, 1000, 30000):
    for n in range(10):
        keep = [np.zeros(size, np.float32) for _ in range(4)]
        for first, last in ((size, size + 1 + 100 * n), (-1 - n, 0)):
            try:
                k((1,), (1,), (keep[1], np.int32(first), np.int32(last)))
            except OutOfBounds as error:
                found += "past the end of 'y'" in str(error)
            assert not any(a.any() for a in keep)
        del keep
print("alive", found)
"""


def test_a_write_out_of_bounds_in_the_fast_build_is_an_error_and_not_the_end_of_the_process():
    ran = subprocess.run([sys.executable, "-c", FAST], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "alive 50\n"), ran.stderr
