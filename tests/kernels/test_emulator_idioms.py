"""Kernels that are right though they look wrong to a simple rule: the checked build must have no objection to them."""

import numpy as np
import pytest

from kernels import emulator
from kernels.emulator import RawModule, checked

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
BLOCKS, THREADS = 4, 64
N = BLOCKS * THREADS
X = np.arange(N, dtype=np.float32)
INDEX = np.arange(N)
T = INDEX % THREADS

# name: (body, whether y is right). Run by 4 blocks of 64 threads: `t` is the thread, `i` the thread in the grid; `x`
# and `y` have 256 floats, `z` has 512 integers, all zero.
IDIOMS = {
    "the last block adds up what the others left": (
        """__shared__ bool last; __shared__ float s[64];
        s[t] = x[i]; __syncthreads();
        for (int n = 32; n > 0; n /= 2) { if (t < n) s[t] += s[t + n]; __syncthreads(); }
        if (t == 0) {
            y[1 + blockIdx.x] = s[0];
            __threadfence();
            last = atomicInc((unsigned *)z, gridDim.x) == gridDim.x - 1;
        }
        __syncthreads();
        if (last && t == 0) { float sum = 0; for (int b = 0; b < gridDim.x; b++) sum += y[1 + b]; y[0] = sum; }""",
        lambda y: y[0] == X.sum(),
    ),
    "every thread fences before the ticket": (
        """__shared__ int ticket;
        y[i] = x[i] + 1;
        __threadfence(); __syncthreads();
        if (t == 0) ticket = atomicAdd(&z[0], 1);
        __syncthreads();
        if (ticket == gridDim.x - 1) for (int j = t; j < 256; j += 64) y[j] = 2 * y[j];""",
        lambda y: (y == 2 * X + 2).all(),
    ),
    "a flag that is polled": (
        """__shared__ int value; volatile __shared__ int flag;
        if (t == 0) flag = 0;
        __syncthreads();
        if (t == 40) { value = 7; __threadfence_block(); flag = 1; }
        if (t == 0) { while (flag == 0) {} __threadfence_block(); y[i] = value; }""",
        lambda y: (y[::64] == 7).all(),
    ),
    "a flag for another block": (
        """if (t == 0 && blockIdx.x == 3) { y[0] = 5; __threadfence(); atomicExch(&z[0], 1); }
        if (t == 0 && blockIdx.x == 0) { while (atomicAdd(&z[0], 0) == 0) {} __threadfence(); y[1] = y[0] + 1; }""",
        lambda y: y[1] == 6,
    ),
    "a volatile flag for another block": (
        """if (t == 3 && blockIdx.x == 2) { y[0] = 5; __threadfence(); *(volatile int *)z = 1; }
        if (t == 9 && blockIdx.x == 1) { while (*(volatile int *)z == 0) {} __threadfence(); y[1] = y[0] + 1; }""",
        lambda y: y[1] == 6,
    ),
    "cuda::atomic_ref, release and acquire": (
        """cuda::atomic_ref<int, cuda::thread_scope_device> flag(z[0]);
        if (t == 0 && blockIdx.x == 2) { y[0] = 5; flag.store(1, cuda::memory_order_release); }
        if (t == 0 && blockIdx.x == 1) { while (flag.load(cuda::memory_order_acquire) == 0) {} y[1] = y[0] + 1; }""",
        lambda y: y[1] == 6,
    ),
    "a lock with fences": (
        """__shared__ int lock, sum;
        if (t == 0) lock = sum = 0;
        __syncthreads();
        bool done = false;
        while (!done)
            if (atomicCAS(&lock, 0, 1) == 0) {
                __threadfence_block(); sum += t; __threadfence_block(); atomicExch(&lock, 0); done = true;
            }
        __syncthreads();
        y[i] = sum;""",
        lambda y: (y == 2016).all(),
    ),
    "a lock of all blocks": (
        """if (t % 32 == 0) {
            while (atomicCAS(&z[0], 0, 1) != 0) {}
            __threadfence(); z[1] += 1; y[0] = z[1]; __threadfence(); atomicExch(&z[0], 0);
        }""",
        lambda y: y[0] == 8,
    ),
    "a barrier after some have returned": (
        "__shared__ float s[64]; if (t >= 50) return; s[t] = x[i]; __syncthreads(); y[i] = s[49 - t];",
        lambda y: (y[:50] == X[49::-1]).all() and not y[50:64].any(),
    ),
    "a barrier after a warp has returned": (
        "__shared__ float s[32]; if (t / 32 == 1) return; s[t] = x[i]; __syncthreads(); y[i] = s[31 - t];",
        lambda y: (y[:32] == X[31::-1]).all(),
    ),
    "two barriers, threads returning between": (
        """__shared__ int s; if (t == 0) s = 1; __syncthreads(); if (t > 40) { y[i] = s; return; } __syncthreads();
        if (t == 3) s = 2; __syncthreads(); y[i] = s;""",
        lambda y: (y == np.where(T > 40, 1, 2)).all(),
    ),
    "a sum over warps": (
        """__shared__ float s[2]; float v = x[i];
        for (int n = 16; n; n /= 2) v += __shfl_down_sync(~0u, v, n);
        if (t % 32 == 0) s[t / 32] = v;
        __syncthreads();
        y[i] = s[0] + s[1];""",
        lambda y: (y == X.reshape(4, 64).sum(1).repeat(64)).all(),
    ),
    "two tiles in turn, one barrier each": (
        """__shared__ float s[2][64]; float sum = 0; s[0][t] = x[t];
        for (int k = 0; k < 4; k++) {
            __syncthreads();
            if (k < 3) s[(k + 1) % 2][t] = x[64 * (k + 1) + t];
            sum += s[k % 2][63 - t];
        }
        y[i] = sum;""",
        lambda y: (y[:64] == X.reshape(4, 64)[:, ::-1].sum(0)).all(),
    ),
    "a transposed tile": (
        """__shared__ float s[8][9]; s[t / 8][t % 8] = x[i]; __syncthreads(); y[i] = s[t % 8][t / 8];""",
        lambda y: (y == X.reshape(4, 8, 8).transpose(0, 2, 1).ravel()).all(),
    ),
    "a scan": (
        """__shared__ float s[64]; s[t] = x[i]; __syncthreads();
        for (int n = 1; n < 64; n *= 2) {
            float v = t >= n ? s[t - n] : 0; __syncthreads(); s[t] += v; __syncthreads();
        }
        y[i] = s[t];""",
        lambda y: (y == X.reshape(4, 64).cumsum(1).ravel()).all(),
    ),
    "a warp on its own": (
        """volatile __shared__ float s[64]; s[t] = x[i]; __syncwarp();
        for (int n = 16; n; n /= 2) { float v = s[t] + s[t ^ n]; __syncwarp(); s[t] = v; __syncwarp(); }
        y[i] = s[t];""",
        lambda y: (y == X.reshape(8, 32).sum(1).repeat(32)).all(),
    ),
    "one atomic for a warp": (
        """int first;
        unsigned lanes = __ballot_sync(~0u, t % 3 == 0);
        int leader = __ffs(lanes) - 1;
        if (t % 32 == leader) first = atomicAdd(&z[0], __popc(lanes));
        first = __shfl_sync(~0u, first, leader);
        if (t % 3 == 0) y[first + __popc(lanes & ((1u << t % 32) - 1))] = 1;""",
        lambda y: y.sum() == (T % 3 == 0).sum() and y[: int(y.sum())].all(),
    ),
    "a histogram": (
        """__shared__ int bins[8]; if (t < 8) bins[t] = 0; __syncthreads(); atomicAdd(&bins[t % 8], 1); __syncthreads();
        if (t < 8) atomicAdd(&z[t], bins[t]);
        y[i] = 0;""",
        lambda y: True,
    ),
    "a loop by strides of the grid": (
        "for (int j = i; j < 256; j += gridDim.x * blockDim.x) y[j] = 3 * x[j];",
        lambda y: (y == 3 * X).all(),
    ),
    "two arrays in one buffer": (
        """extern __shared__ float s[]; int *count = (int *)(s + 64);
        s[t] = x[i]; count[t] = t; __syncthreads(); y[i] = s[63 - t] + count[t ^ 1];""",
        lambda y: (y == X.reshape(4, 64)[:, ::-1].ravel() + (T ^ 1)).all(),
    ),
    "two declared parts": (
        """extern __shared__ float s[]; float *a = __shared_part__(s, 64), *b = __shared_part__(s + 64, 64);
        a[t] = x[i]; b[t] = t; __syncthreads(); y[i] = a[63 - t] + b[t ^ 1];""",
        lambda y: (y == X.reshape(4, 64)[:, ::-1].ravel() + (T ^ 1)).all(),
    ),
    "registers that a loop fills": (
        """float a[4], sum = 0;
        for (int j = 0; j < 4; j++) a[j] = x[i] + j;
        for (int j = 3; j >= 0; j--) sum += a[j];
        y[i] = sum;""",
        lambda y: (y == 4 * X + 6).all(),
    ),
    "results through pointers": (
        "float a, b; int n; divide(x[i], &a, &b, &n); y[i] = a + b + n;",
        lambda y: np.allclose(y, X / 2 + X + 1),
    ),
    "a struct with padding": (
        "Padded p; p.a = 1; p.b = x[i]; Padded q = p; Padded r; r = make(q.b); y[i] = q.a + r.b;",
        lambda y: (y == X + 1).all(),
    ),
    "a union of a vector and its floats": (
        """__shared__ __align__(16) float s[64]; s[t] = x[i]; __syncthreads();
        union { float4 v; float f[4]; } u; u.v = ((float4 *)s)[t / 4]; y[i] = u.f[t % 4];""",
        lambda y: (y == X).all(),
    ),
    "the largest float by compare and swap": (
        """int *bits = &z[0], old = *(volatile int *)bits, seen;
        do { seen = old; if (__int_as_float(seen) >= x[i]) break; old = atomicCAS(bits, seen, __float_as_int(x[i])); }
        while (old != seen);
        y[i] = 0;""",
        lambda y: True,
    ),
    "a sum of doubles by compare and swap": (
        """unsigned long long *sum = (unsigned long long *)z, old = *sum, seen;
        do { seen = old; old = atomicCAS(sum, seen, __double_as_longlong(x[i] + __longlong_as_double(seen))); }
        while (seen != old);""",
        lambda y: True,
    ),
    "a barrier of the grid": (
        """y[i] = x[i]; __threadfence(); __syncthreads();
        if (t == 0) { atomicAdd(&z[0], 1); while (atomicAdd(&z[0], 0) < gridDim.x) {} __threadfence(); }
        __syncthreads();
        float v = y[255 - i]; if (v < 0) z[5 + i] = v;""",
        lambda y: (y == X).all(),
    ),
    "a barrier of cooperative groups": (
        """auto grid = cooperative_groups::this_grid();
        y[i] = x[i]; grid.sync(); float v = y[255 - i]; grid.sync(); y[i] = v;""",
        lambda y: (y == X[::-1]).all(),
    ),
    "looking back at earlier blocks": (
        """if (t == 0) {
            float before = 0;
            if (blockIdx.x > 0) {
                while (*(volatile int *)&z[blockIdx.x - 1] == 0) {}
                __threadfence();
                before = y[64 * (blockIdx.x - 1)];
            }
            y[64 * blockIdx.x] = before + 1;
            __threadfence();
            atomicExch(&z[blockIdx.x], 1);
        }""",
        lambda y: y[::64].tolist() == [1, 2, 3, 4],
    ),
    "reversing in place": (
        "__shared__ float s[64]; y[i] = x[i]; __syncthreads(); s[t] = y[i]; __syncthreads(); y[i] = s[63 - t];",
        lambda y: (y == X.reshape(4, 64)[:, ::-1].ravel()).all(),
    ),
    "hashing with unsigned numbers": (
        """unsigned h = 2166136261u;
        for (int j = 0; j < 5; j++) h = (h ^ (i >> j)) * 16777619u;
        h ^= h << 31; y[i] = h & 1;""",
        lambda y: set(y.tolist()) <= {0, 1},
    ),
    "conversions that saturate": (
        "y[i] = (float)(__float2int_rz(x[i] * 1e20f) / 1000000) + __float2int_rn(NAN) + __float2uint_rz(-1.0f);",
        lambda y: y[0] == 0 and (y[1:] == 2147).all(),
    ),
    "constants and read-only loads": (
        "y[i] = __ldg(&x[i]) + weights[t % 2] + ((const volatile float *)x)[i];",
        lambda y: (y == 2 * X + np.where(T % 2, 2, 1)).all(),
    ),
    "a list that threads push to": (
        """__shared__ int head, next[64]; if (t == 0) head = -1; __syncthreads();
        int seen = atomicAdd(&head, 0), old;
        do { old = seen; next[t] = old; __threadfence_block(); seen = atomicCAS(&head, old, t); } while (seen != old);
        __syncthreads();
        if (t == 0) { int n = 0; for (int j = head; j >= 0; j = next[j]) n++; y[i] = n; }""",
        lambda y: (y[::64] == 64).all(),
    ),
    "a queue of work": (
        """__shared__ int job;
        for (;;) {
            if (t == 0) job = atomicAdd(&z[0], 1);
            __syncthreads();
            int mine = job;
            __syncthreads();
            if (mine >= 4) break;
            y[64 * mine + t] = mine;
        }""",
        lambda y: (y == INDEX // 64).all(),
    ),
    "lanes of a branch": (
        "y[i] = 0; if (t % 32 < 10) { unsigned m = __activemask(); y[i] = __popc(m) + __shfl_sync(m, t, 3); }",
        lambda y: (y == np.where(T % 32 < 10, 13 + T // 32 * 32, 0)).all(),
    ),
    "one counter, many flags": (
        """__shared__ int any[2]; if (t < 2) any[t] = 0; __syncthreads(); if (t % 7 == 0) atomicOr(&any[t % 2], 1);
        __syncthreads(); y[i] = any[0] + __syncthreads_or(t == 5);""",
        lambda y: (y == 2).all(),
    ),
}
PRELUDE = """
#include <cooperative_groups.h>
#include <cuda/atomic>
struct Padded { float a; double b; };
__constant__ float weights[2] = {1, 2};
__device__ void divide(float x, float *a, float *b, int *n) { *a = x / 2; *b = x; *n = 1; }
__device__ __noinline__ Padded make(double b) { Padded p; p.a = 2; p.b = b; return p; }
"""
KERNEL = """
extern "C" __global__ void kNUMBER(const float *x, float *y, int *z) {
    const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    BODY
}
"""
SOURCE = PRELUDE + "".join(
    KERNEL.replace("NUMBER", str(i)).replace("BODY", body) for i, (body, _) in enumerate(IDIOMS.values())
)
MODULE = RawModule(code=SOURCE, name="idioms.cu")


def run(name):
    y, z = np.zeros(N, np.float32), np.zeros(2 * N, np.int32)
    MODULE.get_function(f"k{list(IDIOMS).index(name)}")((BLOCKS,), (THREADS,), (X, y, z), shared_mem=512)
    assert IDIOMS[name][1](y), y


@pytest.mark.parametrize("name", IDIOMS)
def test_right_kernels_pass_in_every_order(name):
    for seed in range(4):
        with checked(seed):
            run(name)


# What spins on a volatile variable gives no other thread a turn where nothing watches its loads.
POLLING = [name for name, (body, _) in IDIOMS.items() if "while (flag" in body or "while (*(volatile" in body]


@pytest.mark.parametrize("name", [name for name in IDIOMS if name not in POLLING])
def test_right_kernels_give_their_results_in_the_fast_build(name):
    run(name)


def test_there_are_at_least_thirty():
    assert len(IDIOMS) >= 30
