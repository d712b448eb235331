"""The emulated device is CuPy's subset: the same names, and the same refusals."""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import math
import operator
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kernels import emulator
from kernels.emulator import arrays, cuda_like
from kernels.emulator import cupy_like as xp
from kernels.emulator.arrays import HiddenSynchronization, no_synchronization
from kernels.namespace import named_dtype

ROOT = Path(__file__).parents[2]
OURS = ("host", "written")  # what an emulated array has beyond CuPy's


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy", reason="compares with CuPy, which imports without a GPU", exc_type=ImportError)


def device_array(*shape, dtype=np.float32):
    return xp.arange(math.prod(shape), dtype=dtype).reshape(shape).copy()


# ---- names: nothing here that CuPy does not have --------------------------------------------------------------------


def test_every_name_exists_in_cupy(cupy):
    assert [name for name in xp.__all__ if not hasattr(cupy, name)] == []
    assert [name for name in xp.__all__ if not hasattr(xp, name)] == []


def test_every_array_attribute_exists_in_cupy(cupy):
    names = [name for name in vars(xp.ndarray) if not name.startswith("_") and name not in OURS]
    assert [name for name in names if not hasattr(cupy.ndarray, name)] == []
    operators = [name for name in vars(xp.ndarray) if name.startswith("__") and name not in ("__weakref__", "__del__")]
    assert [name for name in operators if not hasattr(cupy.ndarray, name)] == []


def test_every_cuda_name_exists_in_cupy(cupy):
    for name in cuda_like.__all__:
        ours, theirs = getattr(cuda_like, name), getattr(cupy.cuda, name)
        assert [part for part in vars(ours) if not part.startswith("_") and not hasattr(theirs, part)] == []


@pytest.mark.parametrize("name", [*xp.FUNCTIONS, *xp.CREATION])
def test_functions_have_cupys_parameters(cupy, name):
    _agree(xp.FUNCTIONS.get(name) or xp.CREATION[name], inspect.signature(getattr(cupy, name)).parameters)


@pytest.mark.parametrize("name", ["array", "asarray", "ascontiguousarray", "asnumpy", "empty", "empty_like"])
def test_written_out_functions_have_cupys_parameters(cupy, name):
    ours = " ".join(inspect.signature(getattr(xp, name)).parameters)
    _agree(ours, inspect.signature(getattr(cupy, name)).parameters)


@pytest.mark.parametrize("name", arrays.METHODS)
def test_methods_have_cupys_parameters(cupy, name):
    # CuPy's methods are compiled: their first line of documentation is the signature
    signature = getattr(cupy.ndarray, name).__doc__.splitlines()[0]
    parameters = signature[signature.index("(") + 1 : signature.index(")")].split(", ")[1:]
    _agree(arrays.METHODS[name], [p.partition("=")[0].split()[-1] for p in parameters])


def _agree(ours, theirs):
    positional, keywords = arrays.parameters(ours)
    theirs = list(theirs)
    assert positional == theirs[: len(positional)]
    assert keywords <= set(theirs)


def test_every_name_used_in_the_source_is_here(cupy):
    used = {name for folder in ("tinytensor", "kernels/cuda", "gpt") for name in _names_used(ROOT / folder)}
    assert {"exp", "cuda.Device", "get_default_memory_pool"} <= used
    for name in used:
        assert name.split(".")[0] in xp.__all__
        operator.attrgetter(name)(xp)
        if not name.startswith("cuda.cublas"):  # CuPy's module for it loads only where cuBLAS is
            operator.attrgetter(name)(cupy)


def test_gemmEx_has_cupys_parameters(cupy):
    """CuPy's module loads only where cuBLAS is installed; its machine code has the signature as documentation."""
    (library,) = Path(importlib.import_module("cupy_backends.cuda.libs").__file__).parent.glob("cublas.*.so")
    signature = re.search(rb"\x00gemmEx\(([^)]*)\)\x00", library.read_bytes())[1].decode()
    ours = inspect.signature(cuda_like.cublas.gemmEx).parameters
    assert [parameter.split()[-1] for parameter in signature.split(", ")] == list(ours)


