"""What stands in for CuPy in other people's tests: kernels from expressions, and the names around them."""

import importlib.util
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from kernels import emulator
from kernels.emulator import arrays
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


EXTREMES = """struct Extremes {
    float low, high;
    bool empty;
    __device__ Extremes() : empty(true) {}
    __device__ Extremes(float x) : low(x), high(x), empty(false) {}
};
__device__ Extremes join(const Extremes &a, const Extremes &b) {
    if (a.empty || b.empty) return a.empty ? b : a;
    Extremes both(min(a.low, b.low));
    both.high = max(a.high, b.high);
    return both;
}"""


@pytest.mark.parametrize("identity", [None, ""])
def test_a_reduction_without_identity_to_a_class(build, identity):
    post = "low = a.low; high = a.high"
    keywords = {"reduce_type": "Extremes", "preamble": EXTREMES}
    extremes = cupy.ReductionKernel("T x", "T low, T high", "x", "join(a, b)", post, identity, "extremes", **keywords)
    x = np.random.default_rng(0).random((3, 200), np.float32)
    low, high = extremes(cupy.asarray(x), axis=1)
    assert (low.tolist(), high.tolist()) == (x.min(1).tolist(), x.max(1).tolist())
    with pytest.raises(ValueError, match="reduction operation extremes, which has no identity"):
        extremes(cupy.zeros((3, 0), dtype=np.float32), axis=1)


def test_the_indices_of_a_reduction(build):
    """_J: in the reduced axis. _i: of the result. _j: of both, the result's index the fastest."""
    mapped, post = "x * (100 * _J + 10 * _j + _i)", "y = a + 1000 * _i"
    kernel = cupy.ReductionKernel("T x", "T y", mapped, "a + b", post, "0", "indices")
    x = np.array([[1, 0], [0, 1], [1, 1]])
    places = np.arange(2) * 100 + np.arange(2) * 30 + np.arange(3)[:, None] * 11  # 10 (3 J + i) + i
    assert kernel(cupy.asarray(x), axis=1).tolist() == ((x * places).sum(1) + 1000 * np.arange(3)).tolist()


def test_findings_in_expressions_name_the_expression_and_its_line():
    operation = "int next = i + 1;\ny = x[next]"
    shift = cupy.ElementwiseKernel("raw T x", "T y", operation, "shift")
    total = cupy.ReductionKernel("T x, raw T w", "T y", "x * w[_J + 1]", "a + b", "y = a", "0", "total")
    x, y = cupy.ones(4), cupy.empty(4)
    with emulator.checked():
        with pytest.raises(emulator.OutOfBounds, match=r"reads 8 bytes at x\[4\] at shift.operation:2, past"):
            shift(x, y)
        with pytest.raises(emulator.OutOfBounds, match=r"reads 8 bytes at w\[4\] at total.map_expr:1, past"):
            total(x, cupy.ones(4))


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
    with pytest.raises(TypeError, match=r"Unsupported type <class .numpy\.ndarray.>"):
        cupy.RawKernel(OWN_TYPES, "mix")((1,), (1,), (np.ones(4, np.uint64),))
    with pytest.raises(ValueError, match=r"non-scalar numpy\.ndarray cannot be used for fill"):
        x[:] = np.ones(4, np.float32)


OWN_TYPES = """typedef unsigned long long uint64_t;
typedef unsigned char uint8_t;
extern "C" __global__ void mix(uint64_t *y) { uint8_t low = (uint8_t)y[threadIdx.x]; y[threadIdx.x] = low; }
"""


def test_a_source_may_declare_the_types_that_nvrtc_lacks(build):
    y = cupy.array([1, 256, 257], dtype=np.uint64)
    cupy.RawKernel(OWN_TYPES, "mix")((1,), (3,), (y,))
    assert y.tolist() == [1, 0, 1]


def test_kernels_opt_in_to_more_shared_memory(build):
    code = """extern "C" __global__ void k(float *y) {
        extern __shared__ float s[]; s[15000] = 1; y[0] = s[15000];
    }"""
    y = cupy.zeros(1, dtype=np.float32)
    for kernel in (cupy.RawKernel(code, "k"), cupy.RawModule(code).get_function("k")):
        with pytest.raises(emulator.LaunchError, match="unless max_dynamic_shared_size_bytes is set higher"):
            kernel((1,), (1,), (y,), shared_mem=60004)
        kernel.max_dynamic_shared_size_bytes = 60004
        assert kernel.attributes["max_dynamic_shared_size_bytes"] == 60004
        kernel((1,), (1,), (y,), shared_mem=60004)
    assert y.tolist() == [1]


