"""CUDA as others write it: 16-bit types, tensor cores by PTX and by wmma, asynchronous copies, cooperative groups."""

import numpy as np
import pytest

from kernels import emulator
from kernels.emulator import CompileError, DataRace, RawModule, UninitializedRead, checked

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
X = np.random.default_rng(1).standard_normal(512).astype(np.float32)

SOURCE = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cuda_pipeline.h>
#include <cuda/pipeline>
#include <mma.h>
namespace cg = cooperative_groups;
using namespace nvcuda;

__device__ uint32_t pack(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

// y (16, 8) = a (16, 16) b (16, 8), rows of a and of b in shared memory, loaded as fragments by ldmatrix
extern "C" __global__ void by_ptx(const float *a, const float *b, float *y) {
    __shared__ __align__(16) __half sa[16][16], sb[16][8];
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) sa[i / 16][i % 16] = __float2half(a[i]);
    for (int i = lane; i < 128; i += 32) sb[i / 8][i % 8] = __float2half(b[i]);
    __syncwarp();
    uint32_t ra[4], rb[2];
    float d[4] = {0, 0, 0, 0};
    uint32_t at = (uint32_t)__cvta_generic_to_shared(&sa[lane % 16][lane / 16 * 8]);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3]) : "r"(at));
    uint32_t bt = static_cast<uint32_t>(__cvta_generic_to_shared(&sb[lane % 16][0]));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(rb[0]), "=r"(rb[1]) : "r"(bt));
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]),
          "f"(d[0]), "f"(d[1]), "f"(d[2]), "f"(d[3]));
    int g = lane / 4, t = lane % 4;
    y[g * 8 + 2 * t] = d[0], y[g * 8 + 2 * t + 1] = d[1];
    y[(g + 8) * 8 + 2 * t] = d[2], y[(g + 8) * 8 + 2 * t + 1] = d[3];
}

// the same in bfloat16, fragments filled by hand
extern "C" __global__ void by_hand(const float *a, const float *b, float *y) {
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    auto pair = [](float low, float high) {
        __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *(uint32_t *)&v;
    };
    uint32_t a0 = pair(a[g * 16 + 2 * t], a[g * 16 + 2 * t + 1]);
    uint32_t a1 = pair(a[(g + 8) * 16 + 2 * t], a[(g + 8) * 16 + 2 * t + 1]);
    uint32_t a2 = pair(a[g * 16 + 2 * t + 8], a[g * 16 + 2 * t + 9]);
    uint32_t a3 = pair(a[(g + 8) * 16 + 2 * t + 8], a[(g + 8) * 16 + 2 * t + 9]);
    uint32_t b0 = pair(b[2 * t * 8 + g], b[(2 * t + 1) * 8 + g]);
    uint32_t b1 = pair(b[(2 * t + 8) * 8 + g], b[(2 * t + 9) * 8 + g]);
    float d0 = 1, d1 = 1, d2 = 1, d3 = 1;
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    y[g * 8 + 2 * t] = d0, y[g * 8 + 2 * t + 1] = d1, y[(g + 8) * 8 + 2 * t] = d2, y[(g + 8) * 8 + 2 * t + 1] = d3;
}

extern "C" __global__ void moved(const int *x, int *y) {
    uint32_t value = x[threadIdx.x], result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(value));
    y[threadIdx.x] = result;
}

extern "C" __global__ void by_wmma(const float *a, const float *b, float *y) {
    __shared__ __half sa[256], sb[256];
    for (int i = threadIdx.x; i < 256; i += 32) sa[i] = __float2half(a[i]), sb[i] = __float2half(b[i]);
    __syncwarp();
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
    wmma::fill_fragment(fc, 0.5f);
    wmma::load_matrix_sync(fa, sa, 16);
    wmma::load_matrix_sync(fb, sb, 16);
    wmma::mma_sync(fc, fa, fb, fc);
    for (int i = 0; i < fc.num_elements; i++) fc.x[i] *= 2;
    wmma::store_matrix_sync(y, fc, 16, wmma::mem_row_major);
}