def _names_used(folder):
    """The NAME of each `xp.NAME`, `array_module(x).NAME` and `device_namespace(x).NAME`, dots included."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = []
            while isinstance(node, ast.Attribute):
                parts.insert(0, node.attr)
                node = node.value
            if "xp" in parts:  # self.xp.NAME
                parts = parts[parts.index("xp") + 1 :]
            elif not (_is_name(node, "xp") or _is_namespace_call(node)):
                continue
            if parts and not parts[0].startswith("__"):
                yield ".".join(parts)


def _is_namespace_call(node):
    functions = ("array_module", "device_namespace")
    return isinstance(node, ast.Call) and any(_is_name(node.func, name) for name in functions)


def _is_name(node, name):
    return isinstance(node, ast.Name) and node.id == name


def test_an_unknown_name_says_where_to_add_it():
    with pytest.raises(AttributeError, match="fft: not on the emulated device"):
        xp.fft  # noqa: B018


# ---- refusals -------------------------------------------------------------------------------------------------------

HOST = np.ones((2, 3), np.float32)
MIXTURES = {
    "device + numpy": lambda x: x + HOST,
    "numpy + device": lambda x: HOST + x,
    "numpy @ device": lambda x: HOST @ x.T,
    "numpy += device": lambda x: operator.iadd(HOST.copy(), x),
    "device += numpy": lambda x: operator.iadd(x, HOST),
    "comparison": lambda x: x == HOST,
    "numpy's ufunc": lambda x: np.add(HOST, x),
    "numpy's function": np.sum,
    "numpy's concatenate": lambda x: np.concatenate([HOST, x]),
    "ufunc": lambda x: xp.maximum(x, HOST),
    "out of numpy": lambda x: xp.add(x, x, out=HOST),
    "function": lambda x: xp.where(x > 0, x, HOST),
    "only numpy": lambda x: xp.sum(HOST),
    "list of numpy": lambda x: xp.concatenate([x, HOST]),
    "list": lambda x: xp.add(x, [1, 2, 3]),
    "none": lambda x: x == None,  # noqa: E711
    "only numbers": lambda x: xp.sum([1.0, 2.0]),
    "method": lambda x: x.sum(out=np.zeros((), np.float32)),
    "implicit conversion": np.asarray,
    "implicit copy": np.array,
    "reduction's where": lambda x: x.sum(where=True),
    "ufunc's where": lambda x: xp.add(x, x, where=True),
    "too many by position": lambda x: x.max(0, None, False, 0.0),
    "hash": hash,
}


@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES)
def test_what_cupy_refuses_raises_type_error(mix):
    with pytest.raises(TypeError):
        mix(device_array(2, 3))


def test_a_numpy_array_comes_only_by_set():
    x = device_array(2, 3)
    x.set(HOST)
    assert (x.get() == 1).all()
    for index, value in ((slice(None), HOST), (0, HOST[0])):
        with pytest.raises(ValueError, match="cannot be used for fill"):
            x[index] = value
    with pytest.raises(ValueError, match="cannot set"):
        x.set(HOST.astype(np.float64))


def test_an_index_out_of_bounds_raises():
    # stricter than CuPy, which would wrap it round and train on
    with pytest.raises(IndexError):
        device_array(5)[xp.array([7])]


# ---- results --------------------------------------------------------------------------------------------------------


def test_results_are_arrays_and_never_numbers():
    x = device_array(2, 3)
    for y in (
        x.sum(),
        x.max(),
        x[0, 0],
        xp.dot(x[0], x[0]),
        x[0] @ x[1],
        xp.sqrt(2.0),
        -x.sum(),
        x.sum() * 2,
        x.argmax(),
    ):
        assert isinstance(y, xp.ndarray)
        assert y.shape == ()


def test_numbers_mix_and_keep_the_dtype():
    x = device_array(3)
    for y in (x * 2, 2.0 * x, x * np.float32(2), np.float32(2) * x, x**2, 2 / (x + 1), 1 - x):
        assert isinstance(y, xp.ndarray)
        assert y.dtype == np.float32


@given(
    values=npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=4), elements=st.floats(-4, 4, width=32)),
    name=st.sampled_from(sorted(arrays.UFUNCS - {"matmul"})),
)
def test_ufuncs_are_numpys(values, name):
    ufunc = getattr(np, name)
    values = values.astype(np.int32) if not any(t.startswith("f") for t in ufunc.types) else values
    inputs = (values, values[::-1])[: ufunc.nin]
    with np.errstate(all="ignore"):
        expected = ufunc(*inputs)
    result = getattr(xp, name)(*(xp.array(x) for x in inputs))
    np.testing.assert_array_equal(result.get(), expected)
    assert result.dtype == expected.dtype


def test_fresh_results_are_in_c_order():
    x = device_array(3, 4).T
    assert not x.flags.c_contiguous
    assert (x.flags["C_CONTIGUOUS"], x.flags["F_CONTIGUOUS"], x.flags["OWNDATA"]) == (False, True, False)
    for y in (x + 1, xp.exp(x), x.sum(axis=0), x[xp.array([1, 2])], x.reshape(-1), xp.where(x > 0, x, 0), x.copy()):
        assert y.flags.c_contiguous
    for y in (xp.zeros_like(x), xp.empty_like(x), x.astype(np.float64)):
        assert y.flags.f_contiguous


def test_the_bounds_of_a_slice_may_be_arrays():
    """Other places for integers may not: CuPy's arrays have no __index__."""
    x, two = device_array(4, 6), xp.array(2)
    assert x[two:, 1 : two + 3 : two].get().tolist() == x.get()[2:, 1:5:2].tolist()
    x[:two] = 0
    assert not x.get()[:2].any()
    with pytest.raises(TypeError):
        range(two)
    with no_synchronization(), pytest.raises(HiddenSynchronization):
        x[:two]


