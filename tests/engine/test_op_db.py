"""PyTorch's own op database run against ours: the same samples, values, dtypes and gradients, or a difference by name.

`torch.testing` describes each operator of PyTorch with sample inputs for every dtype. SHARED says how ours is called
with them, DIFFERENCES lists what does not agree and why; `docs/notes/pytorch_differences.md` is written from both:

    python -m tests.engine.test_op_db

The comparison needs torch and expecttest (the extra `bench`) and is skipped without them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

import tinytensor as tt
from tinytensor.nn import functional as F

PAGE = Path(__file__).parents[2] / "docs" / "notes" / "pytorch_differences.md"
DTYPES = ("float64", "int64", "uint8", "bool")
REASON_NOT_THERE = "torch and expecttest (pip install -e '.[bench]') bring the op database"


@dataclass(frozen=True)
class Shared:
    """An operator of the database: its name, ours, called with a sample's arguments, and the spelling of ours."""

    name: str
    ours: Callable
    spelling: str = ""


@dataclass(frozen=True)
class Difference:
    """Samples of the operators that match `pattern` do not agree, or are refused, for this reason."""

    names: str
    pattern: str
    reason: str


def with_last_axes(fn):
    """PyTorch's layer and RMS norm are given the shape of the last axes; ours normalizes the last one."""

    def call(x, normalized_shape, weight=None, *rest, **options):
        return fn(x, tt.ones(x.shape[-1], dtype=x.dtype) if weight is None else weight, *rest, **options)

    return call


def variance(fn):
    """PyTorch's `correction`, 1 unless given, or `unbiased`, which may be the only argument."""

    def call(x, *args, dim=None, correction=1, unbiased=True, keepdim=False):
        if args and isinstance(args[-1], bool):
            *args, unbiased = args
        (dim,) = args or (dim,)
        return fn(x, dim, keepdim, ddof=(1 if correction is None else correction) if unbiased else 0)

    return call


def embedding(weight, ids):
    return tt.embedding(ids, weight)


