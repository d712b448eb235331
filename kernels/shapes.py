"""The checks of shapes and dtypes that `kernels.cpu` and `kernels.cuda` share.

Each primitive makes its check once per call, since nothing below it checks anything: a compiled loop or a CUDA kernel
given an array that is too short reads beyond its end. Only `shape` and `dtype` are looked at, never a value, so a check
copies nothing, does not synchronize the device and costs less than a microsecond.

A wrong shape raises ValueError and a wrong dtype TypeError, with a message that names the argument, its value and what
is expected. All floating-point arrays of one call have one dtype, but of 16 bits only what has an element for each of
the inputs': sums are float32 (`sum_dtype`), and the residual stream may be (`_expect_stream`). Functions are in the
order of the primitives' files.
"""

from __future__ import annotations

import numpy as np

from kernels.dtypes import is_floating, is_sixteen_bit, sum_dtype

FLOAT32 = np.dtype(np.float32)
MAX_GPU_HEAD_SIZE = 128  # of attention in `kernels.cuda`
# of weights that are packed for decoding, by NumPy's character for them
PACKED_DTYPES = {"f": "float32", "H": "uint16 (bfloat16)", "b": "int8"}


def check_softmax(x, causal: bool) -> None:
    """x (..., S), or with causal (..., R, S)."""
    _expect_floating("softmax", "x", x)
    _expect_axes("softmax", "x", x, ("rows", "columns") if causal else ("columns",))


def check_log_softmax(x) -> None:
    """x (..., S)."""
    _expect_floating("log_softmax", "x", x)
    _expect_axes("log_softmax", "x", x, ("columns",))


def check_softmax_backward(g, y, primitive: str = "softmax_backward") -> None:
    """g and y (..., S)."""
    _expect_floating(primitive, "y", y)
    _expect_axes(primitive, "y", y, ("columns",))
    _expect_like(primitive, "g", g, y.shape, "y", y)


def check_gelu(x) -> None:
    """x of any shape."""
    _expect_floating("gelu", "x", x)


def check_gelu_backward(g, x) -> None:
    """g of the shape of x."""
    _expect_floating("gelu_backward", "x", x)
    _expect_like("gelu_backward", "g", g, x.shape, "x", x)


def check_swiglu(x, primitive: str = "swiglu") -> None:
    """x (..., 2 F)."""
    _expect_floating(primitive, "x", x)
    _expect_axes(primitive, "x", x, ("columns",))
    if x.shape[-1] % 2:
        raise ValueError(f"{primitive}: x has shape {x.shape}: its last axis must be even, for two halves")