def test_views_name_their_owner():
    x = device_array(4, 6)
    for view in (
        x[1],
        x[:, 2:4],
        x.T,
        x.reshape(-1),
        x.swapaxes(0, 1),
        x[1:][0].T,
        x[None],
        x[0, 0],
        xp.broadcast_to(x, (2, 4, 6)),
    ):
        assert view.base is x
    for copy in (x + 1, x.copy(), x[xp.array([0])], x.T.reshape(-1), x.astype(np.float32)):
        assert copy.base is None
    x[1][...] = -1
    assert (x.get()[1] == -1).all()
    assert x.astype(np.float32, copy=False) is x
    assert x.squeeze() is x
    assert x[0].T.shape == (6,)
    assert xp.asarray(x) is x
    assert xp.ascontiguousarray(x) is x


def test_in_place_operators_keep_the_array():
    x = before = device_array(3)
    x += 1
    x *= x
    assert x is before
    assert xp.exp(x, out=x) is before


def test_boolean_indices_select():
    x = device_array(6)
    assert x[x > 3].tolist() == [4, 5]
    x[x > 3] = 0
    assert x.tolist() == [0, 1, 2, 3, 0, 0]


def test_moves_to_the_host_and_back():
    x = device_array(2, 3)
    assert isinstance(x.get(), np.ndarray)
    assert not np.shares_memory(x.get(), x.host)
    assert xp.asnumpy(x).tolist() == x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert float(x[0, 1]) == x[0, 1].item() == 1
    assert pickle.loads(pickle.dumps(x)).tolist() == x.tolist()
    assert f"{x[0, 1]:.2f}" == "1.00"
    out = np.empty((2, 3), np.float32)
    assert x.get(out=out) is out
    assert out.tolist() == x.tolist()


# ---- the device: synchronization, memory ----------------------------------------------------------------------------

WAITS = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "if": lambda x: bool(x[0]),
    "get": lambda x: x.get(),
    "asnumpy": xp.asnumpy,
    "tolist": lambda x: x.tolist(),
    "print": str,
    "boolean index": lambda x: x[x > 0],
    "boolean assignment": lambda x: operator.setitem(x, x > 0, 1),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_synchronization_can_be_forbidden(wait):
    x = device_array(3)
    with pytest.raises(HiddenSynchronization), no_synchronization():
        wait(x)
    wait(x)


def test_computing_does_not_synchronize():
    x = device_array(3)
    with no_synchronization():
        y = xp.where(x > 1, x, 0) / x.sum() + xp.asarray(np.ones(3, np.float32))
        y[0] = 1
        y[xp.array([1])] += y[2]


def test_memory_counts_live_arrays():
    gc.collect()
    pool = xp.get_default_memory_pool()
    before = pool.used_bytes()
    with cuda_like.track_peak() as peak:
        x = xp.zeros((100, 10), np.float32)
        view = x[5]
        y = x + 1
        assert pool.used_bytes() - before == 8000
        del x, y
        assert pool.used_bytes() - before == 4000  # the view keeps its owner
        del view
        assert pool.used_bytes() == before
    assert peak() - before == 8000


def test_new_memory_is_poisoned():
    assert np.isnan(xp.empty((2, 3), np.float32).get()).all()
    assert (xp.empty(3, np.int32).get() == np.int32(-0x33333334)).all()
    assert np.isnan(xp.empty_like(device_array(2)).get()).all()


@pytest.mark.skipif(not emulator.available(), reason="the emulator needs a C++ compiler")
def test_the_checked_build_knows_which_memory_was_written():
    source = 'extern "C" __global__ void copy(const float *x, float *y) { y[threadIdx.x] = x[threadIdx.x]; }'
    copy = xp.RawModule(code=source).get_function("copy")
    with emulator.checked():
        x, y, z = (xp.empty(4, np.float32) for _ in range(3))
        with pytest.raises(emulator.UninitializedRead):
            copy((1,), (4,), (x, y))
        x[...] = 1
        copy((1,), (4,), (x, y))
        copy((1,), (2,), (y, z))  # what a kernel wrote counts, element by element
        copy((1,), (2,), (z, y))
        with pytest.raises(emulator.UninitializedRead):
            copy((1,), (4,), (z, y))
    assert y.tolist() == [1, 1, 1, 1]