GRID_BARRIER = """#include <cooperative_groups.h>
extern "C" __global__ void k(int *y) {
    y[blockIdx.x] = 1; cooperative_groups::this_grid().sync();
    if (blockIdx.x == 0) y[2] = y[0] + y[1];
}"""


def test_a_barrier_of_the_grid_needs_a_cooperative_launch(build):
    y, line = cupy.zeros(3, dtype=np.int32), " at kernel.cu:3" if build == "checked" else ""
    for wrong in (cupy.RawKernel(GRID_BARRIER, "k"), cupy.RawModule(GRID_BARRIER).get_function("k")):
        with pytest.raises(emulator.DivergentBarrier, match=rf"barrier{line}, .*with enable_cooperative_groups=True"):
            wrong((2,), (1,), (y,))
    cupy.RawKernel(GRID_BARRIER, "k", enable_cooperative_groups=True)((2,), (1,), (y,))
    assert y.tolist() == [1, 1, 2]


def test_findings_in_a_module_from_a_file_name_it(tmp_path):
    (tmp_path / "late.cu").write_text('\nextern "C" __global__ void k(int *y) { y[1] = 0; }')
    kernel = cupy.RawModule(path=str(tmp_path / "late.cu")).get_function("k")
    with emulator.checked(), pytest.raises(emulator.OutOfBounds, match=r"y\[1\] at late.cu:2"):
        kernel((1,), (1,), (cupy.zeros(1, dtype=np.int32),))


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


def test_addresses_may_be_numbers(build):
    kernel = cupy.RawKernel(
        'extern "C" __global__ void k(float *y, const float *x) { y[threadIdx.x] = x ? x[threadIdx.x] : 5; }', "k"
    )
    x, y = cupy.arange(4, dtype=np.float32), cupy.empty(4, dtype=np.float32)
    kernel((1,), (3,), (y.data.ptr, x[1:].data))
    assert y.tolist()[:3] == [1, 2, 3]
    kernel((1,), (3,), (y, None))
    assert y.tolist()[:3] == [5, 5, 5]
    with pytest.raises(emulator.LaunchError, match="'x' is a pointer, the launch gives a int64 scalar"):
        kernel((1,), (3,), (y, 12345))
    if build == "checked":
        with pytest.raises(emulator.OutOfBounds, match=r"reads 4 bytes at x\[4\]"):
            kernel((1,), (4,), (y, int(x.data.ptr) + 4))
        with pytest.raises(emulator.UninitializedRead):
            kernel((1,), (4,), (x, cupy.empty(4, dtype=np.float32).data.ptr))


COMPLEX = """#include <cupy/complex.cuh>
extern "C" __global__ void formula(complex<T> *y, const complex<T> *x, complex<double> c) {
    __shared__ complex<T> s[16];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    complex<T> z = s[15 - threadIdx.x], w = T(2) * z - conj(z) / (z + T(1)) + T(1) / z;
    w += exp(z) * norm(z);
    w *= 3;
    w -= pow(z, T(2)) + sqrt(z) - complex<T>(c);
    y[threadIdx.x] = z != T(0) ? w / z + abs(z) + arg(z) : T();
}"""


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_numbers_in_kernels(build, dtype):
    generator = np.random.default_rng(0)
    x = (generator.random(16) + 1j * generator.random(16)).astype(dtype)
    z, y = x[::-1].astype(np.complex128), cupy.zeros(16, dtype=dtype)
    kernel = cupy.RawKernel(COMPLEX.replace("T", "float" if dtype == np.complex64 else "double"), "formula")
    kernel((1,), (16,), (y, cupy.asarray(x), 1 + 2j))
    w = (2 * z - z.conj() / (z + 1) + 1 / z + np.exp(z) * abs(z) ** 2) * 3 - (z**2 + np.sqrt(z) - (1 + 2j))
    np.testing.assert_allclose(y.get(), w / z + abs(z) + np.angle(z), rtol=1e-5 if dtype == np.complex64 else 1e-12)
    other = cupy.zeros(16, dtype=np.complex64 if dtype == np.complex128 else np.complex128)
    with pytest.raises(
        emulator.LaunchError, match=r"'y' is a pointer to a \d+-byte complex number, the launch gives a"
    ):
        kernel((1,), (16,), (other, y, 1j))


