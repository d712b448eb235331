"""Wrong answers to the puzzles, each a change to the solution, with what the learner must be told.

A CUDA answer with `line` races but is right by value in the order in which the fast build runs threads; the finding
must name the line of the changed source that contains that text.
"""

from typing import NamedTuple


class Wrong(NamedTuple):
    """`old` in the solution becomes `new`; `finding` is a regular expression."""

    old: str
    new: str
    finding: str
    line: str = ""


RACE = "with no barrier between"
VALUE = "expected"
SHAPE = "has shape"
GRADIENT = "by finite differences but"

AUTOGRAD = {
    "square": [
        Wrong("2 * self.x * g", "2 * self.x", GRADIENT),
        Wrong("2 * self.x * g", "self.x * g", GRADIENT),
        Wrong("2 * self.x * g", "(2 * self.x * g).sum()", SHAPE),
        Wrong("return (gx,)", "return gx", "must return a tuple"),
    ],
    "relu": [
        Wrong("g * (self.x > 0)", "g", GRADIENT),
        Wrong("g * (self.x > 0)", "self.x > 0", GRADIENT),
        Wrong("gx = g * (self.x > 0)", "g[self.x < 0] = 0\n        gx = g", "in place"),
    ],
    "exp": [
        Wrong("g * self.y", "g * np.exp(self.y)", GRADIENT),
        Wrong("g * self.y", "self.y", GRADIENT),
        Wrong("g * self.y", "g * self.x", "AttributeError at exp.py:12: 'Exp' object has no attribute 'x'"),
    ],
    "divide": [
        Wrong("-g * self.y / self.b", "g * self.y / self.b", "gradient of input 1"),
        Wrong("-g * self.y / self.b", "-g * self.y", "gradient of input 1"),
        Wrong("ga = g / self.b", "ga = g * self.b", "gradient of input 0"),
    ],
    "sum": [
        Wrong("np.broadcast_to(g[:, None], self.shape)", "g", SHAPE),
        Wrong("np.broadcast_to(g[:, None], self.shape)", "np.ones(self.shape)", GRADIENT),
        Wrong("np.broadcast_to(g[:, None], self.shape)", "np.broadcast_to(g, self.shape)", "ValueError at sum.py"),
        Wrong("np.broadcast_to(g[:, None], self.shape)", "np.resize(g, self.shape)", GRADIENT),
    ],
    "broadcast_add": [
        Wrong("g.sum(axis=0)", "g", SHAPE),
        Wrong("g.sum(axis=0)", "g.mean(axis=0)", "gradient of input 1"),
        Wrong("g.sum(axis=0)", "g.sum(axis=1)", SHAPE),
        Wrong("g.sum(axis=0)", "g[0]", "gradient of input 1"),
    ],
    "fan_out": [
        Wrong("g * self.b + gb * (1 - self.b**2)", "gb * (1 - self.b**2)", GRADIENT),
        Wrong("gx = g + 2", "gx = 2", GRADIENT),
        Wrong("gx = g + 2 * self.x * ga", "g += 2 * self.x * ga\n        gx = g", "in place"),
    ],
    "max": [
        Wrong(" / largest.sum(axis=1, keepdims=True)", "", "gradient of input 0 at element .0, 1. is"),
        Wrong("g[:, None] * largest", "largest", GRADIENT),
        Wrong("self.x == self.y[:, None]", "self.x == self.x.max()", "at max.py|" + GRADIENT),
    ],
    "matmul": [
        Wrong("g @ self.b.T", "g @ self.b", "ValueError at matmul.py"),
        Wrong("self.a.T @ g", "(self.a.T @ g).T", SHAPE),
        Wrong("self.a.T @ g", "g * self.b", "at matmul.py|" + SHAPE),
        Wrong("return ga, gb", "return gb, ga", SHAPE),
    ],
    "transpose": [
        Wrong("(2, 0, 1)", "(1, 2, 0)", SHAPE),
        Wrong("g.transpose(2, 0, 1)", "g", SHAPE),
        Wrong("g.transpose(2, 0, 1)", "g.reshape(g.shape[2], *g.shape[:2])", GRADIENT),
    ],
    "split_heads": [
        Wrong("g.transpose(0, 2, 1, 3).reshape(B, T, H * D)", "g", SHAPE),
        Wrong("g.transpose(0, 2, 1, 3).reshape", "g.reshape", GRADIENT),
        Wrong("g.transpose(0, 2, 1, 3)", "g.transpose(0, 2, 3, 1)", GRADIENT),
    ],
    "getitem": [
        Wrong("np.add.at(gx, self.index, g)", "gx[self.index] = g", GRADIENT),
        Wrong("np.add.at(gx, self.index, g)", "gx[self.index] += g", GRADIENT),
        Wrong("return gx, None", "return (gx,)", "it returned 1 values"),
    ],
    "embedding": [
        Wrong("np.add.at(gtable, self.ids, g)", "gtable[self.ids] += g", GRADIENT),
        Wrong("np.add.at(gtable, self.ids, g)", "gtable = g", SHAPE),
        Wrong("np.zeros(self.shape)", "np.ones(self.shape)", GRADIENT),
    ],
    "softmax": [
        Wrong("self.y * (g - (g * self.y).sum(axis=-1, keepdims=True))", "self.y * (1 - self.y) * g", GRADIENT),
        Wrong("(g * self.y).sum", "g.sum", GRADIENT),
        Wrong("(g * self.y).sum(axis=-1, keepdims=True)", "(g * self.y).sum()", GRADIENT),
    ],
    "log_softmax": [
        Wrong("np.exp(self.y) * g.sum(axis=-1, keepdims=True)", "np.exp(self.y) * g", GRADIENT),
        Wrong("np.exp(self.y)", "self.y", GRADIENT),
        Wrong("g.sum(axis=-1, keepdims=True)", "g.sum()", GRADIENT),
    ],
    "cross_entropy": [
        Wrong("g * gx / len(rows)", "g * gx", GRADIENT),
        Wrong("gx[rows, self.targets] -= 1", "gx[:, self.targets] -= 1", GRADIENT),
        Wrong("self.targets] -= 1", "self.targets] -= g", GRADIENT),
        Wrong("g * gx / len(rows)", "gx / len(rows)", GRADIENT),
    ],
    "gelu": [
        Wrong("1 + t + x * dt", "1 + t", GRADIENT),
        Wrong("(1 + 3 * B * x**2)", "(1 + B * x**2)", GRADIENT),
        Wrong("(1 - t**2) * A", "(1 - t**2)", GRADIENT),
    ],
    "layer_norm": [
        Wrong(" - z * (h * z).mean(axis=1, keepdims=True)", "", "gradient of input 0"),
        Wrong("h - h.mean(axis=1, keepdims=True)", "h", "gradient of input 0"),
        Wrong("g * self.w", "g", "gradient of input 0"),
        Wrong("(g * z).sum(axis=0)", "g.sum(axis=0)", "gradient of input 1"),
        Wrong("gb = g.sum(axis=0)", "gb = g", SHAPE),
    ],
    "attention": [
        Wrong("p * (gp - (gp * p).sum(axis=1, keepdims=True))", "p * gp", "gradient of input 0"),
        Wrong("self.scale * gs @ self.k", "gs @ self.k", "gradient of input 0"),
        Wrong("gs.T @ self.q", "gs @ self.q", "gradient of input 1"),
        Wrong("p.T @ g", "p @ g", "gradient of input 2"),
    ],
}

