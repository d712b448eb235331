"""The emulator as a tool: plain .cu files on the command line, whole programs, other people's CuPy tests."""

import re
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from kernels import emulator
from kernels.emulator.tool import check

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)

SOURCE = """struct Pair { double a, b; }; __global__ void saxpy(const float *__restrict__ x, float *y, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n + EXTRA) y[i] = a * x[i] + y[i];
}
__global__ void total(const float *x, float *y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) atomicAdd(y, x[i]);
}
template <typename T> __global__ void transpose(const T *x, T *y) {
    __shared__ T tile[32][PITCH];
    for (int r = 0; r < 32; r++) tile[r][threadIdx.x] = x[32 * r + threadIdx.x];
    __syncthreads();
    for (int r = 0; r < 32; r++) y[32 * r + threadIdx.x] = tile[threadIdx.x][r];
}
__global__ void places(int *count, int *y) { y[atomicAdd(count, 1)] = threadIdx.x; }
__global__ void vectors(float4 *y, const uchar3 *x, struct Pair *pairs) {
    y[threadIdx.x].w += x[threadIdx.x].z;
    pairs[threadIdx.x].b = pairs[threadIdx.x].a;
}
__global__ void numbers(signed char a, unsigned char b, float c, bool d, void *e) { assert(b == 200 && d && !e); }
__global__ void dynamic(float *y) { extern __shared__ float s[]; s[threadIdx.x] = 1; y[threadIdx.x] = s[threadIdx.x]; }
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("tool") / "kernels.cu"
    path.write_text(SOURCE)
    return path


def run(path, *words, macros=("EXTRA=0", "PITCH=33")):
    return check.main(["check", str(path), *(f"-D{macro}" for macro in macros), *words])


def test_a_right_launch(source, capsys):
    launches = [
        "saxpy<<<4, 256>>>(rand(1000), y=zeros(1000), 2.0, 1000)",
        "transpose<float><<<1, 32>>>(rand(32, 32), empty(32, 32));",
        "dynamic<<<1, (32, 1), 128>>>(empty(32))",
    ]
    assert run(source, *(f"--launch={launch}" for launch in launches)) == 0
    out = capsys.readouterr().out
    assert "saxpy(const float32 *__restrict__ x, float32 *y, float32 a, int32 n) compiles" in out
    assert "saxpy<<<(4,), (256,)>>> ran in 3 orders: read 8,000 bytes, wrote 4,000, passed 0 barriers" in out
    assert out.endswith("0 findings\n")


def test_findings_have_a_line_and_make_the_exit_code(source, capsys):
    launch = "--launch=saxpy<<<4, 256>>>(rand(1000), rand(1000), 2.0, 1000)"
    assert run(source, launch, macros=("EXTRA=1", "PITCH=33")) == 1
    out = capsys.readouterr().out
    assert "OutOfBounds: kernel saxpy, block (3,0,0), thread (232,0,0)" in out
    assert "kernels.cu:3" in out
    assert out.endswith("1 finding\n")


def test_results_that_differ_between_orders_are_a_finding_unless_by_rounding(source, capsys):
    launch = "--launch=total<<<1, 64>>>(rand(1000), sum=zeros(1), 1000)"
    assert run(source, launch) == 0
    out = capsys.readouterr().out
    assert "note: sum differs between orders of the threads by rounding" in out
    assert "line kernels.cu:6" in out
    assert run(source, launch, "--deterministic") == 1
    assert "NotDeterministic: kernel total" in capsys.readouterr().out
    assert run(source, "--launch=places<<<1, 64>>>(count=zeros(1), order=empty(64))") == 1
    assert "NotDeterministic: order differs between orders" in capsys.readouterr().out


def test_the_first_example_of_the_page(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text()
    source = re.search(r"```cuda\n(.*?)```", page, re.DOTALL)[1]
    words = shlex.split(re.search(r"^    python -m kernels.emulator (check .*)$", page, re.MULTILINE)[1])
    printed = re.search(r"^    saxpy.cu: .*? findings?$", page[page.index(source) :], re.DOTALL | re.MULTILINE)[0]
    printed = re.sub(r"\n    (?!saxpy.cu:|1 finding)", " ", printed)  # lines broken to the page's width
    (tmp_path / "saxpy.cu").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert check.main(words) == 1
    assert capsys.readouterr().out.split("\n") == [*printed.replace("\n    ", "\n").strip().split("\n"), ""]


def test_bank_conflicts_by_line(source, capsys):
    launch = "--launch=transpose<float><<<1, 32>>>(rand(32, 32), empty(32, 32))"
    assert run(source, launch, "--count-lines", macros=("EXTRA=0", "PITCH=32")) == 0
    assert "kernels.cu:12: 992 bank conflicts in 32 accesses by warps" in capsys.readouterr().out
    assert run(source, launch, "--count-lines") == 0
    assert "bank conflicts" not in capsys.readouterr().out


def test_launches_stand_in_a_file_beside_the_source(source, tmp_path, capsys):
    path = tmp_path / "kernels.cu"
    path.write_text(SOURCE)
    path.with_suffix(".launches").write_text("# a launch a line\n\ndynamic<<<1, 32, 128>>>(empty(32))\n")
    assert run(path) == 0
    assert "dynamic<<<(1,), (32,)>>> ran" in capsys.readouterr().out


WRONG = {
    "no launch": ("saxpy(1)", "a launch is written as"),
    "a grid": ("saxpy<<<a, 4>>>(1)", "a is not a number"),
    "a missing kernel": ("other<<<1, 1>>>()", "has no kernel 'other'"),
    "too few arguments": ("total<<<1, 1>>>(rand(4))", "takes 3 arguments, the launch gives 1"),
    "a number for an array": ("total<<<1, 1>>>(1, rand(4), 4)", "1 is no array"),
    "an array for a number": ("total<<<1, 1>>>(rand(4), rand(4), rand(4))", "is not a number for that parameter"),
    "a size": ("total<<<1, 1>>>(rand(n), rand(4), 4)", "its sizes must be numbers"),
    "a negative size": ("total<<<1, 1>>>(rand(-3), rand(4), 4)", "rand(-3) is no array: its sizes must be 0 or more"),
    "half an element": ("total<<<1, 1>>>(rand(32.5), rand(4), 4)", "its sizes must be numbers, whole"),
    "integers below 0": ("total<<<1, 1>>>(randint(32, 0), rand(4), 4)", "must be at least 1"),
    "a text for a size": ("total<<<1, 1>>>(empty('a'), rand(4), 4)", "its sizes must be numbers, whole"),
    "more than the memory": ("total<<<1, 1>>>(zeros(10000000000000), rand(4), 4)", "make it smaller, or sparse"),
    "a sparse array too large": (
        "total<<<1, 1>>>(sparse(10000000000000000), rand(4), 4)",
        "sparse(10000000000000000) ",
    ),
    "a block of four dimensions": ("total<<<1, (8, 8, 8, 2)>>>(rand(4), rand(4), 4)", "is not a number or (x, y, z)"),
    "negative shared memory": ("total<<<1, 1, -4>>>(rand(4), rand(4), 4)", "no number of bytes of shared memory"),
    "a step of 0": ("total<<<1, 1>>>(arange(1, 4, 0), rand(4), 4)", "a step that is not 0"),
    "a fraction for an integer": ("total<<<1, 1>>>(rand(4), rand(4), 3.7)", "3.7 is not a whole number"),
    "an integer too large": ("total<<<1, 1>>>(rand(4), rand(4), 1e10)", "between -2147483648 and 4294967295"),
    "an expression": ("total<<<1, 1>>>(rand(4), rand(4), 2*2)", "write it out, without operators"),
    "a char too large": (
        "numbers<<<1, 1>>>(-128, 300, 1, 1, nullptr)",
        "an integer of 1 bytes: it must lie between -128",
    ),
    "a float too large": ("numbers<<<1, 1>>>(1, 200, 1e39, 1, nullptr)", "does not fit that parameter, a float"),
    "values of a struct": ("vectors<<<1, 1>>>(rand(1), rand(1), rand(1))", "structs of 16 bytes, whose members"),
    "a template by its name alone": ("transpose<<<1, 1>>>(rand(1), rand(1))", "as in transpose<float><<<1, 32>>>"),
    "a block too large": ("total<<<1, 2048>>>(rand(4), rand(4), 4)", "2048 threads, at most 1024|must lie between"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_line_is_one_sentence(case, source, capsys):
    launch, message = WRONG[case]
    assert run(source, f"--launch={launch}") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert any(part in error for part in message.split("|"))


OPTIONS = {
    "--main=a b": "--main 'a b': ",
    "-Inofolder": "-I nofolder: is no folder",
    "-DA B": "-D 'A B': must be NAME or NAME=VALUE",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_can_mean_nothing_is_an_error(option, source, capsys):
    assert run(source, option) == 2
    assert OPTIONS[option] in capsys.readouterr().err


def test_orders_must_be_at_least_one(source, capsys):
    for orders in ("0", "-1", "x"):
        with pytest.raises(SystemExit) as ended:
            run(source, f"--orders={orders}")
        assert ended.value.code == 2
        assert "must be a whole number of at least 1" in capsys.readouterr().err


def test_a_launch_must_be_of_a_kernel_in_one_of_the_files(source, tmp_path, capsys):
    (tmp_path / "empty.cu").write_text("")
    (tmp_path / "one.cu").write_text("__global__ void one(int *y) { *y = 1; }\n")
    paths = [str(tmp_path / "empty.cu"), str(tmp_path / "one.cu")]
    assert check.main(["check", *paths, "--launch=typo<<<1, 32>>>(empty(32))"]) == 2
    assert "none of the files has that kernel" in capsys.readouterr().err
    assert check.main(["check", *paths, "--launch=one<<<1, 1>>>(empty(1))"]) == 0
    out = capsys.readouterr().out
    assert "empty.cu: note: has no kernel to check" in out
    header = tmp_path / "fill.cuh"
    header.write_text("template <class T> __global__ void fill(T *y) { *y = 1; }\n")
    (tmp_path / "two.cu").write_text('#include "fill.cuh"\n')
    assert check.main(["check", *paths, str(tmp_path / "two.cu"), "--launch=fill<float><<<1, 1>>>(empty(1))"]) == 0
    assert "two.cu: fill<float><<<(1,), (1,)>>> ran in 3 orders" in capsys.readouterr().out
    assert check.main(["check", paths[1]]) == 0
    assert "one.cu: note: compiled only: no --launch, no main to run, no one.launches" in capsys.readouterr().out
    (tmp_path / "one.launches").write_text("one<<<1, 1>>>(empty(2))\n")
    assert check.main(["check", paths[1], "--launch=one<<<1, 1>>>(empty(1))"]) == 0
    assert "one.launches is not read, as --launch is given" in capsys.readouterr().out


def test_arrays_count_in_elements_of_the_pointers_type(source, capsys):
    launch = "--launch=vectors<<<1, 9>>>(rand(8), randint(9, 8), zeros(9))"
    assert run(source, launch) == 1
    out = capsys.readouterr().out
    assert "vectors(float32x4 *y, const int8x3 *x, struct128 *pairs) compiles" in out
    assert "at y[8] at kernels.cu:16, past the end of y (float32x4, 8 elements)" in out
    assert run(source, launch.replace("zeros(9)", "zeros(8)").replace("rand(8)", "rand(9)")) == 1
    assert "past the end of pairs (struct of 16 bytes, 8 elements)" in capsys.readouterr().out


def test_pairs_of_sixteen_bits_and_numbers_of_every_type(tmp_path, capsys):
    path = tmp_path / "pairs.cu"
    path.write_text("""#include <cuda_fp16.h>
