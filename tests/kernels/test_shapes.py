"""Every primitive of both packages refuses every array whose shape or dtype does not fit the others'.

A table holds one good call per primitive. Each of its arrays in turn gets an axis that is one longer or one shorter, an
axis more or fewer, or another dtype; then the call must raise, unless the table says that this still fits.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

import kernels.cpu
import kernels.cuda
import tinytensor as tt
from kernels.cpu import compiled
from kernels.options import AdamWOptions, DropoutOptions, MuonOptions

RNG = np.random.default_rng(0)
ADAMW = AdamWOptions(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, step=1)
MUON = MuonOptions(lr=0.1, beta=0.9, weight_decay=0.1, blocks=(1, 2))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def integers(*shape):
    return RNG.integers(0, 3, shape)


@dataclass(frozen=True)
class Call:
    """A call that is right, and for each argument the changes after which it still is."""

    run: Callable
    arrays: dict
    fits: dict = field(default_factory=dict)


def changes(array) -> dict:
    """{what: array} for every way to get one array wrong."""
    changed = {}
    for axis, length in enumerate(array.shape):
        repeated = np.concatenate([array, np.take(array, [0], axis)], axis)
        changed[f"longer {axis}"] = repeated
        if length > 1:
            changed[f"shorter {axis}"] = np.take(array, range(length - 1), axis)
    changed["more axes"] = array[None]
    if array.ndim:
        changed["fewer axes"] = array[0]
    changed["other kind"] = array.astype(np.int64 if array.dtype.kind == "f" else np.float32)
    if array.dtype.kind == "f":
        changed["float64"] = array.astype(np.float64)
    return {what: np.ascontiguousarray(a).reshape(a.shape) for what, a in changed.items()}


ROWS = ("longer 0", "shorter 0", "more axes", "fewer axes")  # of an array (N, C) of which only C matters
ANY_SHAPE = ("longer 0", "shorter 0", "longer 1", "shorter 1", "more axes", "fewer axes")
SCORES = (3, 5)  # rows, columns

CALLS = {
    "softmax_forward": Call(lambda k, x: k.softmax_forward(x), {"x": normal(*SCORES)}, {"x": (*ANY_SHAPE, "float64")}),
    "softmax_backward": Call(lambda k, g, y: k.softmax_backward(g, y), {"g": normal(*SCORES), "y": normal(*SCORES)}),
    "log_softmax_forward": Call(
        lambda k, x: k.log_softmax_forward(x), {"x": normal(*SCORES)}, {"x": (*ANY_SHAPE, "float64")}
    ),
    "log_softmax_backward": Call(
        lambda k, g, y: k.log_softmax_backward(g, y), {"g": normal(*SCORES), "y": normal(*SCORES)}
    ),
    "gelu_forward": Call(lambda k, x: k.gelu_forward(x), {"x": normal(*SCORES)}, {"x": (*ANY_SHAPE, "float64")}),
    "gelu_backward": Call(lambda k, g, x: k.gelu_backward(g, x), {"g": normal(*SCORES), "x": normal(*SCORES)}),
    "swiglu_forward": Call(lambda k, x: k.swiglu_forward(x), {"x": normal(3, 6)}, {"x": (*ROWS, "float64")}),
    "swiglu_backward": Call(lambda k, g, x: k.swiglu_backward(g, x), {"g": normal(3, 3), "x": normal(3, 6)}),
    "rms_norm_forward": Call(
        lambda k, x, weight: k.rms_norm_forward(x, weight, 1e-5),
        {"x": normal(3, 5), "weight": normal(5)},
        {"x": ROWS},
    ),
    "rms_norm_backward": Call(
        lambda k, g, weight, x, rstd: k.rms_norm_backward(g, weight, (x, rstd)),
        {"g": normal(3, 5), "weight": normal(5), "x": normal(3, 5), "rstd": normal(3, 1)},
    ),
    "dropout": Call(
        lambda k, x: k.dropout(x, DropoutOptions(0.5, 1)), {"x": normal(*SCORES)}, {"x": (*ANY_SHAPE, "float64")}
    ),
    "layer_norm_forward": Call(
        lambda k, x, weight, bias: k.layer_norm_forward(x, weight, bias, 1e-5),
        {"x": normal(3, 5), "weight": normal(5), "bias": normal(5)},
        {"x": ROWS},
    ),
    "layer_norm_backward": Call(
        lambda k, g, weight, *saved: k.layer_norm_backward(g, weight, saved if len(saved) == 3 else (*saved, False), g),
        {"g": normal(3, 5), "weight": normal(5)},  # and what forward saved
    ),
    "add_layer_norm_forward": Call(
        lambda k, *arrays: k.add_layer_norm_forward(*arrays, 1e-5),
        {"x": normal(3, 5), "added": normal(3, 5), "added_bias": normal(5), "weight": normal(5), "bias": normal(5)},
    ),
    "bias_add": Call(
        lambda k, x, added, bias: k.bias_add(x, added, bias),
        {"x": normal(3, 5), "added": normal(3, 5), "bias": normal(5)},
    ),
    "bias_add_backward": Call(
        lambda k, x: k.bias_add_backward(x, x.dtype, True), {"x": normal(3, 5)}, {"x": (*ANY_SHAPE, "float64")}
    ),
    "sum_rows": Call(lambda k, x: k.sum_rows(x), {"x": normal(3, 5)}, {"x": (*ANY_SHAPE, "float64")}),
    "gelu_linear_forward": Call(
        lambda k, x, x_bias, weight, bias: k.gelu_linear_forward(x, x_bias, weight, bias),
        {"x": normal(3, 5), "x_bias": normal(5), "weight": normal(5, 4), "bias": normal(4)},
        {"x": ROWS},
    ),
    "gelu_linear_backward": Call(
        lambda k, g, x, x_bias, weight: k.gelu_linear_backward(
            g, x, x_bias, weight, k.gelu_linear_forward(x, x_bias, weight, None)[1], True
        ),
        {"g": normal(2, 3, 4), "x": normal(2, 3, 5), "x_bias": normal(5), "weight": normal(5, 4)},
    ),
    "linear_forward": Call(
        lambda k, x, weight, bias: k.linear_forward(x, weight, bias),
        {"x": normal(3, 5), "weight": normal(5, 4), "bias": normal(4)},
        {"x": ROWS},
    ),
    "linear_backward": Call(
        lambda k, g, x, weight: k.linear_backward(g, x, weight, True),
        {"g": normal(2, 3, 4), "x": normal(2, 3, 5), "weight": normal(5, 4)},
        {},
    ),
    "embedding_backward": Call(
        lambda k, g, ids, gweight: k.embedding_backward(g, ids, gweight),
        {"g": normal(2, 4, 5), "ids": integers(2, 4), "gweight": normal(7, 5)},
        {"gweight": ("longer 0", "shorter 0")},
    ),
    "cross_entropy_forward": Call(
        lambda k, logits, targets: k.cross_entropy_forward(logits, targets, -1),
        {"logits": normal(4, 5), "targets": integers(4)},
        {"logits": ("longer 1", "shorter 1", "float64")},
    ),
    "cross_entropy_backward": Call(
        lambda k, g, logits, targets, lse: k.cross_entropy_backward(g, logits, targets, lse, -1),
        {"g": normal(), "logits": normal(4, 5), "targets": integers(4), "lse": normal(4)},
        {"logits": ("longer 1", "shorter 1")},
    ),
    "linear_cross_entropy": Call(
        lambda k, x, weight, targets: k.linear_cross_entropy(x, weight, targets, -1, True),
        {"x": normal(4, 3), "weight": normal(5, 3), "targets": integers(4)},
        {"weight": ("longer 0", "shorter 0")},
    ),
    "attention_forward": Call(
        lambda k, qkv: k.attention_forward(qkv, 0.5),
        {"qkv": normal(2, 6, 3, 2, 4)},
        {"qkv": (*(f"{what} {axis}" for axis in (0, 1, 3, 4) for what in ("longer", "shorter")), "float64")},
    ),
    "attention_backward": Call(
        lambda k, g, qkv, y, lse: k.attention_backward(g, qkv, y, lse, 0.5),
        {"g": normal(2, 6, 2, 4), "qkv": normal(2, 6, 3, 2, 4), "y": normal(2, 6, 2, 4), "lse": normal(2, 2, 6)},
    ),
    "cached_attention_forward": Call(
        lambda k, q, keys, values: k.cached_attention_forward(q, keys, values, np.array([4, 5]), 0.5),
        {"q": normal(2, 3, 2, 4), "keys": normal(2, 1, 5, 4), "values": normal(2, 1, 5, 4)},
        {"q": ("longer 1", "shorter 1", "longer 2", "shorter 2")},
    ),
    "attention_forward, grouped": Call(
        lambda k, qkv: k.attention_forward(qkv, 0.5, kv_heads=2),
        {"qkv": normal(2, 6, 8, 4)},
        {"qkv": (*(f"{what} {axis}" for axis in (0, 1, 3) for what in ("longer", "shorter")), "float64")},
    ),
    "attention_backward, grouped": Call(
        lambda k, g, qkv, y, lse: k.attention_backward(g, qkv, y, lse, 0.5, kv_heads=2),
        {"g": normal(2, 6, 4, 4), "qkv": normal(2, 6, 8, 4), "y": normal(2, 6, 4, 4), "lse": normal(2, 4, 6)},
    ),
    "rotary": Call(
        lambda k, x, table: k.rotary(x, table, 2),
        {"x": normal(2, 6, 3, 4), "table": normal(6, 2, 2)},
        {"x": ("longer 0", "shorter 0", "longer 2", "shorter 2", "longer 3"), "table": ("shorter 2",)},
    ),
    "adamw_update": Call(
        lambda k, param, grad, m, v: k.adamw_update([param], [grad], [m], [v], ADAMW),
        {"param": normal(3, 4), "grad": normal(3, 4), "m": normal(3, 4), "v": abs(normal(3, 4))},
    ),
    "gradient_norm": Call(
        lambda k, one, other: k.gradient_norm([one, other], 1 << 14),
        {"one": normal(3, 4), "other": normal(5)},
        dict.fromkeys(("one", "other"), (*ANY_SHAPE, "longer 0", "shorter 0")),
    ),
    "round_tensors": Call(
        lambda k, tensor, copy: k.round_tensors([tensor], [copy]),
        {"tensor": normal(3, 4), "copy": normal(3, 4).astype(np.float16)},
    ),
    "muon_update": Call(
        lambda k, param, grad, momentum: k.muon_update([param], [grad], [momentum], [MUON]),
        {"param": normal(3, 4), "grad": normal(3, 4), "momentum": normal(3, 4)},
    ),
}


@pytest.fixture(params=["cpu, NumPy", "cpu, loops", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """Each package of kernels, that of the CPU with and without compiled loops."""
    name, _, passes = request.param.partition(", ")
    if passes == "NumPy":
        monkeypatch.setattr(compiled, "_loops", lambda: None)
    elif passes and compiled._loops() is None:
        pytest.skip("needs numba")
    try:
        return tt.device(name)
    except tt.DeviceError as error:
        pytest.skip(str(error))


def good_arrays(name: str, k, device) -> dict:
    """The call's arrays in NumPy; with those that the package's own forward saves for layer norm."""
    arrays = CALLS[name].arrays
    if name != "layer_norm_backward":
        return arrays
    saved = k.layer_norm_forward(device.put(arrays["g"]), device.put(arrays["weight"]), None, 1e-5)[1]
    return arrays | {f"saved {i}": tt.to_numpy(a) for i, a in enumerate(saved[: len(saved) - 1])}


def test_the_table_has_every_primitive():
    assert sorted({name.partition(",")[0] for name in CALLS}) == sorted(kernels.cpu.__all__)
    assert sorted(kernels.cpu.__all__) == sorted(kernels.cuda.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_every_mismatch_is_refused(name, device):
    k, call = tt.kernels_for(device.put(normal(1))), CALLS[name]
    arrays = good_arrays(name, k, device)
    call.run(k, *map(device.put, arrays.values()))
    faults, tried = [], 0
    for argument, array in arrays.items():
        for change, changed in changes(array).items():
            values = arrays | {argument: changed}
            expected = TypeError if change in ("other kind", "float64") else ValueError
            fits = change in call.fits.get(argument, ())
            if fits and change == "float64" and device.name != "cpu":
                continue  # the CUDA kernels take float32 alone, as launch.py says
            tried += 1
            try:
                call.run(k, *[device.put(a.copy()) for a in values.values()])
                fault = None if fits else "accepted"
            except (TypeError, ValueError, IndexError) as error:
                message, shown = str(error), changed.dtype if expected is TypeError else changed.shape
                good = type(error) is expected and str(shown) in message and "\n" not in message and not fits
                fault = None if good else repr(error)
            if fault:
                faults.append(f"{argument}, {change}, {changed.dtype} {changed.shape}: {fault}")
    assert tried
    assert not faults, "\n".join(faults)


def zeros(device, *shape, dtype=np.float32):
    return device.put(np.zeros(shape, dtype))


MESSAGES = {
    "linear": (
        lambda k, z: k.linear_forward(z(4, 5), z(2, 3), None),
        "linear: weight has shape (2, 3): x of shape (4, 5) needs (5, outputs)",
    ),
    "huge x": (
        lambda k, z: k.linear_forward(z(4, 100_000), z(2, 3), None),
        "linear: weight has shape (2, 3): x of shape (4, 100000) needs (100000, outputs)",
    ),
    "bias of two axes": (
        lambda k, z: k.linear_forward(z(4, 5), z(5, 3), z(1, 3)),
        "linear: bias has shape (1, 3): weight of shape (5, 3) needs (3,)",
    ),
    "too many targets": (
        lambda k, z: k.linear_cross_entropy(z(2, 5), z(7, 5), z(3, dtype=np.int64), -1, True),
        "linear_cross_entropy: targets has shape (3,): x of shape (2, 5) needs (2,)",
    ),
    "float targets": (
        lambda k, z: k.cross_entropy_forward(z(2, 5), z(2), -1),
        "cross_entropy: targets has dtype float32: must be integers",
    ),
    "boolean ids": (
        lambda k, z: k.embedding_backward(z(2, 5), z(2, dtype=np.bool_), z(7, 5)),
        "embedding_backward: ids has dtype bool: must be integers",
    ),
    "embedding of three axes": (
        lambda k, z: k.embedding_backward(z(2, 5), z(2, dtype=np.int64), z(7, 5, 1)),
        "embedding_backward: gweight has shape (7, 5, 1): must be (rows, columns)",
    ),
    "softmax of no axes": (lambda k, z: k.softmax_forward(z()), "softmax: x has shape (): must be (..., columns)"),
    "causal softmax of one": (
        lambda k, z: k.softmax_forward(z(3), causal=True),
        "softmax: x has shape (3,): must be (..., rows, columns)",
    ),
    "three axes": (
        lambda k, z: k.attention_forward(z(2, 3, 4), 1.0),
        "attention: qkv has shape (2, 3, 4): must be (batch, time, 3, heads, head size), head size at least 1",
    ),
    "two parts": (
        lambda k, z: k.attention_forward(z(1, 2, 2, 1, 4), 1.0),
        "attention: qkv has shape (1, 2, 2, 1, 4): must be (batch, time, 3, heads, head size), head size at least 1",
    ),
    "no head size": (
        lambda k, z: k.attention_forward(z(1, 2, 3, 1, 0), 1.0),
        "attention: qkv has shape (1, 2, 3, 1, 0): must be (batch, time, 3, heads, head size), head size at least 1",
    ),
    "groups of different sizes": (
        lambda k, z: k.attention_forward(z(1, 2, 9, 4), 1.0, kv_heads=2),
        "attention: qkv has shape (1, 2, 9, 4): with 2 heads of keys, must be (batch, time, heads, head size), with a "
        "multiple of 2 besides those of keys and values, head size at least 1",
    ),
    "more to rotate than there is": (
        lambda k, z: k.rotary(z(1, 2, 3, 5), z(2, 2, 3), 3),
        "rotary: table has shape (2, 2, 3): x of shape (1, 2, 3, 5) needs (2, 2, 2)",
    ),
    "an odd size for two halves": (
        lambda k, z: k.swiglu_forward(z(2, 5)),
        "swiglu: x has shape (2, 5): its last axis must be even, for two halves",
    ),
    "too many to rotate": (
        lambda k, z: k.rotary(z(1, 2, 3, 4), z(2, 2, 2), 4),
        "rotary: count is 4: x of shape (1, 2, 3, 4) has 3 vectors",
    ),
    "layout to rotate in place": (
        lambda k, z: k.rotary(z(2, 1, 3, 4).swapaxes(0, 2), z(1, 2, 2), 2, in_place=True),
        "rotary: x must be C-contiguous to be changed in place",
    ),
    "dtypes": (
        lambda k, z: k.layer_norm_forward(z(2, 3), z(3, dtype=np.float64), None, 1e-5),
        "layer_norm: weight has dtype float64: must be float32, as x is",
    ),
    "grad_scale": (
        lambda k, z: k.adamw_update([z(2)], [z(2)], [z(2)], [z(2)], AdamWOptions(0.1, 0.9, 0.9, 1e-8, 0.0, 1, z(2))),
        "adamw_update: grad_scale has shape (2,): must be a number or an array of shape ()",
    ),
    "blocks": (
        lambda k, z: k.muon_update([z(4, 5)], [z(4, 5)], [z(4, 5)], [MUON]),
        "muon_update: param has shape (4, 5): must be a multiple of blocks (1, 2)",
    ),
    "momentum layout": (
        lambda k, z: k.muon_update([z(3, 2)], [z(3, 2)], [z(2, 3).T], [MUON]),
        "muon_update: param and momentum must be C-contiguous to be changed in place",
    ),
    "parameter layout": (
        lambda k, z: k.adamw_update([z(3, 2).T], [z(2, 3)], [z(2, 3)], [z(2, 3)], ADAMW),
        "adamw_update: param, m and v must be C-contiguous to be changed in place",
    ),
}


@pytest.mark.parametrize("mistake", MESSAGES)
def test_a_mistake_is_named_with_its_value_and_what_is_expected(device, mistake):
    call, message = MESSAGES[mistake]
    with pytest.raises((TypeError, ValueError)) as raised:
        call(tt.kernels_for(zeros(device, 1)), lambda *shape, dtype=np.float32: zeros(device, *shape, dtype=dtype))
    assert str(raised.value) == message


@pytest.mark.parametrize("ids", [[-8], [0, 7]])
def test_ids_out_of_range_are_refused_on_the_cpu(ids):
    with pytest.raises(IndexError, match=r"embedding_backward: ids from .* must lie in -7..6"):
        kernels.cpu.embedding_backward(normal(len(ids), 5), np.array(ids), normal(7, 5))


@pytest.mark.parametrize("target", [-2, 5])
def test_targets_out_of_range_are_refused_on_the_cpu(target):
    targets = np.array([0, target, -1])
    with pytest.raises(IndexError, match=r"cross_entropy: targets from .* must lie in 0..4"):
        kernels.cpu.cross_entropy_forward(normal(3, 5), targets, -1)
    with pytest.raises(IndexError, match=r"cross_entropy: targets from .* must lie in 0..4"):
        kernels.cpu.linear_cross_entropy(normal(3, 2), normal(5, 2), targets, -1, True)
