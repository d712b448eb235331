"""A module that passes for `cupy` in other people's tests: raw kernels run on the emulator, the rest in NumPy.

`cupy_like` has exactly what tinytensor uses, so that code that works there works on a GPU. This one is lenient: a name
that it does not know is NumPy's function of that name, on arrays that still do not mix with NumPy's by accident.
Next: plugin.py.
"""

import os
import types
from importlib.machinery import ModuleSpec

import numpy as np

from kernels.emulator import arrays, cuda_like, cupy_like, module
from kernels.emulator.errors import CompileError
from kernels.emulator.tool.elementwise import ElementwiseKernel
from kernels.emulator.tool.libraries import make_libraries
from kernels.emulator.tool.parameters import C_TYPES
from kernels.emulator.tool.reduction import ReductionKernel

KEYWORDS = ("translate_cucomplex", "jitify")


_most_shared = property(
    lambda self: self.kernel.max_dynamic_shared_size_bytes,
    lambda self, value: setattr(self.kernel, "max_dynamic_shared_size_bytes", value),
    doc="Bytes of dynamic shared memory a launch may use; set it to go beyond 48 KiB in all.",
)


class RawModule(module.RawModule):
    """`cupy.RawModule`, also from a file (`path`)."""

    def __init__(self, code=None, *, path=None, enable_cooperative_groups=False, **keywords):
        self.cooperative = enable_cooperative_groups
        if code is None:
            with open(path) as file:
                code = file.read()
            keywords["name"] = os.path.basename(path)
        keywords = {name: value for name, value in keywords.items() if name not in KEYWORDS}
        keywords["backend"] = "nvrtc"  # whatever compiler they ask for
        super().__init__(code, **keywords)

    def get_function(self, name):
        return Lenient(super().get_function(name))


class Lenient:
    """A kernel that takes addresses for arrays, and Python integers for 4-byte ones, as a GPU reads 4 bytes of them."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __call__(self, grid, block, args, *, shared_mem=0, **_):
        args = [self._cast(a, p) for a, (_, p, _) in zip(args, self.kernel.parameters, strict=False)] + list(
            args[len(self.kernel.parameters) :]
        )
        self.kernel(grid, block, tuple(args), shared_mem=shared_mem)

    @staticmethod
    def _cast(value, parameter):
        if value is None:
            return np.uint64(0)  # a null pointer
        if isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}, move it to the device with asarray first")
        if isinstance(value, cuda_like.MemoryPointer):
            return value.ptr
        if type(value) is int and parameter.kind == b"i":
            return np.int64(value).astype(f"i{parameter.size}")
        if type(value) is bool:
            return np.bool_(value)
        return np.float64(value) if type(value) is float else value

    max_dynamic_shared_size_bytes = _most_shared

    @property
    def attributes(self):
        return self.kernel.attributes


class RawKernel:
    """`cupy.RawKernel(code, name)`, compiled at its first launch."""

    def __init__(self, code, name, options=(), backend="nvrtc", *, enable_cooperative_groups=False, **_):
        self.code, self.name, self.options, self.backend = code, name, options, backend
        expressions = (name,) if "<" in name else None
        self._module = RawModule(
            code,
            options=options,
            name_expressions=expressions,
            enable_cooperative_groups=enable_cooperative_groups,
        )
        self._function = None

    @property
    def kernel(self):
        """The compiled function."""
        if self._function is None:
            self._function = self._module.get_function(self.name)
        return self._function

    def compile(self, log_stream=None):
        """Compiles now."""
        self.kernel  # noqa: B018

    def __call__(self, grid, block, args, *, shared_mem=0, **_):
        self.kernel(grid, block, args, shared_mem=shared_mem)

    max_dynamic_shared_size_bytes = _most_shared

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.kernel, name)


def fuse(*functions, kernel_name=None):
    """`cupy.fuse`, with or without a keyword: the function as it is."""
    return functions[0] if functions else fuse


def get_typename(dtype):
    """`cupy._core._scalar.get_typename`, which is private and yet what projects name their kernels' types with."""
    return C_TYPES[np.dtype(dtype).name]