#include <cuda_bf16.h>
__global__ void pairs(const __half2 *x, const __nv_bfloat162 *y, const __nv_bfloat16 *z) {
    int i = threadIdx.x;
    assert(float(x[i].y) == i && float(y[i].x) == 1 && float(z[i]) == 2 * i);
}
""")
    assert check.main(["check", str(path), "--launch=pairs<<<1, 4>>>(arange(4), ones(4), arange(0, 8, 2))"]) == 0
    assert "pairs(const float16x2 *x, const bfloat16x2 *y, const bfloat16 *z)" in capsys.readouterr().out


def test_numbers_and_null(source):
    assert run(source, "--launch=numbers<<<1, 1>>>(-128, 200, 1e3, true, nullptr)") == 0


def test_dynamic_shared_memory_that_the_launch_forgot_is_named(source, capsys):
    assert run(source, "--launch=dynamic<<<1, 32>>>(empty(32))") == 1
    out = capsys.readouterr().out
    assert "writes 4 bytes at byte" in out
    assert "past the end of dynamic shared memory (shared memory, 0 bytes)" in out


GRID_BARRIER = """#include <cooperative_groups.h>
__global__ void wait() { cooperative_groups::this_grid().sync(); }
"""


def test_a_grid_barrier_of_more_blocks_than_there_is_memory_for(tmp_path):
    (tmp_path / "grid.cu").write_text(GRID_BARRIER)
    script = (
        "import resource, sys\n"
        "from kernels.emulator.tool import check\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "sys.exit(check.main(['check', sys.argv[1], '--launch', 'wait<<<100, 256>>>()']))\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "grid.cu")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert (
        "the launch has 100 blocks of 256 threads, and blocks that wait for each other are all resident" in ran.stderr
    )


def test_files_that_do_not_exist_or_compile(tmp_path, capsys):
    (tmp_path / "latin1.cu").write_bytes(b"// \xe9\n")
    assert run(tmp_path / "latin1.cu") == 2
    assert "latin1.cu: byte 3 is not UTF-8" in capsys.readouterr().err
    (tmp_path / "include.cu").write_text('#include "latin1.cu"\n')
    assert run(tmp_path / "include.cu") == 2
    assert "an included file is not UTF-8" in capsys.readouterr().err
    (tmp_path / "conflict.cu").write_text("<<<<<<< ours\n__global__ void k() {}\n")
    assert run(tmp_path / "conflict.cu") == 2
    assert "conflict.cu:1: <<< has no >>>(...) after it" in capsys.readouterr().err
    assert run(tmp_path / "none.cu") == 2
    (tmp_path / "bad.cu").write_text("__global__ void k() { nonsense; }\n")
    assert run(tmp_path / "bad.cu") == 2
    assert "bad.cu:1" in capsys.readouterr().err


PROGRAM = """#include <stdio.h>
#include <cuda_runtime.h>
#define CHECK(call) check((call), __LINE__)
void check(cudaError_t error, int line) {
    if (error != cudaSuccess) { printf("%s in line %d\\n", cudaGetErrorString(error), line); exit(3); }
}
__device__ int launches;
template <class T> __global__ void add(T *y, const T *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i == 0) launches++;
    if (i <= n) y[i] += x[i];
}
int main(int argc, char **argv) {
    const int n = 1000;
    float *x, *y, *host = (float *)malloc(n * sizeof(float));
    for (int i = 0; i < n; i++) host[i] = i;
    CHECK(cudaMalloc(&x, n * sizeof(float)));
    CHECK(cudaMalloc((void **)&y, n * sizeof(float)));
    CHECK(cudaMemcpy(x, host, n * sizeof(float), cudaMemcpyHostToDevice));
    CHECK(cudaMemset(y, 0, n * sizeof(float)));
    add<float><<<dim3(8), 128>>>(y, x, n - 2);
    add<<<8, 128, 0, 0>>>(y, (const float *)x, argc > 1 ? n : n - 1);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(host, y, n * sizeof(float), cudaMemcpyDeviceToHost));
    int count;
    cudaMemcpyFromSymbol(&count, launches, sizeof count);
    printf("result %g %g %d\\n", host[10], host[999], count);
    return 0;
}
"""


def test_a_program_with_a_main_runs_and_its_launches_are_checked(tmp_path, capfd):
    path = tmp_path / "program.cu"
    path.write_text(PROGRAM.replace("add<<<8", "add<float><<<8"))
    assert run(path) == 0
    out = capfd.readouterr().out
    assert "result 20 999 2" in out
    assert "main() returned 0; without a finding ran add<float> 2 times" in out
    assert run(path, "--main=wrong") == 1
    out = capfd.readouterr().out
    assert "reads 4 bytes at byte 4000 of allocation 2 at program.cu:11, past the end" in out
    assert "main() returned 3; without a finding ran add<float> 1 times" in out


def test_options_reach_the_launches_of_main_and_its_exit_code_counts(tmp_path, capfd):
    path = tmp_path / "program.cu"
    path.write_text("""#include <cuda_runtime.h>
