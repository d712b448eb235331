"""Checks that a GPU computes what the CPU does: every kernel, and one training step.

    python -m tinytensor.gpu_check                       # the first GPU
    python -m tinytensor.gpu_check --device cuda:1
    python -m tinytensor.gpu_check --device emulated     # the CUDA sources on the CPU, where there is no GPU

Each primitive of `kernels.cuda` runs twice on drawn inputs. Both runs must give the same bits, and their error against
`kernels.cpu` in float64 may be at most four times that of `kernels.cpu` in float32, plus 2e-6 of the largest value.
The training step compares loss, gradients and updated weights in the same way; in mixed precision an error may be 2^-8
of the largest value in float16, 2^-5 in bfloat16. The report is plain text, to be pasted into a bug report. Exit
status: 0 if everything agrees, 1 if something does not, 2 if there is no such device.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

import kernels.cpu
import kernels.cuda
import tinytensor as tt
from kernels.dtypes import BFLOAT16
from kernels.namespace import named_dtype
from kernels.options import NO_DROPOUT, AdamWOptions, DropoutOptions, MuonOptions

# An error may be FACTOR times the float32 error of the CPU + RELATIVE times the largest value + ABSOLUTE.
FACTOR, RELATIVE, ABSOLUTE = 4, 2e-6, 1e-9
EPS = 1e-5  # of layer norm
IGNORED = -1  # a target that does not count
DROPOUT = DropoutOptions(p=0.2, seed=0x0123_4567_89AB_CDEF, first_row=2**32 - 2)  # the row number wraps round
ADAMW = AdamWOptions(lr=1e-2, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, step=3)
MUON = MuonOptions(lr=1e-2, beta=0.9, weight_decay=0.1, blocks=(1, 3))

# Rows of one element, a part of a warp, several warps, a block, and more than registers hold.
ROW_SIZES = ((1, 1), (3, 7), (65, 256), (5, 300), (17, 1025), (3, 4097), (2, 50_257))
# (batch, time, heads, head size): multiples of the tiles and odd ones, every compiled head size.
ATTENTION_SIZES = (
    (1, 1, 1, 16),
    (2, 64, 2, 16),
    (1, 33, 3, 32),
    (1, 65, 2, 48),
    (1, 129, 2, 64),
    (2, 31, 1, 80),
    (1, 66, 2, 96),
    (1, 70, 1, 127),
    (1, 64, 2, 128),
)
# (new tokens, tokens of both texts, head size): one part and several, few and many tokens, every compiled head size.
CACHED_SIZES = (
    (1, (90, 90), 16),
    (1, (90, 13), 64),
    (1, (1000, 300), 128),
    (7, (90, 90), 33),
    (7, (20, 700), 64),
    (8, (257, 9), 127),
    (40, (40, 40), 16),
    (40, (90, 50), 16),
)
PRODUCT_SIZES = ((1, 1, 1), (37, 65, 33), (37, 64, 1025), (128, 256, 512))  # (rows, inputs, outputs)
ROTARY_SIZES = ((1, 1, 1, 2), (2, 33, 6, 16), (3, 5, 36, 64))  # (batch, time, vectors, size)
TABLE_SIZES = ((1, 1, 1), (200, 7, 33), (300, 1000, 64))  # (ids, rows of the table, columns)


@dataclass(frozen=True)
class Case:
    """One primitive on one set of inputs. call(k, *inputs) runs it with k = `kernels.cpu` or `kernels.cuda`.

    inputs: NumPy arrays, float32 or integers; those that the primitive changes in place are copied by `call`.
    """

    kernel: str
    size: str
    call: Callable
    inputs: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Row:
    """One line of the report. problem: None, or what is wrong."""

    kernel: str
    size: str
    error: float
    bound: float
    problem: str | None = None


# ---- every kernel ---------------------------------------------------------------------------------------------------

ROW_CALLS = {  # of x and g (rows, columns)
    "softmax_forward": lambda k, x, g: k.softmax_forward(x, 0.5),
    "softmax_backward": lambda k, x, g: k.softmax_backward(g, k.softmax_forward(x, 0.5), 0.5),
    "log_softmax_forward": lambda k, x, g: k.log_softmax_forward(x),
    "log_softmax_backward": lambda k, x, g: k.log_softmax_backward(g, k.log_softmax_forward(x)),
    "gelu_forward": lambda k, x, g: k.gelu_forward(x),
    "gelu_backward": lambda k, x, g: k.gelu_backward(g, x),
    "dropout": lambda k, x, g: k.dropout(x, DROPOUT),
}


def _layer_norm(k, x, weight, bias):
    return k.layer_norm_forward(x, weight, bias, EPS)[0]


def _layer_norm_gradients(k, g, x, weight, bias):
    _, saved = k.layer_norm_forward(x, weight, bias, EPS)
    return k.layer_norm_backward(g, weight, saved)


def _norm_of_sum(k, x, added, added_bias, weight, bias):
    return k.add_layer_norm_forward(x, added, added_bias, weight, bias, EPS)[:2]


def _norm_of_sum_gradients(k, g, other, x, added, added_bias, weight):
    *_, saved = k.add_layer_norm_forward(x, added, added_bias, weight, None, EPS)
    return k.layer_norm_backward(g, weight, saved, other)


def _residual_sum(k, x, added, bias):
    """Of what float16 has exactly, so that x, in float32 on a GPU as on the CPU, and the sums can be compared."""
    if k is kernels.cuda:
        added, bias = added.astype(np.float16), bias.astype(np.float16)
    y = k.bias_add(x, added, bias)
    gadded, gbias = k.bias_add_backward(added.astype(x.dtype), added.dtype, True)
    return y, gadded.astype(x.dtype), gbias


def _gelu_linear(k, x, x_bias, weight, bias):
    return k.gelu_linear_forward(x, x_bias, weight, bias)[0]


def _gelu_linear_gradients(k, g, x, x_bias, weight):
    _, saved = k.gelu_linear_forward(x, x_bias, weight, None)
    return k.gelu_linear_backward(g, x, x_bias, weight, saved, True)


def _rounded(k, x):
    copy = tt.array_module(x).empty(x.shape, dtype=np.float16)
    k.round_tensors([x.astype(np.float32)], [copy])
    return copy.astype(x.dtype)


def _rms_norm(k, x, weight):
    return k.rms_norm_forward(x, weight, EPS)[0]


def _rms_norm_gradients(k, g, x, weight):
    eps = EPS if x.shape[-1] > 1 else 1.0  # the gradient of one value's norm is a difference of equals but for eps
    return k.rms_norm_backward(g, weight, k.rms_norm_forward(x, weight, eps)[1])


def _cross_entropy(k, x, targets):
    return k.cross_entropy_forward(x, targets, IGNORED)


def _cross_entropy_gradient(k, g, x, targets):
    _, lse = k.cross_entropy_forward(x, targets, IGNORED)
    return k.cross_entropy_backward(g, x, targets, lse, IGNORED)


def _attention(k, qkv, dropout, kv_heads=None):
    return k.attention_forward(qkv, qkv.shape[-1] ** -0.5, dropout, kv_heads)


def _attention_gradient(k, g, qkv, dropout, kv_heads=None):
    scale = qkv.shape[-1] ** -0.5
    y, lse = k.attention_forward(qkv, scale, dropout, kv_heads)
    return k.attention_backward(g, qkv, y, lse, scale, dropout, kv_heads)


def _cached_attention(k, q, keys, values, ends):
    return k.cached_attention_forward(q, keys, values, np.array(ends), q.shape[-1] ** -0.5)


def _rotary(k, x, table, count):
    return k.rotary(x, table, count), k.rotary(x.copy(), table, count, in_place=True)


def _linear_cross_entropy(k, x, weight, targets):
    return k.linear_cross_entropy(x, weight, targets, IGNORED, True)


def _embedding_gradient(k, g, ids, weight):
    gweight = weight.copy()
    k.embedding_backward(g, ids, gweight)
    return gweight


def _adamw_step(k, param, grad, m, v, grad_scale=0.5):
    param, m, v = param.copy(), m.copy(), v.copy()
    k.adamw_update([param], [grad], [m], [v], replace(ADAMW, grad_scale=grad_scale))
    return param, m, v


def _muon_step(k, param, grad, momentum):
    param, momentum = param.copy(), momentum.copy()
    k.muon_update([param], [grad], [momentum], [MUON])
    return param, momentum


def cases() -> Iterator[Case]:
    """Every function of `kernels.cuda`, on sizes that take each of its paths."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return np.asarray(rng.standard_normal(shape), np.float32)

    def targets(rows, classes):
        return np.where(np.arange(rows) % 4 == 3, IGNORED, rng.integers(0, classes, rows))

    for rows, columns in ROW_SIZES:
        x, g, weight, bias = normal(rows, columns), normal(rows, columns), normal(columns), normal(columns)
        size = f"{rows} x {columns}"
        for name, call in ROW_CALLS.items():
            yield Case(name, size, call, (x, g))
        yield Case("layer_norm_forward", size, _layer_norm, (x, weight, bias))
        yield Case("layer_norm_backward", size, _layer_norm_gradients, (g, x, weight, bias))
        yield Case("add_layer_norm_forward", size, _norm_of_sum, (x, g, bias, weight, bias))
        yield Case("layer_norm_backward", f"{size}, of a sum", _norm_of_sum_gradients, (g, x, x, g, bias, weight))
        yield Case("bias_add", size, lambda k, x, g, bias: k.bias_add(x, g, bias), (x, g, bias))
        halves = tuple(array.astype(np.float16).astype(np.float32) for array in (g, bias))
        yield Case("bias_add_backward", f"{size}, float16", _residual_sum, (x, *halves))
        yield Case("sum_rows", size, lambda k, x: k.sum_rows(x), (x,))
        yield Case("rms_norm_forward", size, _rms_norm, (x, weight))
        yield Case("rms_norm_backward", size, _rms_norm_gradients, (g, x, weight))
        halves = normal(rows, 2 * columns)
        yield Case("swiglu_forward", size, lambda k, x: k.swiglu_forward(x), (halves,))
        yield Case("swiglu_backward", size, lambda k, g, x: k.swiglu_backward(g, x), (g, halves))
        ids = targets(rows, columns)
        yield Case("cross_entropy_forward", size, _cross_entropy, (x, ids))
        yield Case("cross_entropy_backward", size, _cross_entropy_gradient, (normal(), x, ids))
    x = normal(2, 19, 33)
    yield Case("softmax_forward", "2 x 19 x 33, causal", lambda k, x: k.softmax_forward(x, 0.5, True), (x,))
    for B, T, H, D in ATTENTION_SIZES:
        qkv, g = normal(B, T, 3, H, D), normal(B, T, H, D)
        for dropout in (NO_DROPOUT, DROPOUT):
            size = f"B {B}, T {T}, H {H}, D {D}" + (f", dropout {dropout.p}" if dropout.p else "")
            yield Case("attention_forward", size, partial(_attention, dropout=dropout), (qkv,))
            yield Case("attention_backward", size, partial(_attention_gradient, dropout=dropout), (g, qkv))
        qkv, g = normal(B, T, 8, D), normal(B, T, 4, D)
        size = f"B {B}, T {T}, H 4 in groups of 2, D {D}"
        options = {"dropout": NO_DROPOUT, "kv_heads": 2}
        yield Case("attention_forward", size, partial(_attention, **options), (qkv,))
        yield Case("attention_backward", size, partial(_attention_gradient, **options), (g, qkv))
    for T, ends, D in CACHED_SIZES:
        q, keys, values = normal(2, T, 6, D), normal(2, 3, max(ends) + 9, D), normal(2, 3, max(ends) + 9, D)
        size = f"B 2, T {T} of {ends[0]} and {ends[1]}, H 6, G 3, D {D}"
        yield Case("cached_attention_forward", size, partial(_cached_attention, ends=ends), (q, keys, values))
    for B, T, N, D in ROTARY_SIZES:
        x, table = normal(B, T, N, D), normal(T, 2, D // 2)
        yield Case("rotary", f"B {B}, T {T}, N {N}, D {D}", partial(_rotary, count=N // 3 * 2), (x, table))
    for rows, inputs, outputs in PRODUCT_SIZES:
        x, weight, bias, g = normal(rows, inputs), normal(inputs, outputs), normal(outputs), normal(rows, outputs)
        size = f"{rows} x {inputs} x {outputs}"
        yield Case("linear_forward", size, lambda k, x, w, b: k.linear_forward(x, w, b), (x, weight, bias))
        yield Case("linear_backward", size, lambda k, g, x, w: k.linear_backward(g, x, w, True), (g, x, weight))
        x_bias = normal(inputs)
        yield Case("gelu_linear_forward", size, _gelu_linear, (x, x_bias, weight, bias))
        yield Case("gelu_linear_backward", size, _gelu_linear_gradients, (g, x, x_bias, weight))
        vectors = np.ascontiguousarray(weight.T)  # one per class
        yield Case("linear_cross_entropy", size, _linear_cross_entropy, (x, vectors, targets(rows, outputs)))
    for count, rows, columns in TABLE_SIZES:
        g, table = normal(count, columns), normal(rows, columns)
        size = f"{count} of {rows} x {columns}"
        yield Case("embedding_backward", size, _embedding_gradient, (g, rng.integers(0, rows, count), table))
    for elements in (1, 1000, 70_001):
        state = normal(elements), normal(elements), normal(elements), normal(elements) ** 2
        yield Case("adamw_update", f"{elements}", _adamw_step, state)
    yield Case("adamw_update", f"{elements}, scale on the device", _adamw_step, (*state, np.array(0.5, np.float32)))
    parts = normal(1), normal(70_001), normal(300, 100)
    yield Case("gradient_norm", "100002", lambda k, *parts: k.gradient_norm([*parts], 1 << 16), parts)
    yield Case("round_tensors", "70001", _rounded, parts[1:2])
    yield Case("muon_update", "100 x 300", _muon_step, (normal(100, 300), normal(100, 300), normal(100, 300)))


def check_kernel(case: Case, device: tt.Device) -> Iterator[Row]:
    """The row of one case, compared on the device and on the CPU."""
    with np.errstate(all="ignore"):
        reference = _as_tuple(case.call(kernels.cpu, *map(_in_double, case.inputs)))
        plain = _as_tuple(case.call(kernels.cpu, *case.inputs))
    inputs = [device.put(array) for array in case.inputs]
    first, second = ([tt.to_numpy(array) for array in _as_tuple(case.call(kernels.cuda, *inputs))] for _ in range(2))
    repeats = all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    yield compare(case.kernel, case.size, first, reference, plain, None if repeats else "two runs differ")


def compare(
    kernel: str, size: str, results: Iterable, reference: Iterable, plain: Iterable, problem: str | None = None
) -> Row:
    """The row of those arrays, among corresponding results, whose error is largest relative to its bound."""
    worst = 0.0, ABSOLUTE
    for got, want, usual in zip(results, reference, plain, strict=True):
        if got.shape != want.shape:
            problem = problem or f"a result has shape {got.shape}, not {want.shape}"
        elif want.size:
            error = float(np.abs(got - want).max())  # NaN if there is one
            largest = float(np.abs(want).max())
            bound = FACTOR * float(np.abs(usual - want).max()) + RELATIVE * largest + ABSOLUTE
            if not error <= bound:
                problem = problem or "error above bound"
            if not error / bound < worst[0] / worst[1]:
                worst = error, bound
    return Row(kernel, size, *worst, problem)


def _as_tuple(result: Any) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def _in_double(array):
    return array.astype(np.float64) if array.dtype == np.float32 else array


# ---- one training step ----------------------------------------------------------------------------------------------


class SmallModel(tt.nn.Module):
    """One transformer block between tied embeddings: ids, targets (B, T) -> loss ()."""

    VOCABULARY, WIDTH, HEADS = 61, 48, 3

    def __init__(self):
        self.embedding = tt.nn.Embedding(self.VOCABULARY, self.WIDTH, std=0.3)
        self.norm = tt.nn.LayerNorm(self.WIDTH)
        self.qkv = tt.nn.Linear(self.WIDTH, 3 * self.WIDTH)
        self.projection = tt.nn.Linear(self.WIDTH, self.WIDTH)
        self.hidden = tt.nn.Linear(self.WIDTH, 4 * self.WIDTH)
        self.output = tt.nn.Linear(4 * self.WIDTH, self.WIDTH)

    def forward(self, ids, targets):
        """The mean loss."""
        B, T = ids.shape
        x = self.embedding(ids)
        qkv = self.qkv(self.norm(x)).reshape(B, T, 3, self.HEADS, self.WIDTH // self.HEADS)
        attended = tt.packed_causal_attention(qkv, dropout=0.1).reshape(B, T, self.WIDTH)
        x = x + tt.dropout(self.projection(attended), 0.1)
        x = x + tt.gelu_linear(self.hidden(x), self.output.weight, self.output.bias)
        return tt.linear_cross_entropy(x, self.embedding.weight, targets)


def train_step(device: tt.Device, dtype: Any, copies: Any = None) -> dict[str, list[np.ndarray]]:
    """Loss, gradients and weights after one clipped AdamW step from drawn weights, the same for every device.

    copies: None, or the dtype of the weights' copies that the loss is computed from.
    """
    with tt.seeded("gpu_check"):
        model = SmallModel()
        ids = np.random.default_rng(0).integers(0, model.VOCABULARY, (4, 26))
        for parameter in model.parameters():
            parameter.data = device.put(parameter.data.astype(dtype))
        # a large eps: AdamW's first step is lr * g / (|g| + eps), which would magnify rounding in tiny gradients
        optimizer = tt.optim.AdamW(model.parameters(), lr=0.01, eps=0.01)
        computed = model if copies is None else tt.nn.MixedPrecision(model, copies)
        loss = computed(ids[:, :-1], ids[:, 1:])
    loss.backward()
    gradients = [tt.to_numpy(parameter.grad) for parameter in model.parameters()]
    optimizer.step(tt.clip_scale(tt.grad_norm(model.parameters()), 1.0))
    weights = [tt.to_numpy(parameter.data) for parameter in model.parameters()]
    return {"loss": [loss.numpy()], "gradients": gradients, "weights": weights}


def check_training(device: tt.Device) -> Iterator[Row]:
    """A row each for loss, gradients and weights."""
    cpu = tt.device("cpu")
    reference, plain, results = train_step(cpu, np.float64), train_step(cpu, np.float32), train_step(device, np.float32)
    for part in reference:
        yield compare("training step", part, results[part], reference[part], plain[part])
    for dtype, rounding in sixteen_bit_dtypes(device):
        results = train_step(device, np.float32, dtype)
        for part in ("loss", "gradients"):  # not weights, of which the first step moves even the least gradient's
            usual = [want + rounding / FACTOR * np.abs(want).max() for want in reference[part]]
            yield compare(f"training step, {dtype.name}", part, results[part], reference[part], usual)


def sixteen_bit_dtypes(device: tt.Device) -> Iterator[tuple[Any, float]]:
    """float16, and bfloat16 where the GPU and the packages have it, with the error that a gradient may have."""
    yield np.dtype(np.float16), 2.0**-8
    if importlib.util.find_spec("ml_dtypes") and int(device.xp.cuda.Device(device.index).compute_capability) >= 80:
        yield named_dtype(BFLOAT16), 2.0**-5


# ---- report ---------------------------------------------------------------------------------------------------------


def describe(device: tt.Device) -> list[str]:
    """What the report says of the device and the software."""
    runtime = device.xp.cuda.runtime
    capability = device.xp.cuda.Device(device.index).compute_capability
    name = runtime.getDeviceProperties(device.index)["name"].decode()
    _, total = device.memory() or (0, 0)
    software = [f"NumPy {np.__version__}", f"Python {platform.python_version()}", platform.platform()]
    if device.name.startswith("cuda"):
        versions = runtime.runtimeGetVersion(), runtime.driverGetVersion()  # 12090 is 12.9
        cuda, driver = (f"{version // 1000}.{version % 1000 // 10}" for version in versions)
        software = [f"CuPy {device.xp.__version__}", f"CUDA {cuda}", f"driver for CUDA {driver}", *software]
    capability = f"compute capability {capability[:-1]}.{capability[-1]}"
    return [
        f"device    {device.name}: {name}, {capability}, {total / 2**30:.1f} GiB",
        f"software  {', '.join(software)}",
    ]


def format_row(row: Row) -> str:
    """A line of the table."""
    verdict = "ok" if row.problem is None else f"FAILED: {row.problem}"
    return f"{row.kernel:<26}{row.size:<34}{row.error:>9.1e}{row.bound:>10.1e}  {verdict}"


def attempt(kernel: str, size: str, check: Callable[..., Iterator[Row]], *args) -> list[Row]:
    """The rows of check(*args); what it raises becomes a failed row, so that the report is always complete."""
    try:
        return list(check(*args))
    except Exception as error:
        message = str(error).strip().partition("\n")[0]
        return [Row(kernel, size, float("nan"), float("nan"), f"{type(error).__name__}: {message}")]


def main(argv: list[str] | None = None) -> int:
    """The command: 0 if all is well, 1 if something differs, 2 without such a device."""
    parser = argparse.ArgumentParser(prog="python -m tinytensor.gpu_check", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or emulated (default: cuda)")
    name, started = parser.parse_args(argv).device, time.perf_counter()
    try:
        device = tt.device(name).use()
    except tt.DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if device.xp is np:
        print(f"error: --device {name}: must be cuda, cuda:N or emulated", file=sys.stderr)
        return 2
    print(*describe(device), "", f"{'kernel':<26}{'size':<34}{'error':>9}{'bound':>10}", sep="\n")
    rows = []
    for case in tqdm(list(cases()), unit="case", leave=False, disable=None):
        rows += attempt(case.kernel, case.size, check_kernel, case, device)
        tqdm.write(format_row(rows[-1]), file=sys.stdout)
    for row in attempt("training step", "", check_training, device):
        rows.append(row)
        print(format_row(row))
    failed = sum(row.problem is not None for row in rows)
    seconds = f"{time.perf_counter() - started:.0f} s"
    print(f"\nFAILED: {failed} of {len(rows)} checks, {seconds}" if failed else f"\nOK: {len(rows)} checks, {seconds}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