CUDA = {
    "map": [
        Wrong("out[i] =", "for (int i = 0; i < blockDim.x; i++) out[i] =", RACE, "out[i] ="),
        Wrong("a[i] +", "a[i + 1] +", "past the end of a"),
        Wrong("10.0f", "1.0f", VALUE),
        Wrong("out[i] =", "if (i > 0) out[i] =", r"out\[0\] was never written"),
    ],
    "zip": [
        Wrong("out[i] =", "for (int i = 0; i < blockDim.x; i++) out[i] =", RACE, "out[i] ="),
        Wrong("b[i]", "b[i + 1]", "past the end of b"),
        Wrong("a[i] + b[i]", "a[i] - b[i]", VALUE),
        Wrong("a[i] + b[i]", "out[i] + b[i]", "nobody has written"),
    ],
    "guard": [
        Wrong("if (i < n)", "i = min(i, n - 1);", RACE, "out[i] ="),
        Wrong("if (i < n) ", "", "past the end of a"),
        Wrong("i < n", "i <= n", "past the end of a"),
        Wrong("i < n", "i < n - 1", "was never written"),
    ],
    "map_2d": [
        Wrong("row < rows && column < columns", "row * columns + column < rows * columns", RACE, "out[row"),
        Wrong("row < rows && column < columns", "row < rows", "past the end of|" + RACE),
        Wrong("out[row * columns + column]", "out[column * rows + row]", VALUE),
        Wrong("out[row * columns + column]", "out[row * rows + column]", "past the end|was never written|" + RACE),
    ],
    "broadcast": [
        Wrong(
            "row < rows && column < columns", "row < rows && (column = min(column, columns - 1)) >= 0", RACE, "out[row"
        ),
        Wrong("a[row] + b[column]", "a[column] + b[row]", "past the end of b|" + VALUE),
        Wrong("out[row * columns + column]", "out[column * rows + row]", VALUE),
        Wrong("if (row < rows && column < columns) ", "", "past the end of"),
    ],
    "blocks": [
        Wrong("if (i < n)", "i = min(i, n - 1);", RACE, "out[i] ="),
        Wrong("blockIdx.x * blockDim.x + threadIdx.x", "threadIdx.x", RACE),
        Wrong("if (i < n) ", "", "past the end of a"),
        Wrong("i < n", "i < n && blockIdx.x < 3", r"out\[96\] was never written"),
    ],
    "grid_stride": [
        Wrong("i += gridDim.x * blockDim.x", "i += blockDim.x", RACE, "out[i] ="),
        Wrong("i += gridDim.x * blockDim.x", "i += n", r"out\[64\] was never written"),
        Wrong("i < n", "i <= n", "past the end of a"),
        Wrong("i += gridDim.x * blockDim.x", "i += gridDim.x * blockDim.x + 1", "was never written"),
    ],
    "shared": [
        Wrong(
            "numbers[threadIdx.x] = a[i]",
            "for (int j = 0; j < 32; j++) numbers[j] = a[blockIdx.x * 32 + j]",
            RACE,
            "numbers[j] = a",
        ),
        Wrong("__syncthreads();", "", RACE),
        Wrong("numbers[j] <", "a[blockIdx.x * 32 + j] <", "enough"),
        Wrong("j < 32", "j <= 32", "uses the index 32"),
        Wrong("numbers[j] <", "numbers[j] <=", VALUE),
    ],
    "stencil": [
        Wrong("if (t == 31) tile[33]", "tile[33]", RACE, "tile[33] ="),
        Wrong("__syncthreads();", "", RACE),
        Wrong("if (t == 0) tile[0] = i > 0 ? a[i - 1] : 0.0f;", "", "nobody in its block has written"),
        Wrong("i + 1 < n ?", "i + 1 <= n ?", "past the end of a"),
        Wrong("tile[t] +", "(i > 0 ? a[i - 1] : 0.0f) +", "enough"),
    ],
    "block_sum": [
        Wrong("if (t < offset)", "if (t + offset < 64)", RACE),
        Wrong("if (t == 0) out", "out", RACE, "out[blockIdx.x]"),
        Wrong(
            "if (t < offset) scratch[t] += scratch[t + offset];\n        __syncthreads();",
            "if (t < offset) {\n scratch[t] += scratch[t + offset];\n __syncthreads(); }",
            "never reaches|waits at",
        ),
        Wrong("offset = 32", "offset = 16", VALUE),
        Wrong("i < n ? a[i] : 0.0f", "a[i]", "past the end of a"),
    ],
    "warp_sum": [
        Wrong(
            "sum += __shfl_down_sync(0xffffffff, sum, offset);\n    if (lane == 0) out",
            "sum += __shfl_xor_sync(0xffffffff, sum, offset);\n    out",
            RACE,
            "out[row]",
        ),
        Wrong("sum += __shfl_down", "if (lane < offset) sum += __shfl_down", "mask 0xffffffff"),
        Wrong("offset = 16", "offset = 8", VALUE),
        Wrong(
            "float sum = 0.0f;",
            "__shared__ float s[32];\n s[lane] = 0.0f;\n __syncwarp();\n float sum = s[lane ^ 1];",
            "shuffles need neither",
        ),
    ],
    "dot": [
        Wrong("if (t == 0) out", "out", RACE, "out[0]"),
        Wrong("scratch[t] = sum;\n    __syncthreads();", "scratch[t] = sum;", RACE),
        Wrong("i += 128", "i += 64", VALUE),
        Wrong("a[i] * b[i]", "a[i] + b[i]", VALUE),
        Wrong("int i = t; i < n", "int i = t; i <= n", "past the end of a"),
    ],
    "tiled_transpose": [
        Wrong(
            "if (row < rows && column < columns) tile[threadIdx.y][threadIdx.x] = a[row * columns + column];",
            "for (int j = 0; j < 16; j++)\n"
            "if (row < rows && blockIdx.x * 16 + j < columns)\n"
            "tile[threadIdx.y][j] = a[row * columns + blockIdx.x * 16 + j];",
            RACE,
            "tile[threadIdx.y][j]",
        ),
        Wrong("__syncthreads();", "", RACE),
        Wrong("= tile[threadIdx.x][threadIdx.y]", "= tile[threadIdx.y][threadIdx.x]", "nobody in its block|" + VALUE),
        Wrong(
            "= tile[threadIdx.x][threadIdx.y]", "= a[out_column * columns + out_row]", "enough|no thread reads shared"
        ),
    ],
    "scan": [
        Wrong(
            "sums[t] = t < n ? a[t] : 0.0f;",
            "for (int j = 0; j < 64; j++) sums[j] = j < n ? a[j] : 0.0f;",
            RACE,
            "sums[j] =",
        ),
        Wrong("0.0f;\n        __syncthreads();", "0.0f;", RACE),
        Wrong("t >= offset ?", "t > offset ?", VALUE),
        Wrong("offset < 64", "offset < 32", VALUE),
        Wrong("t < n ? a[t] : 0.0f", "a[t]", "past the end of a"),
    ],
    "histogram": [
        Wrong("atomicAdd(&out[ids[i]], 1)", "out[ids[i]] += 1", RACE, "out[ids[i]] += 1"),
        Wrong("if (i < n) ", "", "past the end of ids"),
        Wrong("&out[ids[i]], 1", "&out[ids[i]], 2", VALUE),
        Wrong("&out[ids[i]]", "&out[i]", "past the end of out"),
    ],
    "row_softmax": [
        Wrong(
            "if (t < offset) scratch[t] = fmaxf",
            "if (t + offset < 64) scratch[t] = fmaxf",
            RACE,
            "scratch[t] = fmaxf(scratch",
        ),
        Wrong("__syncthreads();  // all have read m before the sums overwrite it", "", RACE),
        Wrong("float m = scratch[0];", "float m = 0.0f;", VALUE),
        Wrong("/ scratch[0]", "", VALUE),
        Wrong("largest = -INFINITY", "largest = 0.0f", VALUE),
    ],
    "online_softmax": [
        Wrong(
            "for (int c = lane; c < columns; c += 32) out[c] =",
            "for (int c = 0; c < columns; c++) out[c] =",
            RACE,
            "out[c] =",
        ),
        Wrong("s = s * expf(m - m_new) + expf(value - m_new)", "s = s + expf(value - m_new)", VALUE),
        Wrong("m = LOWEST", "m = -INFINITY", "nan, expected"),
        Wrong(
            "float m = LOWEST, s = 0.0f;",
            "float m = LOWEST, s = 0.0f;\n for (int c = lane; c < columns; c += 32) m = fmaxf(m, x[c]);",
            "enough",
        ),
        Wrong("s * expf(m - m_new) + s_other * expf(m_other - m_new)", "s + s_other", VALUE),
    ],
    "tiled_matmul": [
        Wrong(
            "tile_a[ty][tx] = row < n && k + tx < n ? a[row * n + k + tx] : 0.0f;",
            "for (int x = 0; x < 8; x++) tile_a[ty][x] = row < n && k + x < n ? a[row * n + k + x] : 0.0f;",
            RACE,
            "tile_a[ty][x]",
        ),
        Wrong("__syncthreads();  // all have used the tiles before the next ones overwrite them", "", RACE),
        Wrong("__syncthreads();\n        for", "for", RACE),
        Wrong(
            "row < n && k + tx < n ? a[row * n + k + tx] : 0.0f", "a[row * n + k + tx]", "past the end of a|" + VALUE
        ),
        Wrong("tile_a[ty][j] *", "(row < n && k + j < n ? a[row * n + k + j] : 0.0f) *", "enough"),
        Wrong("tile_b[j][tx]", "tile_b[tx][j]", VALUE),
    ],
    "row_layer_norm": [
        Wrong(
            "for (int c = lane; c < columns; c += 32) out[c] =",
            "for (int c = 0; c < columns; c++) out[c] =",
            RACE,
            "out[c] =",
        ),
        Wrong("squares += (x[c] - mean) * (x[c] - mean);", "squares += x[c] * x[c] - mean * mean;", VALUE),
        Wrong("sum += __shfl_xor_sync", "sum += __shfl_down_sync", VALUE),
        Wrong("squares / columns", "squares / (columns - 1)", VALUE),
        Wrong("w[c] + b[c]", "w[c] - b[c]", VALUE),
    ],
    "row_cross_entropy": [
        Wrong("if (lane == 0) out", "out", RACE, "out[row]"),
        Wrong("logf(s) - (x[targets[row]] - m)", "-logf(expf(x[targets[row]] - m) / s)", "inf, expected"),
        Wrong("x[targets[row]] - m", "x[targets[row]]", VALUE),
        Wrong("m = fmaxf(m, __shfl_xor_sync", "m = fmaxf(m, __shfl_down_sync", VALUE),
        Wrong(
            "float m = -INFINITY;",
            "float m = -INFINITY;\n for (int c = lane; c < columns; c += 32) m = x[c];",
            "enough",
        ),
    ],
    "row_attention": [
        Wrong(
            "if (t < D) {  // the thread t has the column t of v",
            "for (int t = 0; t < D; t++) {",
            RACE,
            "out[i * D + t] = sum",
        ),
        Wrong("__syncthreads();", "", RACE),
        Wrong("if (t <= i) {", "if (t < gridDim.x) {", VALUE),
        Wrong("score *= rsqrtf((float)D);", "", VALUE),
        Wrong("j <= i; j++", "j < 32; j++", "past the end of v"),
    ],
    "flash_attention": [
        Wrong(
            "tile_k[t][d] = k[(start + t) * D + d];",
            "for (int r = 0; r < 16 && start + r < T; r++) tile_k[r][d] = k[(start + r) * D + d];",
            RACE,
            "tile_k[r][d] =",
        ),
        Wrong("__syncthreads();  // all have used the tiles before the next ones overwrite them", "", RACE),
        Wrong("__syncthreads();\n        for", "for", RACE),
        Wrong("acc[d] = acc[d] * scale +", "acc[d] = acc[d] +", VALUE),
        Wrong("start + j <= i && ", "", "nobody in its block has written|" + VALUE),
        Wrong("start <= blockIdx.x * 16", "start < T", "enough"),
        Wrong("tile_v[j][d];", "v[(start + j) * D + d];", "enough"),
    ],
}
