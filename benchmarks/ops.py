"""What does fusing gain? Each fused operation next to its composition from elementary ones, and to PyTorch's.

    python benchmarks/ops.py --rounds 7 --json ops.json

Forward alone, and forward with backward, at the sizes of a real model. Rounds interleave the sides in one process, and
medians are quoted; before anything is timed, values and gradients of all sides must agree (dropout's cannot). Without
torch its columns are missing. The compositions are in `tinytensor.ops.composed`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tinytensor as tt
from benchmarks.operations import normal
from benchmarks.timing import milliseconds, timed
from kernels.cpu.memory import keep_freed_memory
from kernels.cpu.threads import set_num_threads
from tinytensor.ops import composed
from tinytensor.parallel import available_cores

HAS_TORCH = importlib.util.find_spec("torch") is not None
SAMPLE_SECONDS = 0.02  # a sample of shorter calls has several
TOLERANCE = 1e-4  # of values and gradients in float32, relative to the largest


def integers(below: int, *shape: int) -> np.ndarray:
    """int64, the same on each call."""
    return np.random.default_rng(0).integers(0, below, shape)


@dataclass(frozen=True)
class Primitive:
    """A fused operation and its rivals: functions of `arrays()`, of which the float ones get gradients.

    torch: a function of `torch.nn.functional` and the inputs. random: whether no two sides can agree.
    """

    name: str
    size: str
    arrays: Callable[[], tuple[np.ndarray, ...]]
    fused: Callable
    composed: Callable
    torch: Callable
    random: bool = False


def torch_attention(F, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


PRIMITIVES = (
    Primitive(
        "softmax",
        "8192 x 512",
        lambda: (normal(8192, 512),),
        tt.softmax,
        composed.softmax,
        lambda F, x: F.softmax(x, -1),
    ),
    Primitive(
        "log_softmax",
        "8192 x 512",
        lambda: (normal(8192, 512),),
        tt.log_softmax,
        composed.log_softmax,
        lambda F, x: F.log_softmax(x, -1),
    ),
    Primitive(
        "layer_norm",
        "4096 x 384",
        lambda: (normal(4096, 384), normal(384), normal(384)),
        tt.layer_norm,
        composed.layer_norm,
        lambda F, x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
    ),
    Primitive(
        "gelu",
        "4096 x 1536",
        lambda: (normal(4096, 1536),),
        tt.gelu,
        composed.gelu,
        lambda F, x: F.gelu(x, approximate="tanh"),
    ),
    Primitive(
        "linear",
        "4096 x 384 to 1536",
        lambda: (normal(4096, 384), normal(384, 1536), normal(1536)),
        tt.linear,
        composed.linear,
        lambda F, x, w, b: F.linear(x, w.T, b),
    ),
    Primitive(
        "gelu_linear",
        "4096 x 1536 to 384",
        lambda: (normal(4096, 1536), normal(1536, 384), normal(384)),
        tt.gelu_linear,
        composed.gelu_linear,
        lambda F, x, w, b: F.linear(F.gelu(x, approximate="tanh"), w.T, b),
    ),
    Primitive(
        "embedding",
        "4096 of 50304 x 384",
        lambda: (integers(50304, 4096), normal(50304, 384)),
        tt.embedding,
        composed.embedding,
        lambda F, ids, w: F.embedding(ids, w),
    ),
    Primitive(
        "dropout",
        "4096 x 384",
        lambda: (normal(4096, 384),),
        lambda x: tt.dropout(x, 0.1),
        lambda x: composed.dropout(x, 0.1),
        lambda F, x: F.dropout(x, 0.1),
        random=True,
    ),
    Primitive(
        "causal_attention",
        "B 8, H 8, T 128, D 48",
        lambda: tuple(normal(3, 8, 8, 128, 48)),
        tt.causal_attention,
        composed.causal_attention,
        torch_attention,
    ),
    Primitive(
        "causal_attention",
        "B 1, H 12, T 1024, D 64",
        lambda: tuple(normal(3, 1, 12, 1024, 64)),
        tt.causal_attention,
        composed.causal_attention,
        torch_attention,
    ),
    Primitive(
        "cross_entropy",
        "512 x 50304",
        lambda: (normal(512, 50304), integers(50304, 512)),
        tt.cross_entropy,
        composed.cross_entropy,
        lambda F, x, targets: F.cross_entropy(x, targets),
    ),
    Primitive(
        "linear_cross_entropy",
        "512 x 384 to 50304",
        lambda: (normal(512, 384), normal(50304, 384) / 20, integers(50304, 512)),
        tt.linear_cross_entropy,
        composed.linear_cross_entropy,
        lambda F, x, w, targets: F.cross_entropy(F.linear(x, w), targets),
    ),
)


def our_side(function: Callable, arrays) -> tuple[Callable, Callable]:
    """(forward, forward and backward): the first returns the result, the second all gradients."""
    inputs = [tt.Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    leaves = [x for x in inputs if x.requires_grad]
    given = [x if x.requires_grad else x.data for x in inputs]

    def forward():
        return function(*given).data

    def both():
        for x in leaves:
            x.grad = None
        y = function(*given)
        y.backward(np.ones(y.shape, y.dtype))
        return [x.grad for x in leaves]

    return forward, both


def torch_side(function: Callable, arrays) -> tuple[Callable, Callable]:
    """The same for PyTorch."""
    import torch
    import torch.nn.functional as F

    inputs = [torch.from_numpy(a.copy()).requires_grad_(a.dtype.kind == "f") for a in arrays]
    leaves = [x for x in inputs if x.requires_grad]

    def forward():
        return function(F, *inputs).detach().numpy()

    def both():
        for x in leaves:
            x.grad = None
        y = function(F, *inputs)
        y.backward(torch.ones_like(y))
        return [x.grad.numpy() for x in leaves]

    return forward, both


def check(primitive: Primitive, sides: dict[str, tuple[Callable, Callable]]) -> None:
    """Raise AssertionError where two sides compute different values or gradients."""
    results = {side: [forward(), *both()] for side, (forward, both) in sides.items()}
    for side, arrays in results.items():
        for ours, theirs in zip(results["fused"], arrays, strict=True):
            bound = TOLERANCE * max(1, abs(ours).max())
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=bound, err_msg=f"{primitive.name}: fused and {side}")


def measure(primitive: Primitive, rounds: int) -> dict:
    """Median seconds of each side: {"fused": [forward, forward and backward], ...}."""
    arrays = primitive.arrays()
    sides = {"fused": our_side(primitive.fused, arrays), "composed": our_side(primitive.composed, arrays)}
    if HAS_TORCH:
        sides["torch"] = torch_side(primitive.torch, arrays)
    if not primitive.random:
        check(primitive, sides)
    samples = {side: ([], []) for side in sides}
    for _ in range(rounds):
        for side, functions in sides.items():
            for function, times in zip(functions, samples[side], strict=True):
                times.append(seconds_of(function))
    times = {side: [statistics.median(values) for values in pair] for side, pair in samples.items()}
    return {"operation": primitive.name, "size": primitive.size, **times}


def seconds_of(function: Callable) -> float:
    """Mean seconds of a call, over as many as make a sample long enough for the clock."""
    with timed() as once:
        function()
    calls = max(1, round(SAMPLE_SECONDS / once.seconds))
    with timed() as sample:
        for _ in range(calls):
            function()
    return sample.seconds / calls


def table(rows: list[dict]) -> str:
    """Markdown: milliseconds of ours, and how many times as long the others take."""
    others = [side for side in ("composed", "torch") if side in rows[0]]
    head = ["operation", "size", "forward, ms", "and backward, ms", *(f"{o}, forward / both" for o in others)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        ratios = [" / ".join(f"{t / f:.1f}x" for t, f in zip(row[o], row["fused"], strict=True)) for o in others]
        lines.append([f"`{row['operation']}`", row["size"], *map(milliseconds, row["fused"]), *ratios])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: the cores available")
    parser.add_argument("--only", help="names of operations, comma-separated; default all")
    parser.add_argument("--json", type=Path, help="write the seconds to this file")
    args = parser.parse_args(argv)
    chosen = [p for p in PRIMITIVES if not args.only or p.name in args.only.split(",")]
    if not chosen:
        parser.error(f"--only {args.only}: must name some of {', '.join(dict.fromkeys(p.name for p in PRIMITIVES))}")
    keep_freed_memory()
    set_num_threads(args.threads)
    if HAS_TORCH:
        import torch

        torch.set_num_threads(args.threads)
    rows = [measure(primitive, args.rounds) for primitive in tqdm(chosen, leave=False, disable=None)]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