__global__ void total(float *y, int stride) {
    atomicAdd(y, 0.1f * threadIdx.x);
    y[32 + threadIdx.x * stride] = 1;
}
int main(int argc, char **argv) {
    float *y;
    cudaMalloc(&y, 4096 * sizeof(float));
    cudaMemset(y, 0, 4);
    if (argc == 3) total<<<1,
        2048>>>(y, 32);
    total<<<1, 32>>>(y, 32);
    return argc - 1;
}
""")
    assert check.main(["check", str(path), "--count-lines", "--orders=2"]) == 0
    out = capfd.readouterr().out
    assert "note: kernel total, line program.cu:3: 24 atomic additions round in an order that is not fixed" in out
    assert "note: program.cu:4: 28 sectors too many in 1 accesses by warps" in out
    assert "ran total 1 times, in 2 orders" in out
    assert check.main(["check", str(path), "--deterministic"]) == 1
    assert "NotDeterministic: kernel total, line program.cu:3" in capfd.readouterr().out
    assert check.main(["check", str(path), "--main=word"]) == 1
    assert "main() returned 1; it must return 0" in capfd.readouterr().out
    assert check.main(["check", str(path), "--main=a b"]) == 1
    message = "LaunchError: kernel total, launched at program.cu:10 with grid (1, 1, 1) and block (2048, 1, 1): no GPU"
    assert message in capfd.readouterr().out


SUITE = """
import cupy as cp
import numpy as np
import pytest
from cupy._core._scalar import get_typename
from cupy.cuda.compiler import CompileException
from cupy.testing import assert_allclose

