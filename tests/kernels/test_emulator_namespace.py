"""What stands in for CuPy in other people's tests: kernels from expressions, and the names around them."""

from contextlib import nullcontext

import numpy as np
import pytest

from kernels import emulator
from kernels.emulator.tool.namespace import make_namespace

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
MODULES = make_namespace()
cupy, cupyx = MODULES["cupy"], MODULES["cupyx"]

inside = cupy.ReductionKernel(
    "T x, T low, T high", "bool y", "x >= low && x < high", "a & b", "y = a", "true", "inside"
)
norm = cupy.ReductionKernel("T x, T y", "float64 z", "x * y", "a + b", "z = sqrt(a)", "0", "norm", reduce_type="double")
update = cupy.ElementwiseKernel("T g, T rate", "T w, T m", "m += g; w -= rate * m", "update")


@pytest.fixture(params=["fast", "checked"])
def build(request):
    with emulator.checked() if request.param == "checked" else nullcontext():
        yield request.param


def test_a_reduction_of_all_elements_takes_letters_from_arrays_alone(build):
    for dtype in (np.int32, np.float32):
        x = cupy.arange(1000, dtype=dtype)
        assert inside(x, 0, 1000).shape == ()
        assert bool(inside(x, 0, 1000))
        assert not bool(inside(x, 0, 999))
    assert bool(inside(cupy.zeros(0, dtype=np.float32), 1, 2))  # the identity


@pytest.mark.parametrize(("axis", "keepdims"), [(None, False), (1, True), (-1, False), ((0, 2), False), ((2, 0), True)])
def test_a_reduction_over_axes_of_broadcast_inputs(build, axis, keepdims):
    x, y = np.random.default_rng(0).random((3, 70, 4)), np.random.default_rng(1).random(4)
    got = norm(cupy.asarray(x), cupy.asarray(y), axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(got.get(), np.sqrt((x * y).sum(axis, keepdims=keepdims)))


def test_a_reduction_into_an_array(build):
    x, out = cupy.ones((2, 5), dtype=np.float64), cupy.zeros((2, 3), dtype=np.float64)[:, 1]
    assert norm(x, x, axis=1, out=out) is out
    assert out.tolist() == [5**0.5] * 2
    with pytest.raises(ValueError, match="Out shape is mismatched"):
        norm(x, x, axis=0, out=out)


def test_outputs_of_elementwise_kernels_may_be_read_and_need_not_be_contiguous(build):
    memory = cupy.ones((4, 2), dtype=np.float32)
    w, m = memory[:, 0], memory[:, 1]
    update(cupy.full(4, 2, dtype=np.float32), 0.5, w, m)
    assert m.tolist() == [3] * 4
    assert w.tolist() == [-0.5] * 4
    one = cupy.ones(1, dtype=np.float32)
    update(one, 1, one, one)  # an input that is an output, too
    assert one.tolist() == [0]


def test_raw_arrays_know_their_size_and_shape(build):
    code = "y = x[i] * (i < x.size() && n == x.shape()[1])"
    kernel = cupy.ElementwiseKernel("raw T x, int32 n", "raw T y", code.replace("y =", "y[i] ="), "raws")
    x = cupy.arange(6, dtype=np.int64).reshape(2, 3)
    y = kernel(x, 3, cupy.empty(6, dtype=np.int64), size=6)
    assert y.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="give `size` if all arrays are raw"):
        kernel(x, 3, y)
    with pytest.raises(ValueError, match="give `size` if all arrays are raw"):
        update(y, 1, y, y, size=6)


def test_what_cupy_refuses():
    x, y = cupy.ones(4, dtype=np.float32), cupy.ones(4, dtype=np.float64)
    with pytest.raises(TypeError, match="Type is mismatched: T g is float64, the array float32"):
        update(x, 1, y, y)
    with pytest.raises(TypeError, match="Type is mismatched: float64 z is float64, the array float32"):
        norm(y, y, axis=0, out=x[0])
    with pytest.raises(TypeError, match="takes 2 inputs, or 4 arguments with its outputs, not 3"):
        update(x, 1, x)
    with pytest.raises(TypeError, match=r"Unsupported type <class .numpy\.ndarray.>"):
        update(np.ones(4), 1, x, x)
    with pytest.raises(TypeError, match="no array has this type"):
        inside(1, 2, 3)


OWN_TYPES = """typedef unsigned long long uint64_t;
typedef unsigned char uint8_t;
extern "C" __global__ void mix(uint64_t *y) { uint8_t low = (uint8_t)y[threadIdx.x]; y[threadIdx.x] = low; }
"""


def test_a_source_may_declare_the_types_that_nvrtc_lacks(build):
    y = cupy.array([1, 256, 257], dtype=np.uint64)
    cupy.RawKernel(OWN_TYPES, "mix")((1,), (3,), (y,))
    assert y.tolist() == [1, 0, 1]


POINTERS = """extern "C" __global__ void gather(float *y, const float **tables, int n) {
    for (int i = 0; i < n; i++) y[i] = tables[i][threadIdx.x];
}"""


def test_addresses_may_come_as_signed_numbers(build):
    tables = [cupy.full(1, i, dtype=np.float32) for i in range(3)]
    addresses = cupy.array(np.array([table.data.ptr for table in tables]))
    y = cupy.empty(3, dtype=np.float32)
    assert addresses.dtype == np.int64
    cupy.RawKernel(POINTERS, "gather")((1,), (1,), (y, addresses, 3))
    assert y.tolist() == [0, 1, 2]


def test_libraries_beside_cupy():
    x = cupy.array([3, 0, 4], dtype=np.float32)
    indices = cupy.array([0, 0, 2])
    cupyx.scatter_add(x, indices, 1)
    assert x.tolist() == [5, 0, 5]
    assert float(cupy.cublas.nrm2(x)) == pytest.approx(50**0.5)
    assert float(cupy.cublas.asum(x)) == 10
    assert float(cupy.cublas.dot(x, x)) == 50
    cupyx.scatter_max(x, (indices,), 7)
    assert x.tolist() == [7, 0, 7]
    assert not issubclass(cupy.cuda.runtime.CUDARuntimeError, emulator.EmulatorError)
    cupy.testing.assert_array_equal(x, [7, 0, 7])
