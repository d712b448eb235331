"""The emulator runs CUDA source as a GPU would: what each feature of the language does, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import emulator
from kernels.emulator import CompileError, LaunchError, RawModule, checked

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
SEEDS = range(10)
BUILDS = ("fast", "checked", "counted")


def launch(module, name, grid, block, *args, shared=0, build="fast", seed=0):
    """Runs one kernel once in the given build; returns the checked Launch or None."""
    if build == "fast":
        return module.get_function(name)(grid, block, args, shared_mem=shared)
    with checked(seed, count_flops=build == "counted") as launches:
        module.get_function(name)(grid, block, args, shared_mem=shared)
    return launches[0]


def run(source, grid, block, *args, name="k", options=(), **how):
    """As `launch`, of a kernel in `source`."""
    return launch(RawModule(code=source, options=options), name, grid, block, *args, **how)


def floats(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


SAXPY = """
extern "C" __global__ void saxpy(const float *__restrict__ x, float *__restrict__ y, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"""

MATMUL = """
// C (m, n) = A (m, k) @ B (k, n), one BLOCK x BLOCK tile of C per block.
extern "C" __global__ void matmul(const float *a, const float *b, float *c, int m, int n, int k) {
    __shared__ float tile_a[BLOCK][BLOCK], tile_b[BLOCK][BLOCK];
    int row = blockIdx.y * BLOCK + threadIdx.y, column = blockIdx.x * BLOCK + threadIdx.x;
    float sum = 0.0f;
    for (int start = 0; start < k; start += BLOCK) {
        int ka = start + threadIdx.x, kb = start + threadIdx.y;
        tile_a[threadIdx.y][threadIdx.x] = row < m && ka < k ? a[row * k + ka] : 0.0f;
        tile_b[threadIdx.y][threadIdx.x] = kb < k && column < n ? b[kb * n + column] : 0.0f;
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < BLOCK; i++) sum += tile_a[threadIdx.y][i] * tile_b[i][threadIdx.x];
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = sum;
}
"""

ROW_SUM = """
extern "C" __global__ void __launch_bounds__(256) row_sum(const float *x, float *y, int n) {
    __shared__ float of_warp[32];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[(size_t)blockIdx.x * n + i];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
    if (threadIdx.x % warpSize == 0) of_warp[threadIdx.x / warpSize] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / warpSize ? of_warp[threadIdx.x] : 0.0f;
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (threadIdx.x == 0) y[blockIdx.x] = sum;
    }
}
"""


# ---- the whole model, in both builds -----------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
@settings(deadline=None, max_examples=15)
@given(n=st.integers(0, 3000), block=st.integers(1, 256))
def test_saxpy(build, n, block):
    x, y = floats(n), floats(n + 1)[:n]
    expected = 2 * x + y
    run(SAXPY, (-(-n // block) or 1,), (block,), x, y, np.float32(2), np.int32(n), name="saxpy", build=build)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", BUILDS)
@settings(deadline=None, max_examples=10)
@given(m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 40))
def test_tiled_matmul(build, m, n, k):
    a, b, c = floats(m, k), floats(k, n), np.zeros((m, n), np.float32)
    sizes = (np.int32(m), np.int32(n), np.int32(k))
    grid, block = (-(-n // 8), -(-m // 8)), (8, 8)
    run(MATMUL, grid, block, a, b, c, *sizes, name="matmul", build=build, options=("-DBLOCK=8",))
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_correct_kernels_pass_the_checks_with_the_same_bits_in_every_order(seed):
    a, b, c = floats(33, 20), floats(20, 17), np.zeros((33, 17), np.float32)
    sizes = (np.int32(33), np.int32(17), np.int32(20))
    run(MATMUL, (3, 5), (8, 8), a, b, c, *sizes, name="matmul", build="checked", seed=seed, options=("-DBLOCK=8",))
    y = np.zeros(20, np.float32)
    x = floats(20, 500)
    run(ROW_SUM, (20,), (128,), x, y, np.int32(500), name="row_sum", build="checked", seed=seed)
    reference = np.zeros_like(y)
    run(ROW_SUM, (20,), (128,), x, reference, np.int32(500), name="row_sum", build="checked", seed=99)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, x.sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(y, reference)


def test_all_builds_give_the_same_bits():
    x = floats(20, 500)
    results = {}
    for build in BUILDS:
        y = np.zeros(20, np.float32)
        run(ROW_SUM, (20,), (128,), x, y, np.int32(500), name="row_sum", build=build)
        results[build] = y.tobytes()
    assert len(set(results.values())) == 1


def test_blocks_run_on_all_cores_and_each_exactly_once():
    source = """extern "C" __global__ void k(int *count) {
        atomicAdd(&count[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x], 1);
        atomicAdd(&count[gridDim.x * gridDim.y * gridDim.z], 1);
    }"""
    count = np.zeros(5 * 7 * 11 + 1, np.int32)
    run(source, (5, 7, 11), (8, 4, 2), count)
    assert count[:-1].tolist() == [64] * 385
    assert count[-1] == 64 * 385


# ---- features ----------------------------------------------------------------------------------------------

# name: (body, float32 input of 64, expected output of 64); run by one block of 64 threads as thread t on x and y
X = floats(64)
T = np.arange(64)
LANE, WARP = T % 32, T // 32
FEATURES = {
    "static shared memory": ("__shared__ float s[64]; s[t] = x[t]; __syncthreads(); y[t] = s[63 - t];", X[::-1]),
    "dynamic shared memory": (
        "extern __shared__ __align__(16) float s[]; s[t] = x[t]; __syncthreads(); y[t] = s[t ^ 1];",
        X[T ^ 1],
    ),
    "dynamic shared bytes": (
        "extern __shared__ unsigned char s[]; float *f = (float *)s; f[t] = x[t]; __syncthreads(); y[t] = f[t ^ 2];",
        X[T ^ 2],
    ),
    "barrier in a loop": (
        """__shared__ float s[64]; float v = x[t];
        for (int i = 0; i < 5; i++) { s[t] = v; __syncthreads(); v = s[(t + 1) % 64]; __syncthreads(); } y[t] = v;""",
        X[(T + 5) % 64],
    ),
    "barrier that counts": ("y[t] = __syncthreads_count(x[t] > 0.0f);", np.full(64, (X > 0).sum())),
    "barriers that vote": (
        "y[t] = 2 * __syncthreads_or(t == 7) + __syncthreads_and(t < 63) + 4 * __syncthreads_and(t < 64);",
        np.full(64, 6),
    ),
    "shuffle": ("y[t] = __shfl_sync(~0u, x[t], 5);", X[WARP * 32 + 5]),
    "shuffle in segments": ("y[t] = __shfl_sync(~0u, x[t], 3, 8);", X[T // 8 * 8 + 3]),
    "shuffle up": ("y[t] = __shfl_up_sync(~0u, x[t], 3);", X[np.where(LANE >= 3, T - 3, T)]),
    "shuffle down": ("y[t] = __shfl_down_sync(~0u, x[t], 3, 16);", X[np.where(T % 16 < 13, T + 3, T)]),
    "shuffle xor": ("y[t] = __shfl_xor_sync(~0u, x[t], 17);", X[T ^ 17]),
    "shuffle in half a warp": (
        "if (t % 32 < 16) y[t] = __shfl_xor_sync(0xffffu, x[t], 1); else y[t] = __shfl_xor_sync(0xffff0000u, x[t], 2);",
        X[np.where(LANE < 16, T ^ 1, T ^ 2)],
    ),
    "shuffle of 8 bytes": ("y[t] = (float)__shfl_xor_sync(~0u, (double)x[t], 1);", X[T ^ 1]),
    "ballot": ("y[t] = __popc(__ballot_sync(~0u, t % 3 == 0));", np.where(WARP == 0, 11, 11)),
    "any and all": (
        "y[t] = __any_sync(~0u, t == 40) + 2 * __all_sync(~0u, t < 32);",
        np.where(WARP == 0, 2, 1),
    ),
    "match": ("y[t] = __popc(__match_any_sync(~0u, t % 4));", np.full(64, 8)),
    "warp reduction": (
        "y[t] = __reduce_add_sync(~0u, t) + __reduce_max_sync(~0u, t) - __reduce_min_sync(~0u, -t);",
        np.where(WARP == 0, 496 + 31 + 31, 1520 + 63 + 63),
    ),
    "active lanes": ("y[t] = __popc(__activemask());", np.full(64, 32)),
    "active lanes of a branch": (
        """y[t] = 0;
        if (t % 32 < 10) { unsigned m = __activemask(); y[t] = __popc(m) + __shfl_xor_sync(m, x[t], 1); }""",
        np.where(LANE < 10, 10 + X[T ^ 1], 0),
    ),
    "warp barrier": ("__shared__ float s[64]; s[t] = x[t]; __syncwarp(); y[t] = s[t ^ 31];", X[T ^ 31]),
    "half the threads leave early": (
        "if (t >= 32) { y[t] = 0; return; } y[t] = __shfl_xor_sync(~0u, x[t], 1);",
        np.where(T < 32, X[T ^ 1], 0),
    ),
    "float4": (
        """float4 v = reinterpret_cast<const float4 *>(x)[t / 4]; float2 w = make_float2(v.x + v.y, v.z + v.w);
        y[t] = w.x + w.y;""",
        X.reshape(16, 4).sum(1)[T // 4],
    ),
    "half": (
        "__half h = __float2half(x[t]); __half2 p = __halves2half2(h, h); y[t] = __half2float(__hadd2(p, p).y * h);",
        ((X.astype(np.float16) + X.astype(np.float16)) * X.astype(np.float16)).astype(np.float32),
    ),
    "templates": ("y[t] = scaled<3>(x[t]) + larger<float>(x[t], 0.5f);", 3 * X + np.maximum(X, np.float32(0.5))),
    "atomics on floats": (
        "__shared__ float s; if (t == 0) s = 0; __syncthreads(); atomicAdd(&s, 1.0f); __syncthreads(); y[t] = s;",
        np.full(64, 64),
    ),
    "atomics on integers": (
        """__shared__ int s[4]; if (t < 4) s[t] = 0; __syncthreads();
        atomicMax(&s[0], t); atomicMin(&s[1], -t); atomicOr(&s[2], 1 << t % 8); atomicSub(&s[3], 2); __syncthreads();
        y[t] = s[0] + s[1] + s[2] + s[3];""",
        np.full(64, 63 - 63 + 255 - 128),
    ),
    "compare and swap": (
        """__shared__ int s; if (t == 0) s = 0; __syncthreads();
        int old = s, seen; do { seen = old; old = atomicCAS(&s, seen, seen + 1); } while (old != seen);
        __syncthreads(); y[t] = s;""".replace("old = s", "old = atomicAdd(&s, 0)"),
        np.full(64, 64),
    ),
    "a lock": (
        """__shared__ int lock; __shared__ int sum; if (t == 0) lock = sum = 0; __syncthreads();
        while (atomicCAS(&lock, 0, 1) != 0) {}
        atomicAdd(&sum, t); atomicExch(&lock, 0); __syncthreads(); y[t] = sum;""",
        np.full(64, 2016),
    ),
    "exp, log and division": (
        "y[t] = __expf(x[t]) + __logf(fabsf(x[t]) + 1.0f) + __fdividef(1.0f, 2.0f + fabsf(x[t]));",
        np.exp(X) + np.log(np.abs(X) + 1) + 1 / (2 + np.abs(X)),
    ),
    "roots, powers and rounding": (
        """y[t] = rsqrtf(fabsf(x[t]) + 1) * powf(2.0f, floorf(x[t])) + fmaf(x[t], 2.0f, 1.0f) + exp2f(x[t])
        + tanhf(x[t]);""",
        (np.abs(X) + 1) ** -0.5 * 2 ** np.floor(X) + 2 * X + 1 + 2**X + np.tanh(X),
    ),
    "min, max and infinity": (
        "float m = -INFINITY; m = max(m, x[t]); y[t] = min(m, 0.0f) + max(1, 2) + min(3u, 4u) + fmaxf(m, -FLOAT_MAX);",
        np.minimum(X, 0) + 5 + X,
    ),
    "bits of a float": (
        "y[t] = __int_as_float(__float_as_int(x[t]) ^ 0x80000000) + __uint_as_float(__float_as_uint(1.0f));",
        1 - X,
    ),
    "integer intrinsics": (
        "y[t] = __umulhi(1u << 31, 6u) + __mul24(t, 3) + __clz(1) + __ffs(8) + __brev(1u << 31) + __popc(255u);",
        3 + 3 * T + 31 + 4 + 1 + 8,
    ),
    "constants": ("y[t] = table[t % 4];", np.array([1, 2, 4, 8])[T % 4]),
    "read-only load": ("y[t] = __ldg(&x[t]);", X),
    "volatile shared memory": (
        "volatile __shared__ int s[64]; s[t] = t; __syncthreads(); y[t] = s[t ^ 1];",
        T ^ 1,
    ),
}
PRELUDE = """
#include <cuda_fp16.h>
#define FLOAT_MAX 3.402823466e38f
__constant__ float table[4] = {1, 2, 4, 8};
template <int times> __device__ __forceinline__ float scaled(float x) { return times * x; }
template <typename T> static __device__ T larger(T a, T b) { return a > b ? a : b; }
"""
BODY = """
extern "C" __global__ void kNUMBER(const float *__restrict__ x, float *__restrict__ y) {
    const int t = threadIdx.x;
    BODY
}
"""


def module_of(bodies):
    """One module with a kernel k0, k1, ... for each body: one compilation for a whole table of tests."""
    kernels = (BODY.replace("NUMBER", str(i)).replace("BODY", body) for i, body in enumerate(bodies))
    return RawModule(code=PRELUDE + "".join(kernels))


FEATURE_MODULE = module_of(body for body, _ in FEATURES.values())


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("feature", FEATURES)
def test_feature(feature, build):
    y = np.full(64, np.nan, np.float32)
    launch(FEATURE_MODULE, f"k{list(FEATURES).index(feature)}", (1,), (64,), X, y, shared=256, build=build, seed=5)
    np.testing.assert_allclose(y, FEATURES[feature][1], rtol=2e-5, atol=1e-5)


def test_half_arrays_round_as_numpy_does():
    source = """#include <cuda_fp16.h>
    extern "C" __global__ void k(const float *x, __half *y, float *back, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) { y[i] = __float2half_rn(x[i]); back[i] = __half2float(y[i]); }
    }"""
    x = np.concatenate(
        [floats(2000) * 10.0 ** np.arange(-10, 10).repeat(100), [65519.9, 65520, np.inf, -0.0, 6e-8, 2.9e-8]]
    )
    x = x.astype(np.float32)
    y, back = np.zeros(x.size, np.float16), np.zeros_like(x)
    run(source, (8,), (256,), x, y, back, np.int32(x.size))
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(y.view(np.uint16), expected.view(np.uint16))
    np.testing.assert_array_equal(back, expected.astype(np.float32))


def test_thread_coordinates_follow_cuda():
    source = """extern "C" __global__ void k(int *y) {
        int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        int b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int size = blockDim.x * blockDim.y * blockDim.z;
        y[b * size + t] = threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * b;
    }"""
    y = np.zeros((2, 3, 2, 2, 3, 4), np.int32)  # grid z, y, x, block z, y, x
    run(source, (2, 3, 2), (4, 3, 2), y)
    z, row, x = np.indices((2, 3, 4))
    expected = (x + 10 * row + 100 * z) + 1000 * np.arange(12).reshape(2, 3, 2, 1, 1, 1)
    np.testing.assert_array_equal(y, expected)


def test_template_kernels_are_called_by_name_expression():
    source = """template <typename T, int n> __global__ void fill(T *y, T value) {
        if (threadIdx.x < n) y[threadIdx.x] = value;
    }"""
    module = RawModule(code=source, name_expressions=("fill<float, 3>", "fill<int, 2>"))
    y, z = np.zeros(4, np.float32), np.zeros(4, np.int32)
    module.get_function("fill<float, 3>")((1,), (4,), (y, np.float32(1.5)))
    module.get_function("fill<int, 2>")((1,), (4,), (z, np.int32(7)))
    assert y.tolist() == [1.5, 1.5, 1.5, 0]
    assert z.tolist() == [7, 7, 0, 0]
    with checked(), pytest.raises(emulator.OutOfBounds, match=r"writes 4 bytes at y\[2\]"):
        module.get_function("fill<float, 3>")((1,), (4,), (y[:2], np.float32(1.5)))


def test_findings_in_templates_name_parameters_if_they_can():
    source = """namespace a {
        template <class T> __launch_bounds__(32) __global__ void twice(const T *__restrict__ x, T *y) { *y = 2 * x[1]; }
        template <class... T> __global__ void pack(T... x) { int at = 1; ((x[at] = 0), ...); }
    }"""
    names = ("a::twice<float>", "a::pack<float *, int *>")
    twice, pack = map(RawModule(code=source, name_expressions=names).get_function, names)
    x, i = np.ones(2, np.float32), np.ones(2, np.int32)
    with checked():
        twice((1,), (1,), (x, x[:1]))
        with pytest.raises(emulator.OutOfBounds, match=r"x\[1\]"):
            twice((1,), (1,), (x[:1], x))
        with pytest.raises(emulator.RestrictViolation, match="as x"):
            twice((1,), (1,), (x, x[1:]))
        with pytest.raises(emulator.OutOfBounds, match=r"argument 1\[1\]"):
            pack((1,), (1,), (x, i[:1]))


def test_macros_make_kernels_and_includes_are_found(tmp_path):
    (tmp_path / "scale.cuh").write_text("__device__ float scale(float x) { return FACTOR * x; }\n")
    source = """#include "scale.cuh"
