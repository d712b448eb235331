"""`cupy.ElementwiseKernel` on the emulator: parameter lists to the CUDA source of one kernel.

Types are NumPy's names or a letter that stands for whatever the argument has; `raw` parameters are pointers that the
operation indexes itself, all others are broadcast and read or written at index `i`. Next: namespace.py.
"""

import functools
import re
from typing import NamedTuple

import numpy as np

from kernels.emulator import cupy_like
from kernels.emulator.arrays import ndarray
from kernels.emulator.module import RawModule

C_TYPES = {"float16": "__half", "float32": "float", "float64": "double", "bool": "bool", "int8": "signed char"}
C_TYPES |= {
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
}
C_TYPES |= {"uint32": "unsigned", "uint64": "unsigned long long"}
THREADS = 128
SOURCE = """
{preamble}
{aliases}
extern "C" __global__ void {name}({parameters}) {{
    struct {{ long long n; long long size() const {{ return n; }} }} _ind = {{_n}};
    const long long _stride = (long long)gridDim.x * blockDim.x;
    {loop_prep};
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < _n; i += _stride) {{
        {loads}
        {operation};
    }}
    {after_loop};
}}
"""


class Declared(NamedTuple):
    """One parameter as the user declares it."""

    name: str
    type: str
    raw: bool


def _declared(text):
    parts = [part.split() for part in text.split(",") if part.strip()]
    return [Declared(words[-1], words[-2], "raw" in words[:-2]) for words in parts]


class ElementwiseKernel:
    """`cupy.ElementwiseKernel(in_params, out_params, operation, name)`."""

    def __init__(
        self,
        in_params,
        out_params,
        operation,
        name="kernel",
        reduce_dims=True,
        preamble="",
        loop_prep="",
        after_loop="",
        options=(),
        **_,
    ):
        self.inputs, self.outputs = _declared(in_params), _declared(out_params)
        self.operation, self.name, self.preamble = operation, name, preamble
        self.loop_prep, self.after_loop, self.options = loop_prep, after_loop, tuple(options)
        self._kernel = functools.cache(self._build)

    def __call__(self, *args, size=None, block_size=THREADS):
        """Runs the kernel; returns its output, or a tuple of them if there are several."""
        values = [a if isinstance(a, (ndarray, np.generic)) else np.asarray(a)[()] for a in args]
        types = self._types(values)
        given = values[len(self.inputs) :]
        shapes = [
            a.shape
            for p, a in zip(self.inputs + self.outputs, values, strict=False)
            if not p.raw and isinstance(a, ndarray)
        ]
        shape = np.broadcast_shapes(*shapes) if shapes else (size,)
        count = size if size is not None else int(np.prod(shape))
        outputs = given or [cupy_like.empty(shape, types[p.type]) for p in self.outputs]
        arguments = [self._argument(p, a, shape, types) for p, a in zip(self.inputs, values, strict=False)]
        written = [o if o.flags.c_contiguous else cupy_like.empty(o.shape, o.dtype) for o in outputs]
        arrays = tuple(isinstance(a, ndarray) for a in arguments)
        if count:
            kernel = self._kernel(tuple(sorted((k, v.name) for k, v in types.items())), arrays)
            grid = min(-(-count // block_size), 65535)
            kernel((grid,), (block_size,), (*arguments, *written, np.int64(count)))
        for output, result in zip(outputs, written, strict=True):
            if output is not result:
                output[...] = result
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _types(self, values):
        """{declared type: dtype}, letters resolved by the first argument that has one."""
        known = {}
        for parameter, value in zip(self.inputs + self.outputs, values, strict=False):
            if parameter.type not in C_TYPES and (parameter.type not in known or isinstance(value, ndarray)):
                known.setdefault(parameter.type, value.dtype)
        for parameter in self.inputs + self.outputs:
            if parameter.type not in known:
                known[parameter.type] = np.dtype(parameter.type)
        return known

    def _argument(self, parameter, value, shape, types):
        dtype = types[parameter.type]
        if not isinstance(value, ndarray):
            return dtype.type(value)
        value = value.astype(dtype, copy=False)
        if not parameter.raw and value.shape != shape:
            value = cupy_like.broadcast_to(value, shape)
        return cupy_like.ascontiguousarray(value)

    def _build(self, types, arrays):
        types = {name: C_TYPES[dtype] for name, dtype in types}
        parameters, loads = [], []
        for parameter, is_array in zip(self.inputs, arrays, strict=True):
            kind = types[parameter.type]
            pointer = parameter.name if parameter.raw else f"_in_{parameter.name}"
            parameters.append(f"const {kind} *{pointer}" if is_array else f"{kind} {parameter.name}")
            if is_array and not parameter.raw:
                loads.append(f"const {kind} {parameter.name} = {pointer}[i];")
        for parameter in self.outputs:
            kind = types[parameter.type]
            pointer = parameter.name if parameter.raw else f"_out_{parameter.name}"
            parameters.append(f"{kind} *{pointer}")
            if not parameter.raw:
                loads.append(f"{kind} &{parameter.name} = {pointer}[i];")
        name = re.sub(r"\W", "_", self.name)
        source = SOURCE.format(
            preamble=self.preamble,
            aliases="\n".join(f"using {letter} = {kind};" for letter, kind in types.items() if letter not in C_TYPES),
            name=name,
            parameters=", ".join([*parameters, "long long _n"]),
            loads=" ".join(loads),
            operation=self.operation,
            loop_prep=self.loop_prep,
            after_loop=self.after_loop,
        )
        return RawModule(source, options=self.options, name=f"{name}.cu").get_function(name)