square = cp.ElementwiseKernel("T x, float32 scale", "T y", "y = scale * x * x", "square")
neighbor = cp.ElementwiseKernel("raw T x, int32 n", "T y", "y = x[(i + 1) % n]", "neighbor")
fill = cp.RawKernel('extern "C" __global__ void fill(float *y, int n) {'
                    ' if (threadIdx.x < n) y[threadIdx.x] = n; }', "fill")
bad = cp.RawKernel('extern "C" __global__ void bad(float *y) { __shared__ float s[32]; s[threadIdx.x] = 1;'
                   ' y[threadIdx.x] = s[31 - threadIdx.x]; }', "bad")

def test_elementwise():
    x = cp.arange(12, dtype=cp.float32).reshape(3, 4)
    assert_allclose(square(x, 2), 2 * np.arange(12).reshape(3, 4) ** 2)
    assert_allclose(square(x.astype(cp.float64), 1).std(), (np.arange(12.0) ** 2).std())
    assert cp.asnumpy(neighbor(x.ravel(), 12, size=12))[-1] == 0

def test_raw():
    y = cp.zeros(8, dtype=cp.float32)
    fill((1,), (32,), (y, 8))
    assert float(y.sum()) == 64 and isinstance(cp.median(y), cp.ndarray)

def test_array_by_value():
    x = cp.arange(6, dtype=np.result_type(cp.zeros(1, dtype=cp.float32), np.float64)).reshape(2, 3)
    code = "#include <cupy/carray.cuh>\\n" + (
        'extern "C" __global__ void twice(const CArray<T, 2> x, CArray<T, 2> y) {'
        ' int at[] = {(int)threadIdx.x % 2, (int)threadIdx.x / 2}; y[at] = 2 * x[at]; }')
    twice = cp.RawKernel(code.replace("T,", get_typename(x.dtype) + ","), "twice")
    y = cp.empty_like(x)
    twice((1,), (6,), (x, y))
    assert_allclose(y, 2 * x)
    with pytest.raises(CompileException):
        cp.RawKernel("no CUDA", "none").compile()