#define SCALE(type) extern "C" __global__ void scale_##type(type *x) { x[threadIdx.x] = scale(x[threadIdx.x]); }
SCALE(float)
"""
    module = RawModule(code=source, options=(f"-I{tmp_path}", "-DFACTOR=3", "--use_fast_math", "-std=c++14"))
    x = np.ones(4, np.float32)
    module.get_function("scale_float")((1,), (4,), (x,))
    assert x.tolist() == [3] * 4


def test_lines_are_those_that_a_source_states(tmp_path):
    """A source may say where it is from, with a path; an include in between does not shift its lines."""
    (tmp_path / "empty.cuh").write_text("// two\n// lines\n")
    source = """#line 1 "/somewhere/else/past.cu"
#include "empty.cuh"
extern "C" __global__ void past(float *x) {
    x[threadIdx.x] = 1;
}
"""
    module = RawModule(code=source, options=(f"-I{tmp_path}",))
    with checked(), pytest.raises(emulator.OutOfBounds, match=r"at past\.cu:3, past the end of x"):
        module.get_function("past")((1,), (4,), (np.ones(3, np.float32),))


# ---- launches ----------------------------------------------------------------------------------------------


def test_kernel_has_the_attributes_of_cupys():
    kernel = RawModule(code=ROW_SUM).get_function("row_sum")
    assert kernel.attributes == {
        "max_threads_per_block": 256,
        "shared_size_bytes": 128,
        "max_dynamic_shared_size_bytes": 48 * 1024 - 128,
    }
    kernel.max_dynamic_shared_size_bytes = 64 * 1024
    assert kernel.max_dynamic_shared_size_bytes == 64 * 1024
    with pytest.raises(LaunchError, match="262144 bytes of dynamic shared memory"):
        kernel.max_dynamic_shared_size_bytes = 256 * 1024


BAD_LAUNCHES = {
    "a Python float is 8 bytes": ((1,), (32,), (X, X, 2.0, np.int32(1)), "parameter 'a' is a 4-byte float"),
    "a Python int is 8 bytes": ((1,), (32,), (X, X, np.float32(2), 1), "parameter 'n' is a 4-byte integer"),
    "an int for a float": ((1,), (32,), (X, X, np.int32(2), np.int32(1)), "parameter 'a' is a 4-byte float"),
    "an array of doubles": (
        (1,),
        (32,),
        (X.astype(float), X, np.float32(2), np.int32(1)),
        "parameter 'x' is a pointer",
    ),
    "a scalar for an array": (
        (1,),
        (32,),
        (np.float32(1), X, np.float32(2), np.int32(1)),
        "parameter 'x' is a pointer",
    ),
    "an array for a scalar": ((1,), (32,), (X, X, X, np.int32(1)), "parameter 'a' is a 4-byte float"),
    "an array with steps": ((1,), (32,), (X[::2], X, np.float32(2), np.int32(1)), "'x' is not contiguous"),
    "an argument too few": ((1,), (32,), (X, X, np.float32(2)), "takes 4 arguments, the launch gives 3"),
    "a grid too high": ((1, 65536), (32,), (X, X, np.float32(2), np.int32(1)), r"grid \(1, 65536, 1\)"),
    "an empty grid": ((0,), (32,), (X, X, np.float32(2), np.int32(1)), r"grid \(0, 1, 1\)"),
    "a block too large": ((1,), (32, 33), (X, X, np.float32(2), np.int32(1)), "1056 threads, at most 1024"),
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("case", BAD_LAUNCHES)
def test_launch_that_no_gpu_would_run_rightly(case, build):
    grid, block, args, message = BAD_LAUNCHES[case]
    with pytest.raises(LaunchError, match=message):
        run(SAXPY, grid, block, *args, name="saxpy", build=build)


def test_block_beyond_the_launch_bounds():
    with pytest.raises(LaunchError, match="512 threads, at most 256"):
        run(ROW_SUM, (1,), (512,), X, X.copy(), np.int32(64), name="row_sum")


def test_kernel_must_be_extern_c():
    module = RawModule(code="__global__ void k(float *x) {}")
    with pytest.raises(LaunchError, match="declare it `extern"):
        module.get_function("k")
    with pytest.raises(LaunchError, match="no kernel 'other'"):
        module.get_function("other")


def test_source_that_does_not_compile_names_its_line():
    with pytest.raises(CompileError, match=r"broken\.cu:2:\d+: error"):
        RawModule(code="\nnonsense here;\n", name="broken.cu").get_function("k")


def test_no_compiler_is_one_clear_sentence(monkeypatch):
    monkeypatch.setattr(emulator.compiler, "find_compiler", lambda: None)
    assert not emulator.available()
    with pytest.raises(CompileError, match="needs a C\\+\\+ compiler: install g\\+\\+"):
        RawModule(code="// never compiled\n").get_function("k")


def test_compiled_objects_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYTENSOR_CACHE", str(tmp_path))
    emulator.compiler.build_runtime.cache_clear()
    first = RawModule(code=SAXPY).build().path
    assert first.is_relative_to(tmp_path)
    assert sorted(path.name for path in first.parent.iterdir()) == ["kernel.cu", "kernel.cu.so"]
    stamp = first.stat().st_mtime_ns
    assert RawModule(code=SAXPY).build().path == first
    assert first.stat().st_mtime_ns == stamp
    assert RawModule(code=SAXPY + "\n").build().path != first
    assert RawModule(code=SAXPY, options=("-DN=1",)).build().path != first
    emulator.compiler.build_runtime.cache_clear()


# ---- counts ------------------------------------------------------------------------------------------------


def test_saxpy_counts():
    x, y = floats(1000), floats(1000)
    counts = run(SAXPY, (4,), (256,), x, y, np.float32(2), np.int32(1000), name="saxpy", build="counted")
    assert (counts.kernel, counts.grid, counts.block) == ("saxpy", (4, 1, 1), (256, 1, 1))
    assert (counts.bytes_read, counts.bytes_written) == (8000, 4000)
    assert (counts.flops, counts.special, counts.barriers, counts.atomics) == (2000, 0, 0, 0)


def test_matmul_counts():
    m, n, k, tile = 16, 24, 40, 8
    a, b, c = floats(m, k), floats(k, n), np.zeros((m, n), np.float32)
    sizes = (np.int32(m), np.int32(n), np.int32(k))
    counts = run(MATMUL, (3, 2), (8, 8), a, b, c, *sizes, name="matmul", build="counted", options=("-DBLOCK=8",))
    assert counts.flops == 2 * m * n * k
    assert counts.bytes_read == 4 * m * n * k * 2 // tile  # each tile is read by every block that needs it
    assert counts.unique_bytes_read == 4 * (m * k + k * n)
    assert counts.bytes_written == counts.unique_bytes_written == 4 * m * n
    assert counts.shared_bytes_written == counts.bytes_read
    assert counts.shared_bytes_read == 4 * 2 * m * n * k
    assert counts.barriers == 3 * 2 * (k // tile) * 2
    assert counts.shared_memory == 2 * 4 * tile * tile


COUNTED = {  # body of one thread: (flops, special)
    "y[t] = expf(x[t]);": (0, 1),
    "y[t] = __expf(x[t]) / x[t];": (1, 1),
    "y[t] = fmaf(x[t], x[t], 1.0f);": (2, 0),
    "y[t] = tanhf(x[t]) * 0.5f + 1.0f;": (2, 1),
    "y[t] = x[t] > 0.0f ? x[t] : -x[t];": (0, 0),
    "y[t] = fmaxf(x[t], 0.0f) - max(x[t], 1.0f);": (1, 0),
    "y[t] = (float)((double)x[t] * 2.0);": (0, 0),
    "float s = 0; for (int i = 0; i < 10; i++) s += x[t]; y[t] = s;": (10, 0),
    "y[t] = rsqrtf(x[t] * x[t]) + sqrtf(2.0f * x[t]) + 1;": (4, 2),
}


COUNTED_MODULE = module_of(COUNTED)


@pytest.mark.parametrize("body", COUNTED)
def test_operations_are_counted_as_written(body):
    name = f"k{list(COUNTED).index(body)}"
    counts = launch(COUNTED_MODULE, name, (1,), (64,), np.abs(X), X.copy(), build="counted")
    assert (counts.flops, counts.special) == tuple(64 * count for count in COUNTED[body])


def test_counting_needs_explicit_conversions_and_checking_does_not():
    module = module_of(["int i = x[t]; y[t] = i;"])
    counts = launch(module, "k0", (1,), (64,), X, X.copy(), build="checked")
    assert (counts.flops, counts.bytes_read) == (None, 256)
    with pytest.raises(CompileError, match="cannot convert"):
        launch(module, "k0", (1,), (64,), X, X.copy(), build="counted")