def test_complex_numbers_in_expressions(build):
    shrink = cupy.ElementwiseKernel("S t, T x", "T y", "S a = abs(x); y = a > t ? x * ((a - t) / a) : T(0)", "shrink")
    dot = cupy.ReductionKernel("T x, T y", "T z", "conj(x) * y", "a + b", "z = a", "0", "vdot")
    x = np.array([3 + 4j, 0.3 + 0.4j, -5j])
    x, limit = cupy.asarray(x), cupy.array(1.0)
    np.testing.assert_allclose(shrink(limit, x).get(), x.get() * [0.8, 0, 0.8])
    np.testing.assert_allclose(shrink(limit, x.real).get(), [2, 0, 0])
    np.testing.assert_allclose(dot(x, x + 1).get(), np.vdot(x.get(), x.get() + 1))


def test_functions_of_floats_have_no_suffix(build):
    """`abs(float)` is a float in CUDA; it must not be C's function of integers."""
    kernel = cupy.ElementwiseKernel("T x", "T y", "y = abs(x) + exp(x) + pow(x, 2) + fabs(x) + sqrt(abs(x))", "plain")
    for dtype in (np.float32, np.float64):
        x = cupy.array([-1.5, 0.25], dtype=dtype)
        h = x.get()
        np.testing.assert_allclose(kernel(x).get(), 2 * abs(h) + np.exp(h) + h**2 + np.sqrt(abs(h)), rtol=1e-6)
    narrow = cupy.ElementwiseKernel("raw T x", "T y", "int at[] = {i, 1}; y = x[at]", "narrow")
    x = cupy.arange(6).reshape(3, 2)
    assert narrow(x, cupy.empty(3, dtype=x.dtype)).tolist() == [1, 3, 5]


def test_streams_and_transforms():
    with cupy.cuda.Stream() as stream:
        stream.wait_event(cupy.cuda.Event())
    assert cupy.cuda.Stream.null.use() is cupy.cuda.Stream.null
    x = cupy.ones((2, 4), dtype=np.complex64)
    fft = MODULES["cupyx.scipy.fft"]
    plan = fft.get_fft_plan(x, axes=1)
    assert fft.fft(x, axis=1, plan=plan, overwrite_x=True) is x
    assert x.tolist() == [[4, 0, 0, 0]] * 2
    assert cupy.fft.ifft(x, axis=1).tolist() == [[1, 1, 1, 1]] * 2
    assert float(cupy.linalg.norm(x)) == pytest.approx(32**0.5)


def test_names_that_are_missing_are_those_of_the_emulated_cupy():
    for owner, name in (
        (cupy, "cupy.nonsense"),
        (cupy.linalg, "cupy.linalg.nonsense"),
        (cupy.cuda, "cupy.cuda.nonsense"),
    ):
        assert not hasattr(owner, "nonsense")
        with pytest.raises(AttributeError, match=rf"the emulated CuPy has no {name}: docs/emulator\.md"):
            owner.nonsense  # noqa: B018
    assert cupy.cuda.is_available()
    assert cupy.fuse()(abs) is cupy.fuse(abs) is cupy.fuse(kernel_name="f")(abs) is abs
    assert cupy.random.choice(3, size=(2, 2)).shape == (2, 2)
    assert cupy.random.default_rng(0).random(3, dtype=np.float32).get().dtype == np.float32
    assert cupy.random.RandomState(0).randint(2, size=3).tolist() == [0, 1, 1]
    cupy.get_default_pinned_memory_pool().free_all_blocks()


def test_importlib_finds_the_modules(monkeypatch):
    for name, module in MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert importlib.util.find_spec("cupy")
    assert importlib.util.find_spec("cupyx.scipy.fft")
    assert importlib.util.find_spec("cupy.cuda.cudnn") is None


def test_numpys_functions_take_arrays_only_in_other_peoples_tests(monkeypatch):
    x = cupy.ones(3)
    with pytest.raises(TypeError):
        np.zeros_like(x)
    monkeypatch.setattr(arrays, "dispatches_numpy", True)
    assert isinstance(np.zeros_like(x), cupy.ndarray)
    assert float(np.sum(x)) == 3
    with pytest.raises(TypeError):
        np.concatenate([x, np.ones(3)])
    with pytest.raises(TypeError):
        np.asarray(x)