def test_events_measure_milliseconds():
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    end.record()
    end.synchronize()
    assert 0 <= xp.cuda.get_elapsed_time(start, end) < 1000


def test_there_are_two_devices_each_with_its_memory():
    free, total = xp.cuda.runtime.memGetInfo()
    assert 0 < free <= total
    pool = xp.get_default_memory_pool()
    before = pool.used_bytes()
    with xp.cuda.Device(1) as device:
        x = xp.zeros(1000, np.float32)
        assert xp.cuda.Device() == device == x.device == x[1:].device
        assert pool.used_bytes() == 4000
    assert xp.cuda.Device().id == xp.cuda.runtime.getDevice() == 0
    assert pool.used_bytes() == before
    with pytest.raises(ValueError, match="device 2: there are 2 emulated devices"):
        xp.cuda.Device(2)


def test_each_thread_has_its_current_device():
    with xp.cuda.Device(1), ThreadPoolExecutor() as pool:
        assert pool.submit(xp.cuda.runtime.getDevice).result() == 0


FOREIGN = {
    "ufunc": lambda x: xp.exp(x),
    "operator": lambda x: x + 1,
    "method": lambda x: x.sum(),
    "function": lambda x: xp.concatenate([x, x]),
    "out": lambda x: xp.add(1.0, 2.0, out=x),
    "assignment": lambda x: operator.setitem(x, 0, 1),
    "assigned": lambda x: operator.setitem(device_array(2), slice(2), x[:2]),
}


@pytest.mark.parametrize("use", FOREIGN.values(), ids=FOREIGN)
def test_an_array_of_another_device_can_only_be_copied(use):
    with xp.cuda.Device(1):
        x = device_array(3)
    with pytest.raises(ValueError, match=r"array resides \(1\) is different from the current device \(0\)"):
        use(x)
    with no_synchronization():
        here = xp.asarray(x)
    assert (here.device.id, x.device.id) == (0, 1)
    assert here.tolist() == x.tolist() == [0, 1, 2]


# ---- 16 bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_sums_of_16_bits_are_accumulated_in_float32(name):
    """In bfloat16, 256 + 1 is 256."""
    pytest.importorskip("ml_dtypes")
    dtype = named_dtype(name)
    x = xp.asarray(np.ones((2, 2048), dtype))
    assert (x.sum().item(), x.sum(axis=1).tolist(), x.sum().dtype) == (4096, [2048, 2048], dtype)
    product = xp.matmul(x, x.T)
    assert (product.tolist(), product.dtype) == ([[2048, 2048]] * 2, dtype)
    out = xp.empty((2, 2), dtype=dtype)
    assert xp.isnan(out).all()
    assert xp.matmul(x, x.T, out=out) is out
    assert out.tolist() == product.tolist()
    assert ((x * 0.5).dtype, (1 + x).dtype, (x + x.astype(np.float32)).dtype) == (dtype, dtype, np.float32)
    x += xp.ones(2048, dtype=np.float32)
    assert x.dtype == dtype


def test_batched_products_of_bfloat16_are_refused_as_cupy_14_does():
    pytest.importorskip("ml_dtypes")
    x = xp.asarray(np.ones((2, 3, 3), named_dtype("bfloat16")))
    with pytest.raises(TypeError, match="no products of bfloat16 arrays of more than two axes"):
        xp.matmul(x, x)
    assert xp.matmul(x.astype(np.float16), x.astype(np.float16)).dtype == np.float16


def test_gemmEx_stays_inside_its_arrays():
    a, out, one = xp.asarray(np.ones((4, 4), np.float16)), xp.empty((4, 4), dtype=np.float32), np.ones((), np.float32)

    def call(n, kind=2):
        pointers = (
            one.ctypes.data,
            a.data.ptr,
            kind,
            4,
            a.data.ptr,
            kind,
            4,
            one.ctypes.data,
            out.data.ptr,
            0,
            4,
            68,
            -1,
        )
        xp.cuda.cublas.gemmEx(0, 0, 0, 4, n, 4, *pointers)

    with pytest.raises(ValueError, match="does not fit an array"):
        call(5)
    with pytest.raises(ValueError, match="A has dtype float16, and the call says bfloat16"):
        call(4, 14)