def pad(x, widths, mode="constant", value=0.0):
    pairs = [(0, 0)] * (x.ndim - len(widths) // 2) + list(zip(widths[::2], widths[1::2], strict=True))[::-1]
    return tt.pad(x, pairs, 0.0 if value is None else value)


def index(x, *args):
    return x[args[0]]


def reduced_p_norm(x, p=2, dim=None, keepdim=False, **options):
    return tt.norm(x, p, dim, keepdim, **options)


def vector_norm(x, ord=2, dim=None, keepdim=False, **options):
    return tt.norm(x, ord, dim, keepdim, **options)


def operator(name):
    return lambda x, other: getattr(x, name)(other)


SAME_NAME = """
abs add allclose all any argmax argmin argsort bitwise_and bitwise_not bitwise_or bitwise_xor chunk clamp contiguous cos
cumprod cumsum erf exp expand flatten flip floor_divide full_like gather isfinite isnan log log_softmax logsumexp
masked_fill matmul maximum mean minimum mul neg ones_like permute pow prod remainder repeat reshape roll sigmoid sin
softmax sort split sqrt square squeeze stack sub sum tanh topk transpose tril triu unbind unsqueeze zeros_like
"""
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
SHARED = [
    *(Shared(name, getattr(tt, name)) for name in SAME_NAME.split()),
    *(
        Shared(f"nn.functional.{name}", getattr(F, name))
        for name in ("relu", "silu", "softplus", "mse_loss", "one_hot", "gelu", "layer_norm", "cross_entropy")
    ),
    *(Shared(name, operator(f"__{name}__"), f"`a {symbol} b`") for name, symbol in COMPARISONS.items()),
    *(Shared(f"__{name}__", operator(f"__{name}__")) for name in ("radd", "rmul", "rand", "ror", "rxor", "rmatmul")),
    *(Shared(f"__{name}__", operator(f"__{name}__")) for name in ("rmod", "rpow", "rsub")),
    Shared("__rdiv__", operator("__rtruediv__"), "`other / x`"),
    Shared("__getitem__", index),
    Shared("div|no_rounding_mode", tt.div),
    Shared("true_divide", tt.div, "`div(a, b)`"),
    Shared("max|binary", tt.maximum, "`maximum(a, b)`"),
    Shared("min|binary", tt.minimum, "`minimum(a, b)`"),
    Shared("mm", tt.matmul, "`matmul(a, b)`"),
    Shared("bmm", tt.matmul, "`matmul(a, b)`"),
    Shared("mv", tt.matmul, "`matmul(a, b)`"),
    Shared("dot", tt.matmul, "`matmul(a, b)`"),
    Shared("where", lambda x, condition, other: tt.where(condition, x, other)),
    Shared("clamp_min", lambda x, low: tt.clamp(x, min=low), "`clamp(x, min=low)`"),
    Shared("clamp_max", lambda x, high: tt.clamp(x, max=high), "`clamp(x, max=high)`"),
    Shared("amax", tt.max, "`max(x, axis)`, which returns no indices"),
    Shared("amin", tt.min, "`min(x, axis)`, which returns no indices"),
    Shared("max|reduction_no_dim", tt.max),
    Shared("min|reduction_no_dim", tt.min),
    Shared("var", variance(tt.var), "`var(x, axis, ddof=1)`: the default is NumPy's, ddof = 0"),
    Shared("std", variance(tt.std), "`std(x, axis, ddof=1)`: the default is NumPy's, ddof = 0"),
    Shared("var|unbiased", variance(tt.var), "`var(x, ddof=1)`"),
    Shared("std|unbiased", variance(tt.std), "`std(x, ddof=1)`"),
    Shared("msort", lambda x: tt.sort(x, 0).values, "`sort(x, 0).values`"),
    Shared("einsum", lambda operands, subscripts: tt.einsum(subscripts, *operands)),
    Shared("norm", reduced_p_norm),
    Shared("norm|inf", reduced_p_norm),
    Shared("linalg.vector_norm", vector_norm, "`norm(x, p, axis)`"),
    Shared("view", tt.reshape, "`x.view(2, 3)`, or `reshape`, which may copy"),
    Shared("t", lambda x: x.T if x.ndim < 3 else None, "`x.T`"),
    Shared("T", lambda x: x.T),
    Shared("mT", lambda x: x.mT),
    Shared("broadcast_to", tt.expand, "`expand(x, shape)`"),
    Shared("squeeze|multiple", tt.squeeze),
    Shared("cat", tt.concat, "`cat(xs, axis)` or `concat`"),
    Shared("split|list_args", tt.split),
    Shared("split_with_sizes", tt.split, "`split(x, sizes)`"),
    Shared("clone", lambda x: x.clone()),
    Shared("float", lambda x: x.float()),
    Shared("long", lambda x: x.long()),
    Shared("nn.functional.logsigmoid", lambda x: -tt.softplus(-x), "`-softplus(-x)`"),
    Shared("nn.functional.rms_norm", with_last_axes(tt.rms_norm), "`rms_norm(x, weight)`, over the last axis"),
    Shared(
        "nn.functional.linear",
        lambda x, weight, bias=None: tt.linear(x, weight.T, bias),
        "`linear(x, weight, bias)` with a weight of shape (in, out)",
    ),
    Shared("nn.functional.embedding", embedding),
    Shared("nn.functional.scaled_dot_product_attention", F.scaled_dot_product_attention),
    Shared("nn.functional.pad|constant", pad, "NumPy's pairs, `pad(x, [(before, after), ...])`, one for each axis"),
]

DIFFERENCES = [
    Difference("add sub", "alpha=", "`alpha=` is not taken: write `a + alpha * b`"),
    Difference("argsort sort", "stable=", "`stable=` is not taken: sorting always keeps equal elements in their order"),
    Difference("topk", "5 were given", "`sorted=` is not taken: the most extreme element always comes first"),
    Difference(
        "topk argsort sort",
        "^argsort (u?int|bool).*Not equal|Not equal.*result 1",
        "equal elements keep their order, which PyTorch leaves open",
    ),
    Difference("prod cumsum cumprod", "'dtype'", "`dtype=` is not taken: cast the argument"),
    Difference("zeros_like ones_like full_like", "'device'", "`device=` is not taken: the result is where x is"),
    Difference("full_like", "OverflowError", "a number that the dtype cannot hold is an error, as in NumPy"),
    Difference("float long", "'memory_format'", "`memory_format=` is not taken: a cast keeps the order of the axes"),
    Difference(
        "nn.functional.softplus", "'beta'", "`beta=` and `threshold=` are not taken: `softplus(beta * x) / beta`"
    ),
    Difference("all any", "dtype bool, PyTorch torch.uint8", "the result for uint8 is boolean too"),
    Difference("square", "dtype bool, PyTorch torch.int64", "of booleans is boolean, like their product"),
    Difference(
        "masked_fill",
        "bool: .*dtype int64, PyTorch torch.bool",
        "an integer among booleans, or a float among integers, gives the result its dtype",
    ),
    Difference(
        "nn.functional.linear",
        "dtype float32, PyTorch torch.u?int",
        "of integers is float32, as in all layers; `x @ w` keeps the integers",
    ),
    Difference(
        "__rpow__", "negative integer powers", "an integer to a negative integer power is an error, as in NumPy"
    ),
    Difference(
        "gather", "must have the . axes", "the index must have the axes of x, also for a 0-d x or an empty index"
    ),
    Difference(
        "squeeze squeeze|multiple", "has length 5: must be 1", "an axis of another length is an error, as in NumPy"
    ),
    Difference("cat", r"\(0,\).*concat: axis 1", "an empty 1-d tensor is not skipped: all must have the same axes"),
    Difference("norm norm|inf linalg.vector_norm", "must be 1, 2 or math.inf", "p is 1, 2 or infinity"),
    Difference("nn.functional.layer_norm nn.functional.rms_norm", "must|needs", "over the last axis only"),
    Difference(
        "nn.functional.cross_entropy",
        "targets of dtype float64: must be integers",
        "targets are class numbers, not probabilities: `-(probs * log_softmax(x)).sum(-1).mean()`",
    ),
    Difference(
        "nn.functional.scaled_dot_product_attention",
        r"dropout_p=0\.[1-9].*Not equal",
        "dropout draws other masks, keyed by `tinytensor.random`",
    ),
    Difference("nn.functional.pad|constant", "must not be negative", "a negative width is an error: slice instead"),
]

# What PyTorch has and we have not, by its name in `tinytensor`, and what to use; a test checks that it is missing.
MISSING = {
    "randperm": "`random_generator().permutation(n)`, a NumPy array",
    "enable_grad": "none: gradients are on outside `with no_grad():`",
    "Tensor.cuda": '`x.to("cuda")`, and `x.to("cpu")` for `cpu()`',
    "Tensor.requires_grad_": "`x.requires_grad = True`",
    "Tensor.retain_grad": "none: only leaves get a `grad`",
    "Tensor.register_hook": "none: write a `Function`",
    "Tensor.add_": "`x += y`; there are no methods that end in `_`",
    "nn.functional.linear": "`x @ weight.T + bias`, or `tt.linear(x, weight.T, bias)`",
    "nn.functional.pad": "`tt.pad` with NumPy's pairs",
    "optim.Adam": "`optim.AdamW(params, weight_decay=0)`",
    "optim.lr_scheduler": "`optimizer.lr = optim.cosine_schedule(step, ...)` before each step",
}


# ---- the comparison --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(request) -> dict:
    """{name: OpInfo}."""
    pytest.importorskip("torch", reason=REASON_NOT_THERE)
    try:
        from torch.testing._internal.common_methods_invocations import op_db
    except ImportError as error:
        pytest.skip(f"{REASON_NOT_THERE}: {error}")
    # the import loads a hypothesis profile of PyTorch's; the other tests need ours
    hypothesis.settings.load_profile("thorough" if request.config.getoption("--thorough") else "quick")
    return {op.name + (f"|{op.variant_test_name}" if op.variant_test_name else ""): op for op in op_db}


def describe(x) -> str:
    """A sample's arguments in short: shapes and dtypes for tensors."""
    if hasattr(x, "requires_grad"):
        return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
    if isinstance(x, (tuple, list)):
        return "[" + ", ".join(map(describe, x)) + "]"
    if isinstance(x, dict):
        return ", ".join(f"{name}={describe(value)}" for name, value in x.items())
    return repr(x)


def describe_sample(sample) -> str:
    return f"{describe(sample.input)}; {describe(list(sample.args))[1:-1]}; {describe(sample.kwargs)}"


def tensors_in(x) -> list:
    """The tensors in nested arguments, in their order."""
    if hasattr(x, "requires_grad"):
        return [x]
    if isinstance(x, dict):
        x = list(x.values())
    return [t for part in x for t in tensors_in(part)] if isinstance(x, (tuple, list)) else []


def converted(x) -> Any:
    """A sample's argument as ours: Tensors, NumPy dtypes."""
    if hasattr(x, "requires_grad"):
        return tt.Tensor(x.detach().numpy().copy(order="K"), requires_grad=x.requires_grad)
    if isinstance(x, (tuple, list)):
        return type(x)(map(converted, x)) if type(x) in (tuple, list) else tuple(map(converted, x))
    if isinstance(x, dict):
        return {name: converted(value) for name, value in x.items()}
    return np.dtype(str(x).removeprefix("torch.")) if type(x).__name__ == "dtype" else x


def outputs_of(y) -> list:
    return list(y) if isinstance(y, (tuple, list)) else [y]


def compare(op, shared: Shared, sample) -> None:
    """Raise AssertionError where values, dtypes, shapes or gradients differ; what ours raises comes through."""
    import torch

    theirs = outputs_of(op(sample.input, *sample.args, **sample.kwargs))
    arguments = converted([sample.input, list(sample.args), sample.kwargs])
    with np.errstate(all="ignore"):
        ours = outputs_of(shared.ours(arguments[0], *arguments[1], **arguments[2]))
        assert len(ours) == len(theirs), f"{len(ours)} results, PyTorch {len(theirs)}"
        for i, (y, other) in enumerate(zip(ours, theirs, strict=True)):
            if not isinstance(y, tt.Tensor):
                assert y == other, f"{y}, PyTorch {other}"
                continue
            assert y.shape == tuple(other.shape), f"shape {y.shape}, PyTorch {tuple(other.shape)}"
            assert str(y.dtype) == str(other.dtype).removeprefix("torch."), f"dtype {y.dtype}, PyTorch {other.dtype}"
            bounds = {"rtol": tolerance(y), "atol": tolerance(y) / 100}
            np.testing.assert_allclose(y.data, other.detach().numpy(), **bounds, err_msg=f"result {i}")
        compare_gradients(
            torch, ours, theirs, tensors_in(arguments), tensors_in([sample.input, sample.args, sample.kwargs])
        )


def compare_gradients(torch, ours, theirs, our_inputs, their_inputs) -> None:
    rng = np.random.default_rng(0)
    pairs = [(y, other) for y, other in zip(ours, theirs, strict=True) if getattr(other, "requires_grad", False)]
    wanted = [(x, other) for x, other in zip(our_inputs, their_inputs, strict=True) if other.requires_grad]
    if not pairs or not wanted:
        return
    weights = [rng.standard_normal(y.shape) for y, _ in pairs]
    total = sum((other * torch.from_numpy(w)).sum() for (_, other), w in zip(pairs, weights, strict=True))
    gradients = torch.autograd.grad(total, [other for _, other in wanted], allow_unused=True)
    our_total = sum(((y * w).sum() for (y, _), w in zip(pairs, weights, strict=True)), start=tt.tensor(0.0))
    our_total.backward()
    for (x, _), gradient in zip(wanted, gradients, strict=True):
        expected = np.zeros(x.shape) if gradient is None else gradient.numpy()
        result = np.zeros(x.shape) if x.grad is None else x.grad
        np.testing.assert_allclose(result, expected, rtol=1e-7, atol=1e-9, err_msg="gradient")


def tolerance(y) -> float:
    return {"float64": 1e-9, "float32": 1e-5}.get(str(y.dtype), 0)


def samples(op, dtype: str):
    import torch

    kind = getattr(torch, dtype)
    if not op.supports_dtype(kind, "cpu"):
        return []
    torch.manual_seed(0)
    return op.sample_inputs("cpu", kind, requires_grad=dtype == "float64" and op.supports_autograd)


@pytest.mark.parametrize("shared", SHARED, ids=lambda shared: shared.name)
def test_values_and_gradients_are_pytorchs(database, shared):
    op, known = database[shared.name], [d for d in DIFFERENCES if shared.name in d.names.split()]
    agreed, met, faults = 0, set(), []
    for dtype in DTYPES:
        for sample in samples(op, dtype):
            try:
                compare(op, shared, sample)
                agreed += 1
            except (AssertionError, TypeError, ValueError, IndexError, OverflowError) as error:
                error_words = " ".join(str(error).split())
                words = f"{shared.name} {dtype}: {describe_sample(sample)}: {type(error).__name__} {error_words}"
                found = {d for d in known if re.search(d.pattern, words)}
                met |= found
                faults += [] if found else [words[:400]]
    assert faults == []
    assert [d.reason for d in known if d not in met] == []  # nothing listed that is no difference any more
    assert agreed > 0 or shared.name == "nn.functional.softplus"  # all of whose samples have a beta


# ---- the page --------------------------------------------------------------------------------------------------------


def called(name: str) -> str:
    return f"`{name.partition('|')[0]}`"


def page() -> str:
    """The text of docs/notes/pytorch_differences.md."""
    operators = list(dict.fromkeys(called(shared.name) for shared in SHARED))
    spelled = [f"| {called(s.name)} | {s.spelling} |" for s in SHARED if s.spelling]
    missing = [f"| `{name}` | {instead} |" for name, instead in MISSING.items()]
    differ = [f"| {', '.join(dict.fromkeys(map(called, d.names.split())))} | {d.reason} |" for d in DIFFERENCES]
    return f"""# Where the operations differ from PyTorch's

`tests/engine/test_op_db.py` runs {len(SHARED)} entries of PyTorch's op database (`torch.testing`'s `op_db`)
against ours, on PyTorch's own samples of {", ".join(DTYPES)}. Values, shapes, dtypes and, for float64,
gradients agree but for what is listed here. The test fails for a difference that is not listed, and for a listed one
that is gone. This page is written from its tables: `python -m tests.engine.test_op_db`.

## Results that differ, and arguments that are not taken

| operator | ours |
|---|---|
{chr(10).join(differ)}

## Other spellings

Everywhere, `dim=` and `keepdim=` may be written `axis=` and `keepdims=`, as in NumPy.

| PyTorch | ours |
|---|---|
{chr(10).join(spelled)}

## Differences that are not about one operation

- `tinytensor.nn.functional` has PyTorch's arguments and defaults. The table above is about the functions of
  `tinytensor` itself, of which some differ: `tt.gelu` is the tanh approximation unless asked, `tt.layer_norm` takes no
  `normalized_shape`, and `tt.cross_entropy` has the classes on the last axis.
- `x.grad` and `x.data` are raw arrays (NumPy's, or CuPy's on a GPU), not tensors, and `x.device` is a string. Gradients
  are of first order, so there is nothing about one to record; and an array is what VJPs return, kernels and optimizers
  take, and NumPy and matplotlib understand. `x.grad.item()`, `x.grad.shape`, `x.data += -lr * x.grad` and
  `x.grad = None` mean what they do in PyTorch; for `x.grad.zero_()` write `x.grad = None`.
- `x.numpy()` also works for a tensor that requires a gradient.
- `x.max(dim=1)` and `x.min(dim=1)` return the values only; `argmax` and `argmin` give the indices.
- `y += 1` changes the memory of a tensor that requires no gradient. If y is a result that requires one, it makes a new
  tensor, and other names of y keep the old one.
- `var` and `std` have NumPy's default, ddof = 0.
- A dtype is NumPy's: `tt.float32`, `tt.long` and `tt.bool` are `np.float32`, `np.int64` and `np.bool_`. There is no
  `bfloat16`.
- Gradients are of first order: there is no `create_graph`. A graph is freed by its first `backward`: there is no
  `retain_graph`.
- A `Function` is an object that is applied once, `Square(3.0)(x)`, without `apply` and `ctx`. Its `forward` and `vjp`
  take raw arrays, and `vjp` returns a tuple, also for one input.
- `nn.Linear` has a weight of shape (in, out), the transpose of PyTorch's. `nn.Embedding`, `nn.LayerNorm` and
  `nn.Dropout` take fewer options, in another order. Layers begin with other random weights.
- `Module.parameters()` is a list, and `Module.children()` yields (name, module), like `named_children` in PyTorch.

| missing here | instead |
|---|---|
{chr(10).join(missing)}

## The operators compared

{", ".join(operators)}.
"""


@pytest.mark.parametrize("name", MISSING)
def test_what_the_page_calls_missing_is(name):
    owner, _, attribute = f"tinytensor.{name}".rpartition(".")
    found = functools.reduce(getattr, owner.split(".")[1:], tt)
    assert not hasattr(found, attribute)


def test_the_page_is_written_from_the_tables():
    assert PAGE.read_text() == page()


if __name__ == "__main__":
    PAGE.write_text(page())
