"""`cupy.ElementwiseKernel` on the emulator: a loop over elements around the user's expression.

Findings name the lines of the operation as "NAME.operation:1". Builds on parameters.py. Next: reduction.py.
"""

import math

from kernels.emulator.tool.parameters import Parameters, aliases, compile_kernel, elements, launch

THREADS, MAX_BLOCKS = 128, 65535
SOURCE = """#include <cupy/complex.cuh>
#include <cupy/carray.cuh>
{aliases}
{preamble}
extern "C" __global__ void {name}({parameters}, long long _n) {{
    struct {{ long long n; long long size() const {{ return n; }} }} _ind = {{_n}};
    const long long _stride = (long long)gridDim.x * blockDim.x;
    {loop_prep};
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < _n; i += _stride) {{
        {elements}
#line 1 "{name}.operation"
        {operation};
    }}
    {after_loop};
}}
"""


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
        no_return=False,
        return_tuple=False,
        *,
        loop_prep="",
        after_loop="",
        options=(),
        **_,
    ):
        self.parameters = Parameters(in_params, out_params)
        self.operation, self.name, self.preamble = operation, name, preamble
        self.loop_prep, self.after_loop, self.options = loop_prep, after_loop, tuple(options)
        self.no_return, self.return_tuple = no_return, return_tuple

    def __call__(self, *args, size=None, block_size=THREADS, stream=None):
        """Runs the kernel; returns its output, or a tuple of them if there are several."""
        inputs, outputs = self.parameters.take(args)
        types, shape = self.parameters.resolve(inputs, outputs), self.parameters.shape(inputs, outputs)
        if (shape is None) == (size is None):
            raise ValueError(f"kernel {self.name}: give `size` if all arrays are raw, and only then")
        shape = (size,) if shape is None else shape
        inputs = self.parameters.cast(inputs, types, shape)
        outputs = self.parameters.allocate(outputs, types, shape)
        if count := math.prod(shape):
            kernel = compile_kernel(self._source(types, inputs, outputs), self.name, self.options)
            launch(kernel, min(-(-count // block_size), MAX_BLOCKS), block_size, inputs, outputs, count)
        if self.no_return:
            return None
        return outputs[0] if len(outputs) == 1 and not self.return_tuple else tuple(outputs)

    def _source(self, types, inputs, outputs):
        named = elements(self.parameters.inputs, inputs, "i") + elements(self.parameters.outputs, outputs, "i")
        return SOURCE.format(
            preamble=self.preamble,
            aliases=aliases(types),
            name=self.name,
            parameters=self.parameters.declare(inputs, outputs),
            elements=named,
            operation=self.operation,
            loop_prep=self.loop_prep,
            after_loop=self.after_loop,
        )
