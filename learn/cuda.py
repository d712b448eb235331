"""The CUDA puzzles, in the order in which they build on each other. Their tasks are in `tasks/NAME.cu`.

Each function draws the runs of one puzzle: the launches, their arrays, and what the kernel must compute.
"""

from collections.abc import Iterator

import numpy as np

from learn.check_cuda import CudaPuzzle, Run

Random = np.random.Generator


def normal(rng: Random, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Random numbers for an input, float32."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def logits(rng: Random, columns: int) -> np.ndarray:
    """Three rows of large numbers: around 0, all negative, all positive."""
    return normal(rng, 3, columns, scale=60) + np.array([[0], [-400], [400]], np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def causal_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Of one head: three arrays (T, D) -> (T, D)."""
    scores = np.where(np.tri(len(q), dtype=bool), q @ k.T / np.float32(q.shape[1] ** 0.5), -np.inf)
    return softmax(scores) @ v


def map_runs(rng: Random) -> Iterator[Run]:
    for n in (5, 40):
        a = normal(rng, n)
        yield Run((1,), (n,), {"a": a}, a + 10)


def zip_runs(rng: Random) -> Iterator[Run]:
    for n in (5, 40):
        a, b = normal(rng, n), normal(rng, n)
        yield Run((1,), (n,), {"a": a, "b": b}, a + b)


def guard_runs(rng: Random) -> Iterator[Run]:
    for n in (5, 40, 64):
        a = normal(rng, n)
        yield Run((1,), (64,), {"a": a}, a + 10, {"n": n})


def map_2d_runs(rng: Random) -> Iterator[Run]:
    for rows, columns in ((6, 5), (3, 8)):
        a = normal(rng, rows, columns)
        yield Run((1,), (8, 8), {"a": a}, a + 10, {"rows": rows, "columns": columns})


def broadcast_runs(rng: Random) -> Iterator[Run]:
    for rows, columns in ((6, 5), (3, 8)):
        a, b = normal(rng, rows), normal(rng, columns)
        yield Run((1,), (8, 8), {"a": a, "b": b}, a[:, None] + b, {"rows": rows, "columns": columns})


def blocks_runs(rng: Random) -> Iterator[Run]:
    for n in (100, 128):
        a = normal(rng, n)
        yield Run((4,), (32,), {"a": a}, a + 10, {"n": n})


def grid_stride_runs(rng: Random) -> Iterator[Run]:
    for n in (150, 64, 20):
        a = normal(rng, n)
        yield Run((2,), (32,), {"a": a}, a + 10, {"n": n})


def shared_runs(rng: Random) -> Iterator[Run]:
    for blocks in (1, 3):
        a = normal(rng, blocks, 32)
        ranks = a.argsort(axis=1).argsort(axis=1).astype(np.int32)
        yield Run((blocks,), (32,), {"a": a}, ranks, most_reads=a.size, shared=True)


def stencil_runs(rng: Random) -> Iterator[Run]:
    for n in (20, 100, 128):
        a, blocks = normal(rng, n), -(-n // 32)
        padded = np.pad(a, 1)
        sums = padded[:-2] + padded[1:-1] + padded[2:]
        yield Run((blocks,), (32,), {"a": a}, sums, {"n": n}, most_reads=n + 2 * blocks, shared=True)


def block_sum_runs(rng: Random) -> Iterator[Run]:
    for n in (64, 150):
        a, blocks = normal(rng, n), -(-n // 64)
        sums = np.pad(a, (0, 64 * blocks - n)).reshape(blocks, 64).sum(axis=1)
        yield Run((blocks,), (64,), {"a": a}, sums, {"n": n}, most_reads=n, shared=True)


def warp_sum_runs(rng: Random) -> Iterator[Run]:
    for columns in (32, 75, 7):
        x = normal(rng, 3, columns)
        yield Run((3,), (32,), {"x": x}, x.sum(axis=1), {"columns": columns}, most_reads=x.size, shared=False)


def dot_runs(rng: Random) -> Iterator[Run]:
    for n in (300, 128, 50):
        a, b = normal(rng, n), normal(rng, n)
        yield Run((1,), (128,), {"a": a, "b": b}, (a @ b).reshape(1), {"n": n}, most_reads=2 * n)


def tiled_transpose_runs(rng: Random) -> Iterator[Run]:
    for rows, columns in ((16, 16), (20, 37)):
        a, sizes = normal(rng, rows, columns), {"rows": rows, "columns": columns}
        grid = (-(-columns // 16), -(-rows // 16))
        yield Run(grid, (16, 16), {"a": a}, a.T.copy(), sizes, most_reads=a.size, shared=True)


def scan_runs(rng: Random) -> Iterator[Run]:
    for n in (64, 50, 1):
        a = normal(rng, n)
        yield Run((1,), (64,), {"a": a}, a.cumsum(), {"n": n}, most_reads=n, shared=True)


def histogram_runs(rng: Random) -> Iterator[Run]:
    for n, bins in ((100, 5), (128, 1)):
        ids = rng.integers(0, bins, n, dtype=np.int32)
        yield Run((4,), (32,), {"ids": ids}, np.bincount(ids, minlength=bins).astype(np.int32), {"n": n}, zeroed=True)


def row_softmax_runs(rng: Random) -> Iterator[Run]:
    for columns in (64, 150, 7):
        x = logits(rng, columns)
        yield Run((3,), (64,), {"x": x}, softmax(x), {"columns": columns}, most_reads=3 * x.size, shared=True)


def online_softmax_runs(rng: Random) -> Iterator[Run]:
    for columns in (32, 150, 7):
        x = logits(rng, columns)
        yield Run((3,), (32,), {"x": x}, softmax(x), {"columns": columns}, most_reads=2 * x.size)


def tiled_matmul_runs(rng: Random) -> Iterator[Run]:
    for n in (8, 20):
        a, b, tiles = normal(rng, n, n), normal(rng, n, n), -(-n // 8)
        yield Run((tiles, tiles), (8, 8), {"a": a, "b": b}, a @ b, {"n": n}, most_reads=2 * n * n * tiles, shared=True)


def row_layer_norm_runs(rng: Random) -> Iterator[Run]:
    for columns in (32, 75, 7):
        x, w, b = 100 + normal(rng, 3, columns), normal(rng, columns), normal(rng, columns)
        z = x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)
        y = z / np.sqrt((z * z).mean(axis=1, keepdims=True) + 1e-5) * w + b
        yield Run((3,), (32,), {"x": x, "w": w, "b": b}, y.astype(np.float32), {"columns": columns})


def row_cross_entropy_runs(rng: Random) -> Iterator[Run]:
    for columns in (32, 75, 7):
        x, targets = logits(rng, columns), rng.integers(0, columns, 3, dtype=np.int32)
        z = x - x.max(axis=1, keepdims=True)
        losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(3), targets]
        inputs = {"x": x, "targets": targets}
        yield Run((3,), (32,), inputs, losses, {"columns": columns}, most_reads=2 * x.size + 3 * 64)


def row_attention_runs(rng: Random) -> Iterator[Run]:
    for T, D in ((32, 16), (9, 32)):
        q, k, v = normal(rng, T, D, scale=3), normal(rng, T, D, scale=3), normal(rng, T, D)
        yield Run((T,), (32,), {"q": q, "k": k, "v": v}, causal_attention(q, k, v), {"D": D})


def flash_attention_runs(rng: Random) -> Iterator[Run]:
    for T in (16, 40):
        q, k, v = normal(rng, T, 8, scale=3), normal(rng, T, 8, scale=3), normal(rng, T, 8)
        blocks = -(-T // 16)
        keys = sum(min(T, 16 * (block + 1)) for block in range(blocks))  # that the blocks load, up to the diagonal
        reads = q.size + 2 * 8 * keys
        inputs = {"q": q, "k": k, "v": v}
        yield Run((blocks,), (16,), inputs, causal_attention(q, k, v), {"T": T}, most_reads=reads, shared=True)


PUZZLES = [
    CudaPuzzle(
        "map",
        "out[i] = a[i] + 10, one thread for each i",
        (
            "Every thread runs the same code. What differs is threadIdx.x: 0, 1, 2, ...",
            "The thread i reads a[i] and writes out[i]. No loop.",
        ),
        map_runs,
    ),
    CudaPuzzle(
        "zip",
        "out[i] = a[i] + b[i]",
        ("As map, with two inputs.", "Give the thread's number a name: int i = threadIdx.x;"),
        zip_runs,
    ),
    CudaPuzzle(
        "guard",
        "more threads than elements",
        (
            "The threads with i >= n must neither read nor write.",
            "if (i < n) before the line of map.",
        ),
        guard_runs,
    ),
    CudaPuzzle(
        "map_2d",
        "a matrix, and a block with two axes",
        (
            "threadIdx.x is the column, threadIdx.y the row.",
            "Memory is one-dimensional: the row r begins at r * columns.",
            "Both need a guard: row < rows and column < columns.",
        ),
        map_2d_runs,
    ),
    CudaPuzzle(
        "broadcast",
        "out[i, j] = a[i] + b[j]",
        (
            "As map_2d, but each input has one axis only.",
            "Only out needs the index row * columns + column.",
        ),
        broadcast_runs,
    ),
    CudaPuzzle(
        "blocks",
        "several blocks",
        (
            "threadIdx.x begins at 0 again in each block. blockIdx.x is the block's number, blockDim.x its size.",
            "i = blockIdx.x * blockDim.x + threadIdx.x, with the guard as before.",
        ),
        blocks_runs,
    ),
    CudaPuzzle(
        "grid_stride",
        "more elements than threads",
        (
            "Each thread needs a loop: it begins at its own index and goes on in steps.",
            "The step is the number of all threads, so that no two threads have the same element.",
            "for (int i = ...; i < n; i += gridDim.x * blockDim.x)",
        ),
        grid_stride_runs,
    ),
    CudaPuzzle(
        "shared",
        "shared memory: the rank of a number in its block",
        (
            "Step 1: each thread copies its own number into the block's array.",
            "Step 2 reads what other threads wrote in step 1. Between them, all threads must have come that far: "
            "__syncthreads().",
            "Step 2: count in a loop how many of the 32 are smaller than the thread's own.",
        ),
        shared_runs,
    ),
    CudaPuzzle(
        "stencil",
        "the sum of three neighbors, each number read once",
        (
            "The array has 32 + 2 places: the block's numbers are at 1 to 32, the neighbors beside them at 0 and 33.",
            "Every thread loads its own number. The first thread also loads the one to the left, the last the one to "
            "the right.",
            "Outside of a there is 0: write it into the tile, so that step 2 needs no cases. Threads with i >= n must "
            "write 0, too, and must not skip the barrier.",
        ),
        stencil_runs,
    ),
    CudaPuzzle(
        "block_sum",
        "a reduction in shared memory",
        (
            "Put the block's 64 numbers into shared memory, 0 where i >= n.",
            "Halve: the threads 0 to 31 add the number 32 places further on to their own. Then 16, 8, 4, 2, 1.",
            "Each round reads what the round before wrote, so each ends with a barrier, which every thread of the "
            "block must reach: keep it outside of the if.",
        ),
        block_sum_runs,
    ),
    CudaPuzzle(
        "warp_sum",
        "a reduction by shuffles, without shared memory",
        (
            "First each lane adds up every 32nd number of the row, beginning with its own.",
            "__shfl_down_sync(0xffffffff, value, offset) gives the value of the lane `offset` further on.",
            "value += that, for the offsets 16, 8, 4, 2, 1. Then lane 0 has the sum. All lanes must take part, so keep "
            "the shuffles outside of any if.",
        ),
        warp_sum_runs,
    ),
    CudaPuzzle(
        "dot",
        "the dot product of two vectors of any length",
        (
            "Two steps you know: a loop with a stride (grid_stride), then a reduction (block_sum).",
            "Each thread multiplies and adds its elements in a variable of its own, and puts only that into shared "
            "memory.",
            "One thread writes out[0], after the last barrier.",
        ),
        dot_runs,
    ),
    CudaPuzzle(
        "tiled_transpose",
        "the transpose, by tiles in shared memory",
        (
            "Neighboring threads (threadIdx.x) should read neighboring addresses, and write neighboring addresses.",
            "Load: the block reads its tile of a row by row. Store: it writes a tile of out row by row. Swap the axes "
            "between the two, in shared memory.",
            "For the store, the row of out is blockIdx.x * 16 + threadIdx.y, its column blockIdx.y * 16 + threadIdx.x, "
            "and the value tile[threadIdx.x][threadIdx.y].",
        ),
        tiled_transpose_runs,
    ),
    CudaPuzzle(
        "scan",
        "prefix sums: out[i] = a[0] + ... + a[i]",
        (
            "In the round with the offset 1, each place adds the one before it. Then 2, 4, 8, 16, 32. (Hillis and "
            "Steele.)",
            "All threads read and write the same array. If a thread writes before its neighbor has read, the neighbor "
            "gets a new value for an old one.",
            "So a round has two barriers: read into a variable, barrier, write, barrier.",
        ),
        scan_runs,
    ),
    CudaPuzzle(
        "histogram",
        "count with atomics",
        (
            "out[b] += 1 is three steps: read, add, write. Another thread may come between them.",
            "atomicAdd(&out[b], 1) does the three at once.",
        ),
        histogram_runs,
    ),
    CudaPuzzle(
        "row_softmax",
        "a softmax for each row, a block for each row",
        (
            "Three passes over the row: the maximum, the sum of exp(x - maximum), the result. Each with the stride of "
            "dot.",
            "Start the maximum at -INFINITY. Maximum and sum are reductions as block_sum.",
            "The shared array serves twice. Every thread must have read the maximum, scratch[0], before anyone writes "
            "there for the sum: a barrier between.",
        ),
        row_softmax_runs,
    ),
    CudaPuzzle(
        "online_softmax",
        "a softmax that reads its row twice, not three times",
        (
            "Keep two numbers while you read: m, the largest so far, and s, the sum of exp(x - m) so far.",
            "A new x: m_new = max(m, x); s = s * exp(m - m_new) + exp(x - m_new); m = m_new.",
            "Two lanes are merged in the same way: s = s * exp(m - m_new) + s_other * exp(m_other - m_new). A lane "
            "without any element has s = 0, and exp(-INFINITY - -INFINITY) is not a number: start m at -FLT_MAX, here "
            "LOWEST.",
            "With __shfl_xor_sync instead of __shfl_down_sync, every lane has the result at the end.",
        ),
        online_softmax_runs,
    ),
    CudaPuzzle(
        "tiled_matmul",
        "a matrix product, by tiles in shared memory",
        (
            "out[row, column] is a sum over k. Cut k into pieces of 8: for each, the block loads one tile of a and one "
            "of b.",
            "In the tile step t, the thread loads a[row, 8 t + threadIdx.x] and b[8 t + threadIdx.y, column], or 0 "
            "outside.",
            "Then it adds 8 products. A barrier before that, since others loaded what it reads, and one after, since "
            "others load the next tile over it.",
        ),
        tiled_matmul_runs,
    ),
    CudaPuzzle(
        "row_layer_norm",
        "layer norm of each row, a warp for each row",
        (
            "Two sums over the row, mean and variance, by shuffles: __shfl_xor_sync leaves the result in every lane.",
            "The variance is the mean of (x - mean)^2. mean(x^2) - mean^2 is the same on paper, but in float32 it "
            "subtracts two large numbers, and little is left that is right.",
            "out = (x - mean) * rsqrtf(variance + 1e-5f) * w + b",
        ),
        row_layer_norm_runs,
    ),
    CudaPuzzle(
        "row_cross_entropy",
        "the loss of each row of logits",
        (
            "-log softmax(x)[t] = m + log(s) - x[t], with m the maximum of the row and s the sum of exp(x - m).",
            "Maximum and sum by shuffles, or both at once as in online_softmax.",
            "One lane writes the loss.",
        ),
        row_cross_entropy_runs,
    ),
    CudaPuzzle(
        "row_attention",
        "causal attention, a block for each query",
        (
            "First the thread j computes the score of the key j, for j <= i only.",
            "The maximum and the sum over the keys are over the lanes of one warp. A lane without a key has the score "
            "-INFINITY and the weight 0.",
            "Then the threads change their roles: the thread d computes out[i, d], the sum over j of weight[j] * "
            "v[j, d]. It needs the weights of all threads: shared memory, and a barrier.",
        ),
        row_attention_runs,
    ),
    CudaPuzzle(
        "flash_attention",
        "causal attention by tiles, with an online softmax",
        (
            "A thread keeps its query, the running maximum m and sum s, and in acc[8] the weighted sum of values.",
            "For each tile of keys: each thread loads one row of k and v into shared memory, barrier, then each thread "
            "goes through the 16 keys.",
            "For a key j <= i: the score x as in row_attention; m_new = max(m, x); scale = exp(m - m_new); "
            "p = exp(x - m_new); s = s * scale + p; acc[d] = acc[d] * scale + p * v[j, d].",
            "A barrier after the tile, too. Threads with i >= T must load and wait as the others do, only not read q "
            "nor write out. The block needs tiles 0 to blockIdx.x.",
        ),
        flash_attention_runs,
    ),
]