class CUDARuntimeError(RuntimeError):
    """What CuPy raises where there is no device."""


class Stream(cuda_like.Stream):
    """One of several streams: all work has always finished, so that they need not wait for each other."""

    null: "Stream"

    def use(self):
        """Makes it the current stream, which makes no difference."""
        return self

    __enter__ = use

    def __exit__(self, *exception):
        pass

    def wait_event(self, event):
        """Nothing to wait for."""


def _cuda():
    """`cupy.cuda` and its `compiler`: cuda_like's names, and the exceptions that tests expect."""
    cuda, compiler = types.ModuleType("cupy.cuda"), types.ModuleType("cupy.cuda.compiler")
    compiler.CompileException = CompileError
    vars(cuda).update({name: value for name, value in vars(cuda_like).items() if not name.startswith("_")})
    cuda.compiler = compiler
    cuda.Stream, Stream.null = Stream, Stream(null=True)
    cuda.is_available = lambda: True
    cuda.runtime = types.SimpleNamespace(**vars(cuda_like.runtime), CUDARuntimeError=CUDARuntimeError)
    return {"cupy.cuda": cuda, "cupy.cuda.compiler": compiler}


def _core():
    """The packages in which `get_typename` lives."""
    core, scalar = types.ModuleType("cupy._core"), types.ModuleType("cupy._core._scalar")
    scalar.get_typename, core._scalar = get_typename, scalar
    return {"cupy._core": core, "cupy._core._scalar": scalar}


def missing(module, name):
    """The AttributeError for a name that is neither here nor, where that would do, in NumPy."""
    return AttributeError(f"the emulated CuPy has no {module}.{name}: docs/emulator.md says what it has")


def _refuse_others(stand_in):
    """Gives a module that error for the names that it lacks."""

    def __getattr__(name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise missing(stand_in.__name__, name)

    stand_in.__getattr__ = __getattr__


class Namespace(types.ModuleType):
    """A module: the names that it is given, then those of one of NumPy's, on arrays of the device."""

    def __init__(self, name, library, **names):
        super().__init__(name)
        vars(self).update(names)
        self._library = library

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if not hasattr(self._library, name):
            raise missing(self.__name__, name)
        found = getattr(self._library, name)
        if isinstance(found, types.ModuleType):
            return Namespace(f"{self.__name__}.{name}", found)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *args, **keywords: arrays.call(found, name, *args, **keywords)


def make_namespace():
    """{module name: module}, to be put into sys.modules."""
    cupy = Namespace("cupy", np, **{name: getattr(cupy_like, name) for name in cupy_like.__all__})
    cupy.__version__ = "14.0.0"
    cupy.RawModule, cupy.RawKernel = RawModule, RawKernel
    cupy.ElementwiseKernel, cupy.ReductionKernel = ElementwiseKernel, ReductionKernel
    modules = {"cupy": cupy, **make_libraries(), **_cuda(), **_core()}
    for name in ("testing", "random", "cublas", "cuda", "_core"):
        setattr(cupy, name, modules[f"cupy.{name}"])
    cupy.get_array_module = lambda *args: cupy if any(isinstance(a, arrays.ndarray) for a in args) else np
    cupy.fuse = fuse
    cupy.get_default_pinned_memory_pool = lambda: types.SimpleNamespace(
        free_all_blocks=lambda: None, n_free_blocks=lambda: 0
    )
    cupy.memoize = lambda *_, **__: lambda function: function
    cupy.is_available = lambda: True
    for name, stand_in in modules.items():
        stand_in.__spec__, stand_in.__path__ = ModuleSpec(name, None), []  # what importlib.util.find_spec asks for
        if not isinstance(stand_in, Namespace):
            _refuse_others(stand_in)
    return modules