def check_swiglu_backward(g, x) -> None:
    """g (..., F), x (..., 2 F)."""
    check_swiglu(x, "swiglu_backward")
    _expect_like("swiglu_backward", "g", g, (*x.shape[:-1], x.shape[-1] // 2), "x", x)


def check_dropout(x) -> None:
    """x of any shape."""
    _expect_floating("dropout", "x", x)


def check_layer_norm(x, weight, bias) -> None:
    """x (..., C) of the residual stream, weight (C,), bias (C,) or None."""
    _expect_floating("layer_norm", "x", x)
    _expect_axes("layer_norm", "x", x, ("columns",))
    _expect_branch("layer_norm", "weight", weight, x.shape[-1:], "x", x)
    if bias is not None:
        _expect_like("layer_norm", "bias", bias, weight.shape, "weight", weight)


def check_add_layer_norm(x, added, added_bias, weight, bias) -> None:
    """As layer norm of x; added of its shape, added_bias (C,) or None."""
    where = "add_layer_norm"
    check_layer_norm(x, weight, bias)
    _expect_branch(where, "added", added, x.shape, "x", x)
    _expect_dtype(where, "added", added, "weight", weight)
    if added_bias is not None:
        _expect_like(where, "added_bias", added_bias, weight.shape, "weight", weight)


def check_layer_norm_backward(g, weight, saved, *saved_per_row, added=None) -> None:
    """g (..., C), weight (C,), saved (..., C), saved_per_row (..., 1) each: what forward saved. added: like `saved`."""
    where = "layer_norm_backward"
    _expect_floating(where, "g", g)
    _expect_axes(where, "g", g, ("columns",))
    _expect_like(where, "weight", weight, g.shape[-1:], "g", g)
    _expect_stream(where, "a saved array", saved, g.shape, "g", g)
    for array in saved_per_row:
        _expect_sums(where, "a saved array", array, (*g.shape[:-1], 1), "g", g)
    if added is not None:
        _expect_like(where, "added", added, g.shape, "a saved array", saved)


def check_rms_norm(x, weight) -> None:
    """x (..., C) of the residual stream, weight (C,)."""
    _expect_floating("rms_norm", "x", x)
    _expect_axes("rms_norm", "x", x, ("columns",))
    _expect_branch("rms_norm", "weight", weight, x.shape[-1:], "x", x)


def check_rms_norm_backward(g, weight, x, rstd) -> None:
    """g (..., C), weight (C,), x (..., C) and rstd (..., 1) as forward saved them."""
    where = "rms_norm_backward"
    _expect_floating(where, "g", g)
    _expect_axes(where, "g", g, ("columns",))
    _expect_like(where, "weight", weight, g.shape[-1:], "g", g)
    _expect_stream(where, "a saved array", x, g.shape, "g", g)
    _expect_sums(where, "a saved array", rstd, (*g.shape[:-1], 1), "g", g)


def check_linear(x, weight, bias) -> None:
    """x (..., I), weight (I, O), bias (O,) or None."""
    _expect_product("linear", x, weight)
    if bias is not None:
        _expect_like("linear", "bias", bias, weight.shape[1:], "weight", weight)


def check_linear_backward(g, x, weight) -> None:
    """g (..., O), x (..., I), weight (I, O)."""
    where = "linear_backward"
    _expect_product(where, x, weight)
    shape = (*x.shape[:-1], weight.shape[1])
    if g.shape != shape:
        raise ValueError(
            f"{where}: g has shape {g.shape}: x of shape {x.shape} and weight of shape {weight.shape} need {shape}"
        )
    _expect_dtype(where, "g", g, "x", x)


def check_sum_rows(x, primitive: str = "sum_rows") -> None:
    """x (..., C)."""
    _expect_floating(primitive, "x", x)
    _expect_axes(primitive, "x", x, ("columns",))


def check_gelu_linear(x, x_bias, weight, bias) -> None:
    """As linear; x_bias (I,) or None."""
    check_linear(x, weight, bias)
    if x_bias is not None:
        _expect_like("gelu_linear", "x_bias", x_bias, x.shape[-1:], "x", x)


def check_gelu_linear_backward(g, x, x_bias, weight) -> None:
    """As linear's; x_bias (I,) or None."""
    check_linear_backward(g, x, weight)
    if x_bias is not None:
        _expect_like("gelu_linear_backward", "x_bias", x_bias, x.shape[-1:], "x", x)


def check_bias_add(x, added, bias) -> None:
    """x (..., C) of the residual stream, added (..., C), bias (C,)."""
    _expect_floating("bias_add", "x", x)
    _expect_axes("bias_add", "x", x, ("columns",))
    _expect_branch("bias_add", "added", added, x.shape, "x", x)
    _expect_like("bias_add", "bias", bias, x.shape[-1:], "added", added)


def check_packed_linear(x, weight, bias) -> None:
    """x (..., I) float32, weight.values (O, I), weight.scale (O,) if the values are int8, bias (O,) or None."""
    where, (values, scale) = "packed_linear", weight
    _expect_floating(where, "x", x)
    _expect_axes(where, "x", x, ("inputs",))
    if values.ndim != 2 or values.shape[1] != x.shape[-1]:
        raise ValueError(_wrong_shape(where, "weight", values, "x", x, f"(outputs, {x.shape[-1]})"))
    if values.dtype.char not in PACKED_DTYPES:
        raise TypeError(f"{where}: weight has dtype {values.dtype}: must be {', '.join(PACKED_DTYPES.values())}")
    if (scale is None) == (values.dtype.char == "b"):
        raise ValueError(f"{where}: scale must be given for int8 values, and for no others")
    for name, array in (("scale", scale), ("bias", bias)):
        if array is not None:
            if array.shape != values.shape[:1]:
                raise ValueError(_wrong_shape(where, name, array, "weight", values, values.shape[:1]))
            _expect_dtype(where, name, array, "x", x)


def check_embedding_backward(g, ids, gweight) -> None:
    """g (..., C), integer ids (...), gweight (V, C)."""
    where = "embedding_backward"
    _expect_layout(where, "gweight", gweight, ("rows", "columns"))
    _expect_floating(where, "gweight", gweight)
    _expect_integers(where, "ids", ids)
    shape = (*ids.shape, gweight.shape[1])
    if g.shape != shape:
        raise ValueError(
            f"{where}: g has shape {g.shape}: ids of shape {ids.shape} and gweight of shape {gweight.shape}"
            f" need {shape}"
        )
    if gweight.dtype != sum_dtype(g):
        _expect_dtype(where, "g", g, "gweight", gweight)


def check_cross_entropy(logits, targets, primitive: str = "cross_entropy") -> None:
    """logits (N, V), integer targets (N,)."""
    _expect_floating(primitive, "logits", logits)
    _expect_layout(primitive, "logits", logits, ("rows", "classes"))
    _expect_targets(primitive, targets, "logits", logits)


def check_cross_entropy_backward(g, logits, targets, lse) -> None:
    """g (), logits (N, V), integer targets (N,), lse (N,)."""
    check_cross_entropy(logits, targets, "cross_entropy_backward")
    _expect_sums("cross_entropy_backward", "g", g, (), "logits", logits)
    _expect_sums("cross_entropy_backward", "lse", lse, logits.shape[:1], "logits", logits)


def check_linear_cross_entropy(x, weight, targets) -> None:
    """x (N, C), weight (V, C), integer targets (N,)."""
    where = "linear_cross_entropy"
    _expect_floating(where, "x", x)
    _expect_layout(where, "x", x, ("rows", "columns"))
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise ValueError(_wrong_shape(where, "weight", weight, "x", x, f"(classes, {x.shape[1]})"))
    _expect_dtype(where, "weight", weight, "x", x)
    _expect_targets(where, targets, "x", x)


def check_attention(qkv, kv_heads: int | None, primitive: str = "attention") -> tuple[int, int, int, int, int]:
    """qkv (B, T, 3, H, D), or with kv_heads G (B, T, H + 2 G, D) and H a multiple of G; D at least 1: B, T, H, G, D."""
    _expect_floating(primitive, "qkv", qkv)
    if kv_heads is None:
        if qkv.ndim != 5 or qkv.shape[2] != 3 or qkv.shape[4] < 1:
            raise ValueError(
                f"{primitive}: qkv has shape {qkv.shape}: must be (batch, time, 3, heads, head size), head size at "
                "least 1"
            )
        batch, time, _, heads, size = qkv.shape
        return batch, time, heads, heads, size
    heads = qkv.shape[2] - 2 * kv_heads if qkv.ndim == 4 else 0
    if kv_heads < 1 or heads < 1 or heads % kv_heads or qkv.shape[3] < 1:
        raise ValueError(
            f"{primitive}: qkv has shape {qkv.shape}: with {kv_heads} heads of keys, must be (batch, time, heads, head "
            f"size), with a multiple of {kv_heads} besides those of keys and values, head size at least 1"
        )
    batch, time, _, size = qkv.shape
    return batch, time, heads, kv_heads, size


def check_attention_backward(g, qkv, y, lse, kv_heads: int | None) -> tuple[int, int, int, int, int]:
    """g and y (B, T, H, D), qkv as in `check_attention`, lse (B, H, T): B, T, H, G, D."""
    where = "attention_backward"
    batch, time, heads, groups, size = check_attention(qkv, kv_heads, where)
    _expect_like(where, "g", g, (batch, time, heads, size), "qkv", qkv)
    _expect_like(where, "y", y, (batch, time, heads, size), "qkv", qkv)
    _expect_sums(where, "lse", lse, (batch, heads, time), "qkv", qkv)
    return batch, time, heads, groups, size


def check_cached_attention(q, keys, values, ends) -> None:
    """q (B, T, H, D), keys and values (B, G, S, D), H a multiple of G; ends (B,) integers, from T to S."""
    where = "cached_attention"
    _expect_floating(where, "q", q)
    _expect_layout(where, "q", q, ("batch", "time", "heads", "size"))
    _expect_layout(where, "keys", keys, ("batch", "heads", "positions", "size"))
    batch, time, heads, size = q.shape
    _, groups, capacity, _ = keys.shape
    if (keys.shape[0], keys.shape[3]) != (batch, size) or not groups or heads % groups or not size:
        needed = f"({batch}, a divisor of {heads}, positions, {size}), none of them 0"
        raise ValueError(_wrong_shape(where, "keys", keys, "q", q, needed))
    _expect_dtype(where, "keys", keys, "q", q)
    _expect_like(where, "values", values, keys.shape, "keys", keys)
    _expect_integers(where, "ends", ends)
    if ends.shape != (batch,):
        raise ValueError(_wrong_shape(where, "ends", ends, "q", q, (batch,)))
    if not time or any(not time <= end <= capacity for end in ends.tolist()):
        raise ValueError(
            f"{where}: ends are {ends.tolist()}: must be at least {time}, the queries, and at most {capacity}"
        )


def check_rotary(x, table, count: int, in_place: bool) -> None:
    """x (B, T, N, D), contiguous if it is to be changed; table (T, 2, R/2), R at most D; count at most N."""
    _expect_floating("rotary", "x", x)
    _expect_layout("rotary", "x", x, ("batch", "time", "vectors", "size"))
    half = table.shape[-1] if table.ndim == 3 and 2 * table.shape[-1] <= x.shape[3] else x.shape[3] // 2
    _expect_sums("rotary", "table", table, (x.shape[1], 2, half), "x", x)
    if not 0 <= count <= x.shape[2]:
        raise ValueError(f"rotary: count is {count}: x of shape {x.shape} has {x.shape[2]} vectors")
    if in_place and not x.flags.c_contiguous:
        raise ValueError("rotary: x must be C-contiguous to be changed in place")


def check_adamw(params, grads, ms, vs, grad_scale) -> None:
    """Lists of equal length: param, grad, m, v of one shape, all but grad contiguous; grad_scale a number or ()."""
    where = "adamw_update"
    right = _are_like(params, grads, ms, vs) and _are_changeable(*params, *ms, *vs)
    for param, grad, m, v in () if right else zip(params, grads, ms, vs, strict=True):
        _expect_floating(where, "param", param)
        _expect_like(where, "grad", grad, param.shape, "param", param)
        _expect_like(where, "m", m, param.shape, "param", param)
        _expect_like(where, "v", v, param.shape, "param", param)
        _expect_changeable(where, param=param, m=m, v=v)
    _expect_scale(where, grad_scale)


def check_gradient_norm(gradients, chunk: int, divisor: int) -> None:
    """At least one array, all of one dtype of floats; chunk a multiple of the divisor."""
    where = "gradient_norm"
    if not gradients:
        raise ValueError(f"{where}: there are no gradients: must be at least one")
    _expect_floating(where, "a gradient", gradients[0])
    if len({gradient.dtype for gradient in gradients}) > 1:
        for gradient in gradients:
            _expect_dtype(where, "a gradient", gradient, "another", gradients[0])
    if chunk < 1 or chunk % divisor:
        raise ValueError(f"{where}: chunk is {chunk}: must be a multiple of {divisor}")


def check_round_tensors(tensors, copies) -> None:
    """Lists of equal length: float32 tensors, and copies of their shapes, all of one dtype of 16 bits; contiguous."""
    where = "round_tensors"
    dtypes = {x.dtype for x in tensors}, {x.dtype for x in copies}
    right = [x.shape for x in tensors] == [x.shape for x in copies] and _are_changeable(*tensors, *copies)
    right = right and dtypes[0] == {FLOAT32} and len(dtypes[1]) == 1 and is_sixteen_bit(*dtypes[1])
    for tensor, copy in () if right else zip(tensors, copies, strict=True):
        if copy.shape != tensor.shape:
            raise ValueError(_wrong_shape(where, "a copy", copy, "a tensor", tensor, tensor.shape))
        if tensor.dtype != FLOAT32 or not is_sixteen_bit(copy.dtype) or copy.dtype != copies[0].dtype:
            raise TypeError(
                f"{where}: a tensor has dtype {tensor.dtype} and its copy {copy.dtype}: must be float32 and float16 or "
                "bfloat16, the copies all the same"
            )
        _expect_changeable(where, tensor=tensor, copy=copy)


def check_muon(params, grads, momenta, options) -> None:
    """Lists of equal length: matrices (R, C) with gradients and momenta like them, params and momenta contiguous."""
    where = "muon_update"
    for param, grad, momentum, o in zip(params, grads, momenta, options, strict=True):
        _expect_floating(where, "param", param)
        _expect_layout(where, "param", param, ("rows", "columns"))
        _expect_like(where, "grad", grad, param.shape, "param", param)
        _expect_like(where, "momentum", momentum, param.shape, "param", param)
        _expect_changeable(where, param=param, momentum=momentum)
        if param.shape[0] % o.blocks[0] or param.shape[1] % o.blocks[1]:
            raise ValueError(f"{where}: param has shape {param.shape}: must be a multiple of blocks {o.blocks}")
        _expect_scale(where, o.grad_scale)


# Optimizers have hundreds of small arrays. First they are looked at together, in a fraction of the time that a check of
# each takes; only if something is wrong are they gone through for the sentence that says what.


def _are_like(first, *others) -> bool:
    """Whether each of the lists has arrays of floats of the same shapes and dtypes as the first."""
    kinds = [(x.shape, x.dtype) for x in first]
    return all([(x.shape, x.dtype) for x in arrays] == kinds for arrays in others) and all(
        is_floating(dtype) for dtype in {dtype for _, dtype in kinds}
    )


def _are_changeable(*arrays) -> bool:
    return all(x.flags.c_contiguous for x in arrays)


def _expect_changeable(where: str, **arrays) -> None:
    if not all(x.flags.c_contiguous for x in arrays.values()):
        *names, last = arrays
        raise ValueError(f"{where}: {', '.join(names)} and {last} must be C-contiguous to be changed in place")


def _expect_scale(where: str, grad_scale) -> None:
    if getattr(grad_scale, "shape", ()) != ():
        raise ValueError(f"{where}: grad_scale has shape {grad_scale.shape}: must be a number or an array of shape ()")


def _expect_floating(where: str, name: str, x) -> None:
    if not is_floating(x.dtype):
        raise TypeError(f"{where}: {name} has dtype {x.dtype}: must be floating-point")


def _expect_integers(where: str, name: str, x) -> None:
    if x.dtype.kind not in "iu":
        raise TypeError(f"{where}: {name} has dtype {x.dtype}: must be integers")


def _expect_axes(where: str, name: str, x, last: tuple[str, ...]) -> None:
    if x.ndim < len(last):
        raise ValueError(f"{where}: {name} has shape {x.shape}: must be (..., {', '.join(last)})")


def _expect_layout(where: str, name: str, x, axes: tuple[str, ...]) -> None:
    if x.ndim != len(axes):
        raise ValueError(f"{where}: {name} has shape {x.shape}: must be ({', '.join(axes)})")


def _expect_dtype(where: str, name: str, x, other_name: str, other) -> None:
    if x.dtype != other.dtype:
        raise TypeError(f"{where}: {name} has dtype {x.dtype}: must be {other.dtype}, as {other_name} is")


def _expect_like(where: str, name: str, x, shape: tuple[int, ...], other_name: str, other) -> None:
    """x has this shape, which follows from the shape of another argument, and that argument's dtype."""
    if x.shape != shape:
        raise ValueError(_wrong_shape(where, name, x, other_name, other, shape))
    if x.dtype != other.dtype:
        _expect_dtype(where, name, x, other_name, other)


def _expect_stream(where: str, name: str, x, shape: tuple[int, ...], other_name: str, other) -> None:
    """x, of the residual stream, has this shape and the dtype of the other, or float32 where that has 16 bits."""
    if x.shape != shape or not _is_stream_of(x, other):
        _expect_like(where, name, x, shape, other_name, other)


def _expect_branch(where: str, name: str, x, shape: tuple[int, ...], stream_name: str, stream) -> None:
    """x has this shape and the dtype of the residual stream, or 16 bits where that has float32."""
    if x.shape != shape or not _is_stream_of(stream, x):
        _expect_like(where, name, x, shape, stream_name, stream)


def _is_stream_of(stream, x) -> bool:
    return stream.dtype == x.dtype or (stream.dtype.name == "float32" and is_sixteen_bit(x.dtype))


def _expect_sums(where: str, name: str, x, shape: tuple[int, ...], other_name: str, other) -> None:
    """x has this shape and `sum_dtype(other)`."""
    if x.shape != shape:
        raise ValueError(_wrong_shape(where, name, x, other_name, other, shape))
    if x.dtype != sum_dtype(other):
        raise TypeError(f"{where}: {name} has dtype {x.dtype}: must be {sum_dtype(other)}, as {other_name} needs")


def _expect_product(where: str, x, weight) -> None:
    """x (..., I), weight (I, O)."""
    _expect_floating(where, "x", x)
    _expect_axes(where, "x", x, ("inputs",))
    if weight.ndim != 2 or weight.shape[0] != x.shape[-1]:
        raise ValueError(_wrong_shape(where, "weight", weight, "x", x, f"({x.shape[-1]}, outputs)"))
    _expect_dtype(where, "weight", weight, "x", x)


def _expect_targets(where: str, targets, rows_name: str, rows) -> None:
    """Integer targets (N,) for rows (N, ...)."""
    _expect_integers(where, "targets", targets)
    if targets.shape != rows.shape[:1]:
        raise ValueError(_wrong_shape(where, "targets", targets, rows_name, rows, rows.shape[:1]))


def _wrong_shape(where: str, name: str, x, other_name: str, other, needed) -> str:
    return f"{where}: {name} has shape {x.shape}: {other_name} of shape {other.shape} needs {needed}"
