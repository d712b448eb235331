"""What passes for CuPy's other modules in other people's tests: testing, random, cublas, and the package cupyx.

Each function is NumPy's on arrays of the emulated device, under CuPy's name. Next: namespace.py.
"""

import types

import numpy as np

from kernels.emulator import arrays

DRAWN = "rand randn random randint uniform normal standard_normal random_sample permutation choice"  # of cupy.random
SCATTERED = {"scatter_add": np.add, "scatter_max": np.maximum, "scatter_min": np.minimum}  # of cupyx
COMPARED = "allclose array_equal array_almost_equal equal almost_equal array_less"  # of cupy.testing
TRANSFORMS = "fft ifft fft2 ifft2 fftn ifftn"  # of cupyx.scipy.fft
REDUCED = {"asum": lambda x: np.abs(x).sum(), "dot": np.dot, "nrm2": np.linalg.norm}  # of cupy.cublas


def to_numpy(value):
    """NumPy's form of an argument of cupy.testing."""
    return value.get() if isinstance(value, arrays.ndarray) else value


def _module(name, functions):
    module = types.ModuleType(name)
    vars(module).update(functions)
    return module


def _comparison(name):
    check = getattr(np.testing, f"assert_{name}")
    return lambda actual, desired, *args, **keywords: check(to_numpy(actual), to_numpy(desired), *args, **keywords)


def _draw(function):
    def draw(*args, dtype=None, **keywords):
        values = np.asarray(function(*args, **keywords))
        return arrays.from_host(values if dtype is None else values.astype(dtype))

    return draw


class Generator:
    """One of NumPy's generators, whose draws are arrays of the device."""

    def __init__(self, generator):
        self._generator = generator

    def __getattr__(self, name):
        return _draw(getattr(self._generator, name))


def _scatter(name, ufunc):
    def scatter(a, slices, value):
        arrays.call(ufunc.at, name, a, slices, value)
        a._mark_written()

    return scatter


def _reduction(name, function):
    return lambda *vectors: arrays.call(function, name, *vectors)


def _transform(name):
    function = getattr(np.fft, name)

    def transform(x, *args, overwrite_x=False, plan=None, **keywords):
        result = arrays.call(function, name, x, *args, **keywords)
        if overwrite_x and (result.shape, result.dtype) == (x.shape, x.dtype):
            x[...] = result
            return x
        return result

    return transform


def make_libraries():
    """{module name: module}."""
    testing = {f"assert_{name}": _comparison(name) for name in COMPARED.split()}
    random = {name: _draw(getattr(np.random, name)) for name in DRAWN.split()} | {"seed": np.random.seed}
    random["default_rng"] = lambda seed=None: Generator(np.random.default_rng(seed))
    random["RandomState"] = lambda seed=None: Generator(np.random.RandomState(seed))
    cublas = {name: _reduction(name, function) for name, function in REDUCED.items()}
    cupyx = {name: _scatter(name, ufunc) for name, ufunc in SCATTERED.items()}
    fft = {name: _transform(name) for name in TRANSFORMS.split()} | {"get_fft_plan": lambda *_, **__: None}
    functions = {"cupy.testing": testing, "cupy.random": random, "cupy.cublas": cublas}
    functions |= {"cupyx": cupyx, "cupyx.scipy": {}, "cupyx.scipy.fft": fft}
    return {name: _module(name, members) for name, members in functions.items()}
