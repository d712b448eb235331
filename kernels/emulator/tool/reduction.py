"""`cupy.ReductionKernel` on the emulator: a block of threads for each result, which meet in shared memory.

Builds on parameters.py. Next: namespace.py.
"""

import math

from numpy.lib.array_utils import normalize_axis_tuple

from kernels.emulator.arrays import ndarray
from kernels.emulator.tool.parameters import C_TYPES, Parameters, aliases, compile_kernel, elements, launch

THREADS = 64  # a power of two
SOURCE = """#include <cupy/complex.cuh>
#include <cupy/carray.cuh>
{aliases}
{preamble}
#define REDUCE(a, b) ({reduce_expr})
#define POST_MAP(a) {post_map_expr}
typedef {reduce_type} type_reduce;
extern "C" __global__ void {name}({parameters}, long long _n) {{
    __shared__ __align__(16) char _raw[{threads} * sizeof(type_reduce)];  // the type may have a constructor
    type_reduce *_sdata = reinterpret_cast<type_reduce *>(_raw);
    const long long _i = blockIdx.x;
    type_reduce _s = type_reduce({identity});
    for (long long _J = threadIdx.x; _J < _n; _J += {threads}) {{
        const long long _j = _J * gridDim.x + _i, _at = _i * _n + _J;
        {inputs}
#line 1 "{name}.map_expr"
        type_reduce _a = static_cast<type_reduce>({map_expr});
#line 1 "{name}.reduce_expr"
        _s = REDUCE(_s, _a);
    }}
    _sdata[threadIdx.x] = _s;
    for (unsigned _half = {threads} / 2; _half; _half /= 2) {{
        __syncthreads();
        if (threadIdx.x < _half) _sdata[threadIdx.x] = REDUCE(_sdata[threadIdx.x], _sdata[threadIdx.x + _half]);
    }}
    if (threadIdx.x) return;
    {outputs}
#line 1 "{name}.post_map_expr"
    POST_MAP(_sdata[0]);
}}
"""


class ReductionKernel:
    """`cupy.ReductionKernel(in_params, out_params, map_expr, reduce_expr, post_map_expr, identity)`."""

    def __init__(
        self,
        in_params,
        out_params,
        map_expr,
        reduce_expr,
        post_map_expr,
        identity,
        name="reduce_kernel",
        reduce_type=None,
        reduce_dims=True,
        preamble="",
        options=(),
    ):
        self.parameters = Parameters(in_params, out_params)
        self.map_expr, self.reduce_expr, self.post_map_expr = map_expr, reduce_expr, post_map_expr
        self.identity = "" if identity is None else identity
        self.name, self.reduce_type = name, reduce_type
        self.preamble, self.options = preamble, tuple(options)

    def __call__(self, *args, out=None, axis=None, keepdims=False, stream=None):
        """Runs the kernel; returns its output, or a tuple of them if there are several."""
        inputs, outputs = self.parameters.take(args if out is None else (*args, out))
        types, shape = self.parameters.resolve(inputs, outputs), self.parameters.shape(inputs)
        axes = range(len(shape)) if axis is None else normalize_axis_tuple(axis, len(shape))
        kept = [a for a in range(len(shape)) if a not in axes]
        inputs = [
            x.transpose(*kept, *axes) if isinstance(x, ndarray) and not p.raw else x
            for p, x in zip(self.parameters.inputs, self.parameters.cast(inputs, types, shape), strict=True)
        ]
        reduced = [1 if a in axes else n for a, n in enumerate(shape) if keepdims or a in kept]
        outputs = self.parameters.allocate(outputs, types, tuple(reduced))
        if self.identity == "" and not math.prod(shape):
            raise ValueError(f"zero-size array to reduction operation {self.name}, which has no identity")
        if blocks := math.prod(reduced):
            kernel = compile_kernel(self._source(types, inputs, outputs), self.name, self.options)
            launch(kernel, blocks, THREADS, inputs, outputs, math.prod(shape[a] for a in axes))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _source(self, types, inputs, outputs):
        first = C_TYPES[types[self.parameters.outputs[0].type].name]
        return SOURCE.format(
            preamble=self.preamble,
            aliases=aliases(types),
            reduce_expr=self.reduce_expr,
            post_map_expr=self.post_map_expr,
            reduce_type=self.reduce_type or first,
            name=self.name,
            parameters=self.parameters.declare(inputs, outputs),
            threads=THREADS,
            identity=self.identity,
            inputs=elements(self.parameters.inputs, inputs, "_at"),
            map_expr=self.map_expr,
            outputs=elements(self.parameters.outputs, outputs, "_i"),
        )