def test_race():
    bad((1,), (32,), (cp.zeros(32, dtype=cp.float32),))
"""


@pytest.mark.parametrize(("build", "passed"), [("fast", "4 passed"), ("checked", "1 failed, 3 passed")])
def test_another_suites_cupy_kernels_run_on_the_cpu(tmp_path, build, passed):
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text("import cupy\n")
    words = [
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-p",
        "kernels.emulator.tool.plugin",
        f"--emulated-cupy={build}",
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-c", "/dev/null", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert passed in ran.stdout, ran.stdout + ran.stderr
    assert ("DataRace: kernel bad" in ran.stdout) == (build == "checked")


CARRAY = """#include <cupy/carray.cuh>
extern "C" __global__ void copy(const CArray<float, 2> x, float *y, int n) {
    if (threadIdx.x < n) y[threadIdx.x] = x[threadIdx.x];
}
"""


def test_a_carray_counts_its_elements_by_rows_whatever_its_strides():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    kernel = emulator.RawModule(code=CARRAY).get_function("copy")
    for array in (x, np.asfortranarray(x)):
        for build in (nullcontext(), emulator.checked()):
            y = np.zeros(6, np.float32)
            with build:
                kernel((1,), (32,), (array, y, np.int32(6)))
            assert y.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_read_past_a_carray_and_an_array_that_is_none():
    x, y = np.zeros((2, 3), np.float32), np.zeros(7, np.float32)
    with emulator.checked():
        kernel = emulator.RawModule(code=CARRAY).get_function("copy")
        with pytest.raises(emulator.OutOfBounds, match=r"reads 4 bytes at x\[6\] at kernel.cu:3, past the end of x"):
            kernel((1,), (32,), (x, y, np.int32(7)))
        for wrong in (x[0], x.astype(np.float64), np.float32(1)):
            with pytest.raises(emulator.LaunchError, match="'x' is a CArray of 2 dimensions with 4-byte elements"):
                kernel((1,), (32,), (wrong, y, np.int32(6)))


def test_the_emulator_stands_alone():
    """Its package imports neither tinytensor nor anything else of this project but two files of `kernels`."""
    script = (
        "import sys, kernels.emulator, kernels.emulator.cupy_like, kernels.emulator.tool.plugin\n"
        "import kernels.emulator.__main__\n"
        "names = ('tinytensor', 'gpt', 'train', 'cupy', 'kernels')\n"
        "ours = sorted(m for m in sys.modules if m.split('.')[0] in names)\n"
        "print([m for m in ours if not m.startswith('kernels.emulator')])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "['kernels', 'kernels.caches', 'kernels.dtypes']\n"


FIXTURE = """
def test_one(emulated_cupy):
    import cupy
    assert cupy is emulated_cupy
    k = cupy.RawKernel('extern "C" __global__ void k(int *y) { y[threadIdx.x] = threadIdx.x; }', "k")
    y = cupy.empty(4, cupy.int32)
    k((1,), (4,), (y,))
    assert y.tolist() == [0, 1, 2, 3]
"""


def test_the_fixture_replaces_cupy_for_one_test(tmp_path):
    (tmp_path / "test_fixture.py").write_text(FIXTURE)
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", "-p", "kernels.emulator.tool.plugin", "-c", "/dev/null"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "1 passed" in ran.stdout, ran.stdout
