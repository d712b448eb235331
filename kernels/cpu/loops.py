"""The passes over blocks that take NumPy many calls, as loops that numba compiles.

Floor 0. Each has the name, the arguments and the results of the NumPy pass it stands for, which says what they are;
`compiled.py` chooses. Nothing here checks shapes. Constants are float32, as a Python float would make a whole loop
float64, half as fast. A row's sum is a local variable, so it stays in registers. The loops let go of Python's lock.
Their products are NumPy's own BLAS (`blas.py`), called from where they are. numba keeps their machine code on disk
until this file changes, so all that a loop uses is in this file. Read the short ones first, attention last.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import binding
from numba import types

from kernels.cpu.blas import sgemm_address

if numba.config.DISABLE_JIT:  # as Python, these loops would be slow, and wrong: integers would not wrap
    raise ImportError("NUMBA_DISABLE_JIT is set: the loops cannot be compiled")

f = np.float32
ZERO, HALF, ONE, TWO, SIX = f(0), f(0.5), f(1), f(2), f(6)

# Sums may be reordered, which vectors need; NaN and infinity keep their meaning.
options = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
loop = numba.njit(**options)
exactly = numba.njit(error_model="numpy", fastmath={"contract"})
without_nan = numba.njit(error_model="numpy", fastmath={"nnan", "nsz", "reassoc"})  # else a maximum has no vectors

if sgemm_address():
    binding.add_symbol("tinytensor_sgemm", sgemm_address())
    attention_loop = loop
    # for matrices of any layout, which would otherwise be a version each to compile
    product_loop = numba.njit(types.void(*[types.float32[:, :]] * 3, *[types.boolean] * 2), **options)
else:
    attention_loop = product_loop = lambda function: None  # there are only the NumPy passes
_enum, _size, _address = types.int32, types.int64, types.uintp
_operand = _address, _size  # of a matrix: where it is, and how far its rows (or, transposed, its columns) are apart
sgemm = types.ExternalFunction(
    "tinytensor_sgemm",
    types.void(*[_enum] * 3, *[_size] * 3, types.float32, *_operand, *_operand, types.float32, *_operand),
)
ROW_MAJOR, AS_IT_IS, TRANSPOSED = np.int32(101), np.int32(111), np.int32(112)  # from cblas.h

# Up to MOST multiplications, OpenBLAS has kernels that do not copy their operands first (`blas.py`).
MOST = 10**6
ROWS, COLUMNS = 32, 64  # of a tile; as many queries are worked on at a time
GROUP = 8 * ROWS
PAD = 16  # columns that a scratch array has too many, so that its rows do not compete for the same lines of the cache

LOWEST, HIGHEST = f(-87.3), f(88.3)  # exp is taken to be 0 below and infinity above: 2^k has to be a normal number
INVERSE_LN2 = f(1 / math.log(2))
LN2_HIGH = f(0.693359375)  # few bits, so that k LN2_HIGH is exact
LN2_LOW = f(math.log(2) - 0.693359375)
EXPONENT, BIAS = np.int32(23), np.int32(127)  # where a float32 has its exponent, and what is added to it

GELU_A, GELU_AB = f(math.sqrt(2 / math.pi)), f(math.sqrt(2 / math.pi) * 0.044715)

GOLDEN, MULTIPLIERS = np.uint32(0x9E3779B9), (np.uint32(0x21F0AAAD), np.uint32(0xD35A2D97))  # as in dropout.py


@exactly
def exp(x):
    """2^k exp(r), k = round(x / ln 2), |r| <= ln 2 / 2: k becomes the exponent, exp(r) is Cephes' polynomial (expf).

    numba's own would call the C library for each element; this compiles to vector instructions.
    """
    k = np.floor(x * INVERSE_LN2 + HALF)
    r = x - k * LN2_HIGH - k * LN2_LOW
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    power = np.int32((np.int32(k) + BIAS) << EXPONENT).view(np.float32)  # 2^k
    y = (p * r * r + r + ONE) * power
    y = ZERO if x < LOWEST else y
    return f(np.inf) if x > HIGHEST else y


@loop
def softmax_pass(x, top):
    rows, columns = x.shape
    lse = np.empty(rows, x.dtype)
    for i in range(rows):
        shift = ZERO if top is None else top[i]
        total = ZERO
        for j in range(columns):
            p = exp(x[i, j] - shift)
            x[i, j] = p
            total += p
        for j in range(columns):
            x[i, j] /= total
        lse[i] = math.log(total) + shift
    return lse


@exactly
def gelu_s(x):
    """(1 + tanh(u)) / 2, as a sigmoid."""
    return ONE / (ONE + exp(-TWO * x * (GELU_A + GELU_AB * x * x)))


@loop
def gelu_pass(x, y):
    for i in range(x.size):
        y[i] = x[i] * gelu_s(x[i])


@loop
def gelu_backward_pass(g, x, gx):
    for i in range(x.size):
        s = gelu_s(x[i])
        gx[i] = g[i] * (s + x[i] * s * (ONE - s) * (TWO * GELU_A + SIX * GELU_AB * x[i] * x[i]))


@loop
def layer_norm_pass(x, weight, bias, eps, y, normed):
    rows, width = x.shape
    rstd = np.empty((rows, 1), x.dtype)
    for i in range(rows):
        mean = variance = ZERO
        for c in range(width):
            mean += x[i, c]
        mean /= f(width)
        for c in range(width):
            variance += (x[i, c] - mean) * (x[i, c] - mean)
        scale = ONE / math.sqrt(variance / f(width) + f(eps))
        rstd[i, 0] = scale
        for c in range(width):
            n = (x[i, c] - mean) * scale
            if normed is not None:
                normed[i, c] = n
            y[i, c] = n * weight[c] + (ZERO if bias is None else bias[c])
    return rstd


@loop
def layer_norm_backward_pass(g, weight, kept, inverse, rstd, gx):
    rows, width = g.shape
    gweight, gbias = np.zeros(width, g.dtype), np.zeros(width, g.dtype)
    for i in range(rows):
        mean = along = ZERO  # of h and of h n
        for c in range(width):
            h = g[i, c] * weight[c]
            mean += h
            along += h * (kept[i, c] if inverse is None else kept[i, c] * inverse[c])
        mean /= f(width)
        along /= f(width)
        scale = rstd[i, 0]
        for c in range(width):
            n = kept[i, c] if inverse is None else kept[i, c] * inverse[c]
            gx[i, c] = scale * (g[i, c] * weight[c] - mean - n * along)
            gweight[c] += g[i, c] * n
            gbias[c] += g[i, c]
    return gweight, gbias


@loop
def adamw_pass(param, grad, m, v, coefficients):
    c = coefficients
    grad_scale, decay, rate, eps = f(c.grad_scale), f(c.decay), f(c.rate), f(c.eps)
    beta1, rest1, beta2, rest2 = f(c.beta1), f(1 - c.beta1), f(c.beta2), f(1 - c.beta2)  # beta2 may be close to 1
    for i in range(param.size):
        g = grad[i] * grad_scale
        m[i] = beta1 * m[i] + rest1 * g
        v[i] = beta2 * v[i] + rest2 * g * g
        param[i] = decay * param[i] - rate * m[i] / (math.sqrt(v[i]) + eps)


@exactly
def mix(h):
    h = np.uint32(h)  # numba computes with 64 bits and would keep them all
    h = np.uint32((h ^ (h >> 16)) * MULTIPLIERS[0])
    h = np.uint32((h ^ (h >> 15)) * MULTIPLIERS[1])
    return np.uint32(h ^ (h >> 15))


@loop
def keep_pass(key, columns, threshold):
    kept = np.empty((key.size, columns.size), np.bool_)
    for i in range(key.size):
        for j in range(columns.size):
            kept[i, j] = mix(key[i] + columns[j] * GOLDEN) >= threshold
    return kept


@exactly
def product(a, b, out, add):
    """out = a @ b or out += a @ b by BLAS: (M, K) @ (K, N) -> (M, N), all plain (`linear.py`), out as it is."""
    rows_a, rows_b = a.strides[1] == 4, b.strides[1] == 4
    sgemm(
        ROW_MAJOR,
        AS_IT_IS if rows_a else TRANSPOSED,
        AS_IT_IS if rows_b else TRANSPOSED,
        out.shape[0],
        out.shape[1],
        a.shape[1],
        ONE,
        a.ctypes.data,
        (a.strides[0] if rows_a else a.strides[1]) // 4,
        b.ctypes.data,
        (b.strides[0] if rows_b else b.strides[1]) // 4,
        ONE if add else ZERO,
        out.ctypes.data,
        out.strides[0] // 4,
    )


@exactly
def even(length, most):
    """The size of equal parts of `length`, each at most `most`, in whole vectors."""
    parts = max(1, -(-length // most))
    return -(-length // (16 * parts)) * 16


@exactly
def copy(x, scale, out):
    """out = scale x (M, N), reading x in the order in which it lies."""
    if x.strides[1] == 4:
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                out[i, j] = x[i, j] * scale
    else:
        for j in range(x.shape[1]):
            for i in range(x.shape[0]):
                out[i, j] = x[i, j] * scale


@product_loop
def product_pass(a, b, out, add, tiled):
    if not tiled:
        product(a, b, out, add)
        return
    (rows, columns), inner = out.shape, a.shape[1]
    width, depth = even(columns, COLUMNS), even(inner, MOST // (ROWS * COLUMNS))
    across, down = -(-columns // width), -(-inner // depth)
    packed = np.empty((across, down, depth, width + PAD), np.float32)  # the tiles of b
    for top in range(0, rows, GROUP):  # of rows, few enough for a and out to stay in the cache
        for n in range(across):
            for k in range(down):
                tile = b[k * depth : (k + 1) * depth, n * width : (n + 1) * width]
                own = packed[n, k, : tile.shape[0], : tile.shape[1]]
                if top == 0:
                    copy(tile, ONE, own)
                for m in range(top, min(top + GROUP, rows), ROWS):
                    part = slice(m, min(m + ROWS, rows))
                    product(
                        a[part, k * depth : (k + 1) * depth], own, out[part, n * width : (n + 1) * width], add or k > 0
                    )


@without_nan
def largest(x):
    top = x[0]
    for i in range(1, x.size):
        top = max(top, x[i])
    return top


@exactly
def drop(options, row, factors):
    """Write what dropout multiplies a row of probabilities by, 0 or 1 / (1 - p); `keep_mask` in dropout.py."""
    key = mix(np.uint32(options.first_row + row) ^ np.uint32(options.seed))
    key = mix(key + np.uint32(options.seed >> np.uint64(32)))
    threshold, scale = np.uint32(options.p * 2**32), f(1 / (1 - options.p))
    for j in range(factors.size):
        factors[j] = scale if mix(key + np.uint32(j) * GOLDEN) >= threshold else ZERO


@exactly
def parts(start, stop, size):
    """Slices of `size` or less that cover range(start, stop)."""
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]


@attention_loop
def attention_forward_pass(qkv, part, options, y, lse):
    batches, heads = part
    time, size = qkv.shape[1], qkv.shape[4]
    many = max(1, MOST // (ROWS * size))  # keys that take part in one product
    kt, scores = np.empty((size, time + PAD), np.float32), np.empty((ROWS, time + PAD), np.float32)
    factors = np.ones(time, np.float32)
    for b in range(batches.start, batches.stop):
        for h in range(heads.start, heads.stop):
            copy(qkv[b, :, 1, h].T, f(options.scale), kt)
            for queries in parts(0, time, ROWS):
                start, stop = queries.start, queries.stop
                p = scores[: stop - start]
                for keys in parts(0, stop, many):
                    product(qkv[b, queries, 0, h], kt[:, keys], p[:, keys], False)
                for i in range(stop - start):
                    t = start + i
                    top, total = largest(p[i, : t + 1]), ZERO
                    for j in range(stop):
                        e = exp(p[i, j] - top)
                        p[i, j] = e if j <= t else ZERO  # the future
                        total += p[i, j]
                    lse[b, h, t] = math.log(total) + top
                    if options.p:
                        drop(options, (b * qkv.shape[3] + h) * time + t, factors[:stop])
                    for j in range(stop):
                        p[i, j] *= factors[j] / total
                for keys in parts(0, stop, many):
                    product(p[:, keys], qkv[b, keys, 2, h], y[b, queries, h], keys.start > 0)


@attention_loop
def attention_backward_pass(g, qkv, part, options, saved, gqkv):
    (batches, heads), (y, lse) = part, saved
    time, size = qkv.shape[1], qkv.shape[4]
    many = max(1, MOST // (ROWS * size))  # keys that take part in one product
    kt, vt = np.empty((size, time + PAD), np.float32), np.empty((size, time + PAD), np.float32)
    scores, slopes = np.empty((ROWS, time + PAD), np.float32), np.empty((ROWS, time + PAD), np.float32)
    factors = np.ones(time, np.float32)
    for b in range(batches.start, batches.stop):
        for h in range(heads.start, heads.stop):
            copy(qkv[b, :, 1, h].T, f(options.scale), kt)
            copy(qkv[b, :, 2, h].T, f(options.scale), vt)
            for queries in parts(0, time, ROWS):
                start, stop = queries.start, queries.stop
                q, own_g = qkv[b, queries, 0, h], g[b, queries, h]
                p, ds = scores[: stop - start], slopes[: stop - start]
                for keys in parts(0, stop, many):
                    product(q, kt[:, keys], p[:, keys], False)
                    product(own_g, vt[:, keys], ds[:, keys], False)  # dp, to begin with
                for i in range(stop - start):
                    t, delta = start + i, ZERO
                    for d in range(size):
                        delta += g[b, t, h, d] * y[b, t, h, d]
                    delta *= f(options.scale)
                    if options.p:
                        drop(options, (b * qkv.shape[3] + h) * time + t, factors[:stop])
                    for j in range(stop):
                        e = exp(p[i, j] - lse[b, h, t])
                        e = e if j <= t else ZERO  # the future
                        p[i, j] = e * factors[j]
                        ds[i, j] = e * (ds[i, j] * factors[j] - delta)
                for keys in parts(0, stop, many):
                    product(ds[:, keys], qkv[b, keys, 1, h], gqkv[b, queries, 0, h], keys.start > 0)
                # keys of earlier blocks have a gradient already, to add to; those of this block get their first
                for keys in [*parts(0, start, many), queries]:
                    product(ds[:, keys].T, q, gqkv[b, keys, 1, h], keys.stop <= start)
                    product(p[:, keys].T, own_g, gqkv[b, keys, 2, h], keys.stop <= start)
