"""Parameter lists of CuPy's kernels from expressions, such as "T x, raw float32 y", and the arguments of a call.

Types are NumPy's names, or a letter that stands for the dtype of the arrays that are declared with it. A `raw`
parameter is a CArray that the expression indexes itself; all others are broadcast and come element by element.
Next: elementwise.py, reduction.py.
"""

import functools

import numpy as np

from kernels.emulator import cupy_like
from kernels.emulator.arrays import ndarray
from kernels.emulator.module import RawModule

C_TYPES = {
    "bool": "bool",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned",
    "uint64": "unsigned long long",
    "float16": "__half",
    "float32": "float",
    "float64": "double",
    "complex64": "complex<float>",
    "complex128": "complex<double>",
}


class Parameter:
    """One parameter: `dtype` is None if its type is a letter."""

    def __init__(self, text, is_input):
        *qualifiers, self.type, self.name = text.split()
        self.raw, self.const = "raw" in qualifiers, "const " if is_input else ""
        self.dtype = np.dtype(self.type) if len(self.type) > 1 else None

    def declare(self, value):
        """The kernel's parameter for an argument."""
        kind = C_TYPES[value.dtype.name]
        if not isinstance(value, ndarray):
            return f"{kind} {self.name}"
        if self.raw:
            return f"{self.const}CArray<{kind}, {value.ndim}> {self.name}"
        return f"{self.const}{kind} *_{self.name}"

    def element(self, value, index):
        """The declaration that names the element at `index`; none for numbers and raw arrays."""
        if self.raw or not isinstance(value, ndarray):
            return ""
        return f"{self.const}{C_TYPES[value.dtype.name]} &{self.name} = _{self.name}[{index}]; "


class Parameters:
    """The inputs and the outputs of a kernel."""

    def __init__(self, inputs, outputs):
        self.inputs = [Parameter(text, True) for text in inputs.split(",") if text.strip()]
        self.outputs = [Parameter(text, False) for text in outputs.split(",") if text.strip()]

    def take(self, args):
        """(inputs, outputs) of a call; numbers become NumPy's.

        TypeError for NumPy's arrays, and if the number of arguments is wrong.
        """
        inputs, both = len(self.inputs), len(self.inputs + self.outputs)
        if len(args) not in (inputs, both):
            raise TypeError(f"the kernel takes {inputs} inputs, or {both} arguments with its outputs, not {len(args)}")
        for value in args:
            if isinstance(value, np.ndarray):
                raise TypeError(f"Unsupported type {type(value)}, move it to the device with asarray first")
        values = [a if isinstance(a, ndarray) else np.asarray(a)[()] for a in args]
        return values[:inputs], values[inputs:]

    def resolve(self, inputs, outputs):
        """{declared type: dtype}. As in CuPy, letters are what the arrays say, which must agree: else TypeError."""
        types = {p.type: p.dtype for p in self.inputs + self.outputs if p.dtype}
        for parameter, value in [*zip(self.outputs, outputs), *zip(self.inputs, inputs)]:  # noqa: B905
            if isinstance(value, ndarray) and types.setdefault(parameter.type, value.dtype) != value.dtype:
                declared = f"{parameter.type} {parameter.name}"
                raise TypeError(f"Type is mismatched: {declared} is {types[parameter.type]}, the array {value.dtype}")
        for parameter in self.inputs + self.outputs:
            if parameter.type not in types:
                raise TypeError(f"{parameter.type} {parameter.name}: no array has this type, so its dtype is unknown")
        return types

    def shape(self, inputs, outputs=()):
        """The shape of the arrays that come element by element, broadcast; None if there are none."""
        pairs = [*zip(self.inputs, inputs), *zip(self.outputs, outputs)]  # noqa: B905
        shapes = [value.shape for parameter, value in pairs if isinstance(value, ndarray) and not parameter.raw]
        return np.broadcast_shapes(*shapes) if shapes else None

    def cast(self, inputs, types, shape):
        """The inputs: numbers of the dtype that was resolved, arrays broadcast to `shape` unless they are raw."""
        cast = []
        for parameter, value in zip(self.inputs, inputs, strict=True):
            if not isinstance(value, ndarray):
                value = types[parameter.type].type(value)
            elif not parameter.raw:
                value = cupy_like.broadcast_to(value, shape)
            cast.append(value)
        return cast

    def allocate(self, outputs, types, shape):
        """The outputs: those that the call gives, which must have this shape, or new ones."""
        for parameter, value in zip(self.outputs, outputs, strict=False):
            if not parameter.raw and value.shape != shape:
                raise ValueError(f"Out shape is mismatched: {parameter.name} has {value.shape}, the result {shape}")
        return list(outputs) or [cupy_like.empty(shape, types[parameter.type]) for parameter in self.outputs]

    def declare(self, inputs, outputs):
        """The parameter list of the kernel."""
        return ", ".join(p.declare(v) for p, v in zip(self.inputs + self.outputs, inputs + outputs, strict=True))


def elements(parameters, values, index):
    """The declarations that name the elements at `index`."""
    return "".join(p.element(v, index) for p, v in zip(parameters, values, strict=True))


def aliases(types):
    """C++ declarations of the letters."""
    return "\n".join(f"using {name} = {C_TYPES[dtype.name]};" for name, dtype in types.items() if len(name) == 1)


@functools.cache
def compile_kernel(source, name, options):
    """The kernel `name` of a generated source."""
    return RawModule(source, options=options, name=f"{name}.cu").get_function(name)


def launch(kernel, grid, block, inputs, outputs, count):
    """Launches on contiguous arrays, and copies results to outputs that are not."""
    arguments = [cupy_like.ascontiguousarray(v) if isinstance(v, ndarray) else v for v in inputs + outputs]
    kernel((grid,), (block,), (*arguments, np.int64(count)))
    for output, result in zip(outputs, arguments[len(inputs) :], strict=True):
        if output is not result:
            output[...] = result
