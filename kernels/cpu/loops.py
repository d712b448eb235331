"""The passes over blocks that take NumPy many calls, as loops that numba compiles.

Floor 0. Each has the name, the arguments and the results of the NumPy pass it stands for, which says what they are;
`compiled.py` chooses. Nothing here checks shapes. Constants are float32, as a Python float would make a whole loop
float64, half as fast. A row's sum is a local variable, so it stays in registers. The loops let go of Python's lock.
numba keeps their machine code on disk until this file changes, so all that a loop uses is in this file.
"""

from __future__ import annotations

import math

import numba
import numpy as np

f = np.float32
ZERO, HALF, ONE, TWO, SIX = f(0), f(0.5), f(1), f(2), f(6)

# Sums may be reordered, which vectors need; NaN and infinity keep their meaning.
loop = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
exactly = numba.njit(error_model="numpy", fastmath={"contract"})

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


@loop
def gelu_pass(x, y, slope):
    for i in range(x.size):
        square = x[i] * x[i]
        u = x[i] * (GELU_A + GELU_AB * square)
        s = ONE / (ONE + exp(-TWO * u))  # (1 + tanh(u)) / 2
        y[i] = x[i] * s
        if slope is not None:
            slope[i] = s + y[i] * (ONE - s) * (TWO * GELU_A + SIX * GELU_AB * square)


@loop
def layer_norm_pass(x, weight, bias, eps, y, normed, rstd):
    rows, width = x.shape
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
def adamw_pass(param, grad, m, v, grad_scale, beta1, beta2, keep, rate, eps):
    grad_scale, keep, rate, eps = f(grad_scale), f(keep), f(rate), f(eps)
    beta1, rest1, beta2, rest2 = f(beta1), f(1 - beta1), f(beta2), f(1 - beta2)  # beta2 may be close to 1
    for i in range(param.size):
        g = grad[i] * grad_scale
        m[i] = beta1 * m[i] + rest1 * g
        v[i] = beta2 * v[i] + rest2 * g * g
        param[i] = keep * param[i] - rate * m[i] / (math.sqrt(v[i]) + eps)


@loop
def attention_pass(p, ds, lse, delta, kept):
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            probability = exp(p[i, j] - lse[i])
            factor = ONE if kept is None else kept[i, j]
            p[i, j] = probability * factor
            ds[i, j] = probability * (ds[i, j] * factor - delta[i])


@loop
def keep_pass(key, columns, threshold):
    kept = np.empty((key.size, columns.size), np.bool_)
    for i in range(key.size):
        for j in range(columns.size):
            h = np.uint32(key[i] + columns[j] * GOLDEN)  # numba computes with 64 bits and would keep them all
            h = np.uint32((h ^ (h >> 16)) * MULTIPLIERS[0])
            h = np.uint32((h ^ (h >> 15)) * MULTIPLIERS[1])
            kept[i, j] = (h ^ (h >> 15)) >= threshold
    return kept
