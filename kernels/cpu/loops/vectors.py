"""Vectors of LANES float32 as values in a loop, for what LLVM does not find by itself: prefetching as it goes.

A loop that LLVM is to vectorize can only read, compute and write. One that multiplies each number it reads with many
others is then slow to ask for the next: the processor sees too few loads ahead. So such a loop spells its vector
instructions out, with a prefetch among them.
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

_features = binding.get_host_cpu_features()
LANES = 16 if _features.get("avx512f") else 8 if _features.get("avx") else 4  # of a register
LINE = 16  # float32 in a line of the cache, which is what a processor fetches

_float, _int32, _bytes = ir.FloatType(), ir.IntType(32), ir.IntType(8).as_pointer()
_floats, _integers = ir.VectorType(_float, LANES), ir.VectorType(_int32, LANES)


class Vector(types.Type):
    """The type of a vector."""


vector = Vector("Vector")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """It is a vector of LLVM."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, _floats)


@intrinsic
def zeros(typing):
    """A vector of zeros."""
    return vector(), lambda context, builder, signature, arguments: _floats(None)


@intrinsic
def load(typing, array, i):
    """array[i : i + LANES] (n,) as float32: of float32; of int8; of uint16, the upper half of float32's bits."""

    def generate(context, builder, signature, arguments):
        kind = context.get_data_type(array.dtype)
        place = builder.bitcast(_address(context, builder, array, arguments), ir.VectorType(kind, LANES).as_pointer())
        values = builder.load(place, align=array.dtype.bitwidth // 8)
        if array.dtype == types.float32:
            return values
        if array.dtype == types.int8:
            return builder.sitofp(builder.sext(values, _integers), _floats)
        return builder.bitcast(builder.shl(builder.zext(values, _integers), _integers([16] * LANES)), _floats)

    return vector(array, types.int64), generate


@intrinsic
def prefetch(typing, array, i):
    """Have the processor fetch array[i], which may lie behind the end: then what follows in memory, if anything."""

    def generate(context, builder, signature, arguments):
        place = builder.bitcast(_address(context, builder, array, arguments), _bytes)
        kind = ir.FunctionType(ir.VoidType(), [_bytes, _int32, _int32, _int32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_bytes], kind)
        builder.call(function, [place, _int32(0), _int32(3), _int32(1)])  # to read, into the nearest cache, data
        return context.get_dummy_value()

    return types.none(array, types.int64), generate


@intrinsic
def multiply_add(typing, a, b, c):
    """a b + c, rounded once."""

    def generate(context, builder, signature, arguments):
        return builder.call(_intrinsic(builder, "llvm.fma", _floats, [_floats] * 3), arguments)

    return vector(vector, vector, vector), generate


@intrinsic
def total(typing, a):
    """The sum of a vector's numbers, in any order."""

    def generate(context, builder, signature, arguments):
        function = _intrinsic(builder, "llvm.vector.reduce.fadd", _float, [_float, _floats])
        return builder.call(function, [_float(-0.0), *arguments], fastmath=["reassoc"])

    return types.float32(vector), generate


def _address(context, builder, array, arguments):
    """Where the element arguments[1] of the contiguous array arguments[0] is."""
    return builder.gep(context.make_array(array)(context, builder, arguments[0]).data, [arguments[1]])


def _intrinsic(builder, name, result, arguments):
    """LLVM's function of that name for vectors of LANES float32."""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32")