extern "C" __global__ void copies(const float *x, float *y) {
    __shared__ __align__(16) float s[2][128];
    unsigned to = (unsigned)__cvta_generic_to_shared(&s[0][4 * threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(x + 4 * threadIdx.x));
    asm volatile("cp.async.commit_group;\n" ::);
    __pipeline_memcpy_async(&s[1][4 * threadIdx.x], x + 128 + 4 * threadIdx.x, 16, 8);
    __pipeline_commit();
#ifndef NO_WAIT
    asm volatile("cp.async.wait_group %0;\n" ::"n"(1));
    __syncwarp();
#endif
    for (int i = 0; i < 4; i++) y[4 * threadIdx.x + i] = s[0][127 - 4 * threadIdx.x - i];
    __pipeline_wait_prior(0);
    __syncwarp();
    for (int i = 0; i < 4; i++) y[128 + 4 * threadIdx.x + i] = s[1][4 * threadIdx.x + i];
}

extern "C" __global__ void no_barrier(const float *x, float *y) {
    __shared__ float s[32];
    __pipeline_memcpy_async(&s[threadIdx.x], x + threadIdx.x, 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    y[threadIdx.x] = s[31 - threadIdx.x];
}

extern "C" __global__ void staged(const float *x, float *y) {
    __shared__ float s[2][64];
    auto block = cg::this_thread_block();
    auto pipe = cuda::make_pipeline();
    float sum = 0;
    for (int fetch = 0, use = 0; use < 4; use++) {
        for (; fetch < 4 && fetch < use + 2; fetch++) {
            pipe.producer_acquire();
            cuda::memcpy_async(&s[fetch % 2][block.thread_rank()], x + 64 * fetch + block.thread_rank(), 4, pipe);
            pipe.producer_commit();
        }
        pipe.consumer_wait();
        block.sync();
        sum += s[use % 2][63 - block.thread_rank()];
        block.sync();
        pipe.consumer_release();
    }
    y[block.thread_rank()] = sum;
}

extern "C" __global__ void groups(const float *x, float *y) {
    cg::thread_block block = cg::this_thread_block();
    cg::thread_block_tile<8> tile = cg::tiled_partition<8>(block);
    float v = x[block.thread_rank()];
    float sum = cg::reduce(tile, v, cg::plus<float>()), most = cg::reduce(tile, v, cg::greater<float>());
    float scan = cg::inclusive_scan(tile, v), before = cg::exclusive_scan(tile, 1.0f);
    y[block.thread_rank()] = sum + 2 * most + 3 * scan + 4 * before + 5 * tile.shfl(v, 3) + tile.meta_group_rank();
    if (tile.thread_rank() % 2) {
        auto odd = cg::coalesced_threads();
        y[block.thread_rank()] += 100 * odd.size() + odd.thread_rank();
    }
}

extern "C" __global__ void halves(const float *x, float *y, __half *sum, __nv_bfloat162 *pairs) {
    __half h = x[threadIdx.x];
    __nv_bfloat16 b = __float2bfloat16(x[threadIdx.x]);
    __half2 pair = __half2half2(h) * __floats2half2_rn(2, 3) + make_half2(h, h);
    h += __half(1);
    y[threadIdx.x] = __low2float(pair) + (float)(b * b) + (h > __half(0) ? 1.0f : 0.0f) + __half2float(hexp(h));
    atomicAdd(sum, __float2half(1));
    atomicAdd(pairs, __halves2bfloat162(1, 2));
}

template <typename T, int times> __global__ void scaled(T *y) { y[threadIdx.x] = y[threadIdx.x] * T(times); }
"""
MODULE = RawModule(code=SOURCE, name="cuda.cu", name_expressions=("scaled<__half, 3>", "scaled<double, 2>"))
BUILDS = ("fast", "checked")


def run(build, name, *args, threads=32, module=MODULE):
    kernel = module.get_function(name)
    if build == "fast":
        return kernel((1,), (threads,), args)
    with checked(2):
        return kernel((1,), (threads,), args)


@pytest.mark.parametrize("build", BUILDS)
def test_tensor_cores_by_ptx(build):
    a, b, y = X[:256].reshape(16, 16), X[256:384].reshape(16, 8), np.zeros((16, 8), np.float32)
    run(build, "by_ptx", a, b, y)
    halves = a.astype(np.float16).astype(np.float32), b.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(y, halves[0] @ halves[1], rtol=1e-5, atol=1e-5)
    run(build, "by_hand", a, b, y)
    np.testing.assert_allclose(y, a @ b + 1, rtol=0.02, atol=0.05)
    assert not np.allclose(y, a @ b + 1, rtol=1e-5)


@pytest.mark.parametrize("build", BUILDS)
def test_movmatrix(build):
    x = np.arange(64, dtype=np.uint16)
    y = np.zeros(32, np.int32)
    run(build, "moved", x.view(np.int32), y)
    np.testing.assert_array_equal(y.view(np.uint16), x.reshape(8, 8).T.ravel())


@pytest.mark.parametrize("build", BUILDS)
def test_wmma(build):
    a, b, y = X[:256].reshape(16, 16), X[256:].reshape(16, 16), np.zeros((16, 16), np.float32)
    run(build, "by_wmma", a, b, y)
    halves = a.astype(np.float16).astype(np.float32), b.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(y, 2 * (halves[0] @ halves[1].T + 0.5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", BUILDS)
def test_asynchronous_copies(build):
    y = np.zeros(256, np.float32)
    run(build, "copies", X, y)
    np.testing.assert_array_equal(y[:128], X[127::-1])
    expected = X[128:256].reshape(32, 4) * [1, 1, 0, 0]
    np.testing.assert_array_equal(y[128:].reshape(32, 4), expected)
    y = np.zeros(64, np.float32)
    run(build, "staged", X, y, threads=64)
    np.testing.assert_allclose(y, X[:256].reshape(4, 64)[:, ::-1].sum(0), rtol=1e-6)


def test_what_reads_an_asynchronous_copy_too_early_is_found():
    early = RawModule(code=SOURCE, name="cuda.cu", options=("-DNO_WAIT",))
    with pytest.raises((DataRace, UninitializedRead), match="kernel copies"):
        run("checked", "copies", X, np.zeros(256, np.float32), module=early)
    with pytest.raises(DataRace, match="kernel no_barrier"):
        run("checked", "no_barrier", X, np.zeros(32, np.float32))


# Two stages: while one is read, a copy fills the other. Each macro moves or leaves out what that needs.
PIPELINE = r"""
extern "C" __global__ void pipeline(const float *x, float *y, int tiles) {
    __shared__ __align__(16) float s[2][256];
    int t = threadIdx.x;
    auto copy = [&](int tile) {
        unsigned to = (unsigned)__cvta_generic_to_shared(&s[tile % 2][4 * t]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + 256 * tile + 4 * t));
        asm volatile("cp.async.commit_group;" ::);
    };
    float sum = 0;
    copy(0);
    for (int tile = 0; tile < tiles; tile++) {
#ifdef COPIES_BEFORE_BARRIER
        if (tile + 1 < tiles) copy(tile + 1);
        asm volatile("cp.async.wait_all;" ::);
        __syncthreads();
#else
#ifndef WAITS_TOO_LATE
        asm volatile("cp.async.wait_all;" ::);
#endif
        __syncthreads();
#ifdef WAITS_TOO_LATE
        asm volatile("cp.async.wait_all;" ::);
#endif
        if (tile + 1 < tiles) copy(tile + 1);
#endif
        for (int i = 0; i < 4; i++) sum += s[tile % 2][255 - 4 * t - i];
    }
    y[t] = sum;
}
"""


def test_double_buffered_copies_need_their_wait_and_their_barrier():
    """A copy may write at any time from cp.async to the wait: stages that held older data do not hide that."""
    x = np.random.default_rng(3).standard_normal((5, 64, 4)).astype(np.float32)
    for seed in range(3):
        y = np.zeros(64, np.float32)
        with checked(seed):
            pipeline()((1,), (64,), (x, y, np.int32(5)))
        np.testing.assert_allclose(y, x[:, ::-1].sum((0, 2)), rtol=1e-4, atol=1e-5)
        with (
            checked(seed),
            pytest.raises(DataRace, match=r"pipe\.cu:27, which thread .* copies there by the cp"),
        ):
            pipeline("-DWAITS_TOO_LATE")((1,), (64,), (x, y, np.int32(5)))
        with checked(seed), pytest.raises(DataRace, match=r"pipe\.cu"):
            pipeline("-DCOPIES_BEFORE_BARRIER")((1,), (64,), (x, y, np.int32(5)))


def pipeline(*options):
    return RawModule(code=PIPELINE, name="pipe.cu", options=options).get_function("pipeline")


def test_bank_conflicts_of_ldmatrix():
    """A matrix is eight rows of 16 bytes: rows 128 bytes apart take eight turns, neighbors or swizzled ones one."""
    source = r"""
extern "C" __global__ void k(int *y, int chunk_of_row) {
    __shared__ __align__(128) int s[8][32];
    for (int i = threadIdx.x; i < 256; i += 32) s[i / 32][i % 32] = i;
    __syncwarp();
    unsigned row = threadIdx.x % 8, a, b;
    unsigned at = (unsigned)__cvta_generic_to_shared(&s[row][4 * (chunk_of_row * row)]);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "r"(at));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "r"(at));
    y[threadIdx.x] = a + b;
}
"""
    for swizzled, turns in ((1, 2), (0, 16)):
        with checked(count_lines=True) as launches:
            run_source = RawModule(code=source, name="banks.cu").get_function("k")
            run_source((1,), (32,), (np.zeros(32, np.int32), np.int32(swizzled)))
        lines = {line.line: line for line in launches[0].lines if line.memory == "shared"}
        assert [lines[f"banks.cu:{n}"].transfers for n in (8, 9)] == [turns, turns]
        assert [lines[f"banks.cu:{n}"].least for n in (8, 9)] == [2, 2]


@pytest.mark.parametrize("build", BUILDS)
def test_cooperative_groups(build):
    x, y = X[:64], np.zeros(64, np.float32)
    run(build, "groups", x, y, threads=64)
    tiles = x.reshape(8, 8)
    rank = np.arange(8)
    expected = tiles.sum(1, keepdims=True) + 2 * tiles.max(1, keepdims=True) + 3 * tiles.cumsum(1) + 4 * rank
    expected = expected + 5 * tiles[:, 3:4] + rank[:, None]
    lanes = np.arange(64).reshape(8, 8) % 32 // 2
    expected = expected + np.where(rank % 2, 100 * 16 + lanes, 0)
    np.testing.assert_allclose(y.reshape(8, 8), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("build", BUILDS)
def test_sixteen_bits(build):
    x, y = X[:32], np.zeros(32, np.float32)
    total, pairs = np.zeros(1, np.float16), np.zeros(2, np.uint16)
    run(build, "halves", x, y, total, pairs)
    h = x.astype(np.float16)
    first = h * np.float16(2) + h
    with np.errstate(over="ignore"):
        expected = first + x * x + (h + 1 > 0) + np.exp(h + np.float16(1))
    np.testing.assert_allclose(y, expected, rtol=0.02, atol=0.06)
    assert total[0] == 32
    assert (pairs.astype(np.uint32) << 16).view(np.float32).tolist() == [32, 64]


@pytest.mark.parametrize("build", BUILDS)
def test_templates_by_name_expression(build):
    y, z = np.ones(4, np.float16), np.ones(4)
    run(build, "scaled<__half, 3>", y, threads=4)
    run(build, "scaled<double, 2>", z, threads=4)
    assert (y.tolist(), z.tolist()) == ([3] * 4, [2] * 4)


def test_ptx_that_is_not_offered_names_its_line():
    source = '\nextern "C" __global__ void k(int *y) { asm("{ .reg .pred p; setp.eq.s32 p, %0, 1; }" :: "r"(y[0])); }'
    with pytest.raises(CompileError, match=r"ptx.cu:2: the emulator does not offer '\.reg \.pred p'"):
        RawModule(code=source, name="ptx.cu").get_function("k")
