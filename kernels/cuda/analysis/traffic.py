"""What each kernel must move and compute: bytes of device memory and floating-point operations, as formulas.

The formulas are checked against what the emulator's checked build counts (`tests/kernels/test_cuda_report.py`), and
`report.py` turns them into roofline times. An operation is an addition, multiplication, division, or a call of exp,
log, sqrt or tanh; a fused multiply-add is two.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.cuda.attention import Plan
from kernels.cuda.cached_attention import SPLIT, WARPS

FLOAT, INTEGER = 4, 8  # bytes
WARP = 32
SHUFFLES = 5  # additions per lane of a butterfly reduction over a warp
EMBEDDING_ROWS = 8  # positions that a block of embedding.cu adds in parallel
CACHED = 8  # values of a row that a thread of rows.cuh caches in registers
LANES, ROWS = 16, 4  # of attention.cu: threads that share a row of scores, rows of scores per thread


@dataclass(frozen=True)
class Work:
    """One call of one kernel."""

    read: int  # bytes
    written: int  # bytes
    operations: int

    @property
    def bytes(self) -> int:
        """Bytes moved in both directions."""
        return self.read + self.written


def row_threads(columns: int) -> int:
    """Threads per row that `launch_rows` chooses: a warp, four or sixteen."""
    return 32 if columns <= 256 else 128 if columns <= 1024 else 512


def beyond_registers(columns: int) -> int:
    """Elements of a row that are not cached in registers, so that every pass over the row reads them again."""
    return max(0, columns - CACHED * row_threads(columns))


def sum_over_row(columns: int) -> int:
    """Additions of a reduction whose result every thread of the row gets: within each warp, then over the warps."""
    threads = row_threads(columns)
    return threads * (SHUFFLES + (threads // WARP if threads > WARP else 0))


# kernel: numbers read per element, again per element beyond registers, and per row; numbers written per element and
# per row; operations per element; sums over the row (the softmax's running pair takes four operations to add).
# Arrays of one row (weight, bias, a position's cosines and sines) stay in the cache and are left out.
ROW_KERNELS = {
    "softmax_forward": (1, 1, 0, 1, 0, 7, 4),
    "softmax_backward": (2, 2, 0, 1, 0, 5, 1),
    "log_softmax_forward": (1, 1, 0, 1, 0, 5, 4),
    "log_softmax_backward": (2, 1, 0, 1, 0, 4, 1),
    "layer_norm_forward": (1, 3, 0, 1, 2, 10, 3),
    "layer_norm_backward": (2, 2, 2, 1, 0, 10, 2),
    "layer_norm_strips": (2, 0, 2, 0, 0, 5, 0),
    "layer_norm_backward_add": (3, 0, 2, 1, 0, 14, 2),
    "add_layer_norm_forward": (2, 3, 0, 2, 2, 12, 3),
    "rms_norm_forward": (1, 1, 0, 1, 1, 5, 1),  # one more: what each thread computes of a row
    "rms_norm_backward": (2, 2, 1, 1, 0, 7, 1),
    "swiglu_forward": (2, 0, 0, 1, 0, 5, 0),
    "swiglu_backward": (3, 0, 0, 2, 0, 11, 0),
    "gelu_forward": (1, 0, 0, 1, 0, 9, 0),
    "gelu_backward": (2, 0, 0, 1, 0, 17, 0),
    "dropout": (1, 0, 0, 1, 0, 1, 0),
    "cross_entropy_forward": (1, 0, 2, 0, 2, 3, 4),
    "cross_entropy_backward": (1, 0, 3, 1, 0, 4, 0),
    "rotary": (1, 0, 0, 1, 0, 3, 0),
    "bias_gelu_forward": (1, 0, 0, 1, 0, 10, 0),
    "bias_gelu_backward": (2, 0, 0, 2, 0, 27, 0),
    "bias_add": (2, 0, 0, 1, 0, 2, 0),
    "add_bias": (1, 0, 0, 1, 0, 1, 0),
    "cross_entropy_gradient": (1, 0, 2, 1, 1, 9, 4),
    "adamw_update": (4, 0, 0, 3, 0, 15, 0),
    "norm_parts": (1, 0, 0, 0, 0, 2, 0),
}


def row_work(kernel: str, rows: int, columns: int) -> Work:
    """`kernel` on a float32 matrix (rows, columns)."""
    read, again, read_row, written, written_row, operations, sums = ROW_KERNELS[kernel]
    return Work(
        FLOAT * rows * (read * columns + again * beyond_registers(columns) + read_row),
        FLOAT * rows * (written * columns + written_row),
        rows * (operations * columns + sums * sum_over_row(columns)),
    )


def embedding_work(ids: int, distinct: int, rows: int, columns: int, itemsize: int = FLOAT) -> Work:
    """embedding_backward: the gradients of `ids` positions, their order and each row's segment in.

    The `distinct` rows of the table that have an id are read, added to and written.
    """
    read = (itemsize * ids + FLOAT * distinct) * columns + INTEGER * (ids + rows + 1)
    return Work(read, FLOAT * distinct * columns, (ids + EMBEDDING_ROWS * distinct) * columns)


def cached_attention_work(kernel: str, B: int, T: int, H: int, G: int, D: int, end: int, options: dict) -> Work:
    """A kernel of cached_attention.cu for T new tokens of texts of equal length, of more than one part.

    Each byte once: the queries of a head of keys that are no more than ROWS share what they read, those that are more
    find it in the cache of the device. options: LANES and ROWS.
    """
    rows, parts, queries = B * H * T, -(-end // SPLIT), H // G * T
    left = FLOAT * parts * rows * (D + 2)  # by the first kernel, for the second
    if kernel == "cached_attention_merge":
        return Work(left + INTEGER * B, FLOAT * rows * D, rows * D * parts * 6)
    read = FLOAT * (rows * D + 2 * B * G * end * D) + INTEGER * B
    computed = B * G * -(-queries // options["ROWS"]) * options["ROWS"]  # queries, those that a tile lacks among them
    lanes = options["LANES"]
    sums = lanes.bit_length() - 1  # shuffles and additions of a key's lanes
    per_key = lanes * (2 * 8 + sums + 3 + 7 / 4)  # two products, sum, exp and its sum, a fourth of a rescaling
    per_part = WARPS * (WARP * (5 * (SHUFFLES - sums) + 7) + 4 * lanes * 6)  # merging groups, then warps
    return Work(read, left, int(computed * (end * per_key + parts * per_part)))


ATTENTION_KERNELS = (
    "attention_forward",
    "attention_delta",
    "attention_backward_queries",
    "attention_backward_keys",
)


def attention_work(kernel: str, B: int, T: int, H: int, D: int, plan: Plan) -> Work:
    """One of ATTENTION_KERNELS as tiled by `plan`: whole tiles are computed, rows beyond T are not moved.

    Of H heads of queries and as many of keys.
    """
    if kernel == "attention_delta":
        return _delta_work(B * T * H, D)
    read, written, pairs, products = {
        "attention_forward": _forward,
        "attention_backward_queries": _backward_queries,
        "attention_backward_keys": _backward_keys,
    }[kernel](T, D, plan)
    heads = B * H
    return Work(FLOAT * heads * read, FLOAT * heads * written, heads * products * 2 * plan.head * pairs)


def _delta_work(rows: int, D: int) -> Work:
    """Reads two arrays; a warp reduces each row to one number."""
    return Work(FLOAT * 2 * rows * D, FLOAT * rows, rows * (2 * D + SHUFFLES * WARP))


def _query_tiles(T: int, plan: Plan):
    """(rows, keys read, score pairs computed) of each tile of queries: keys up to the diagonal, in whole tiles."""
    for first in range(0, T, plan.block_m):
        end = min(first + plan.block_m, T)
        walked = -(-end // plan.block_n) * plan.block_n
        yield end - first, min(T, walked), plan.block_m * walked


def _forward(T: int, D: int, plan: Plan):
    tiles = list(_query_tiles(T, plan))
    read = sum(rows * D + 2 * keys * D for rows, keys, _ in tiles)  # q once, k and v per tile
    return read, T * D + T, sum(pairs for *_, pairs in tiles), 2


def _backward_queries(T: int, D: int, plan: Plan):
    tiles = list(_query_tiles(T, plan))
    per_row = 2 * LANES * plan.block_m  # lse and delta, loaded by each of a row's lanes
    read = sum(2 * rows * D + 2 * keys * D + per_row for rows, keys, _ in tiles)  # q and g once, k and v per tile
    return read, T * D, sum(pairs for *_, pairs in tiles), 3


def _backward_keys(T: int, D: int, plan: Plan):
    read = pairs = 0
    for first in range(0, T, plan.block_m):
        rows, queries = min(plan.block_m, T - first), T - first
        per_query = 3 * D + 2 * plan.block_m // ROWS  # q twice and g; lse and delta, loaded by each group
        read += 2 * rows * D + queries * per_query  # k and v once
        pairs += plan.block_m * (-(-queries // plan.block_n) * plan.block_n)
    return read, 2 * T * D, pairs, 4
