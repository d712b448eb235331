"""What `tt.device("cuda")` says where CuPy is installed but something that it needs is not.

There may be no GPU here, so a fake CuPy stands in: the emulated device under CuPy's name, which fails in one place with
CuPy's own words. The messages are those of CuPy 14.2 (and 13 where it differs).
"""

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import tinytensor as tt
from kernels import emulator
from kernels.cuda import probe
from kernels.emulator import cuda_like, cupy_like


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime's."""


class CompileException(Exception):
    """cupy.cuda.compiler's: no RuntimeError."""


class DynamicLibNotFoundError(RuntimeError):
    """cuda.pathfinder's."""


def fail(error):
    def function(*args, **kwargs):
        raise error

    return function


def fake_cupy(**replaced):
    """A module `cupy` on two emulated devices; replaced: attributes, for example {"cuda.runtime.getDeviceCount": f}."""
    runtime = SimpleNamespace(**vars(cuda_like.runtime), CUDARuntimeError=CUDARuntimeError)
    compiler = SimpleNamespace(CompileException=CompileException)
    cuda = SimpleNamespace(Device=cuda_like.Device, runtime=runtime, compiler=compiler)
    cupy = ModuleType("cupy")
    vars(cupy).update({name: getattr(cupy_like, name) for name in cupy_like.__all__}, cuda=cuda)
    for name, value in replaced.items():
        target = cupy
        *path, last = name.split(".")
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)
    return cupy


@pytest.fixture
def install(monkeypatch):
    """install(fake): `import cupy` finds the fake."""
    if not emulator.available():
        pytest.skip(emulator.MISSING)

    def install(cupy):
        probe.usable_gpu.cache_clear()
        monkeypatch.setitem(sys.modules, "cupy", cupy)

    yield install
    probe.usable_gpu.cache_clear()


NO_LIBRARY = 'Failure finding "lib{0}.so.13 or lib{0}.so.12": No such file: lib{0}.so.13 or lib{0}.so.12\n'
NO_HEADERS = (
    "Failed to find CUDA headers. Please install CUDA toolkit headers (e.g., pip install cupy-cuda12x[ctk]) or specify "
    "CUDA_PATH environment variable."
)
OLD_HEADERS = (
    '/x/cupy/_core/include/cupy/_cuda/cuda-12.4/cuda_fp16.h(129): catastrophic error: cannot open source file "vector_'
    'types.h"\n\n1 catastrophic error detected in the compilation of "/tmp/t/0a.cubin.cu".\nCompilation terminated.\n'
)
COUNT, COMPILE, MULTIPLY = "cuda.runtime.getDeviceCount", "RawModule", "matmul"
FAULTS = {  # what fails, how, and what the sentence must say
    "no driver": (
        COUNT,
        CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"),
        "the NVIDIA driver is missing or too old",
        "install or update the driver",
    ),
    "no GPU": (
        COUNT,
        CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected"),
        "the driver finds no NVIDIA GPU",
        "--device cpu",
    ),
    "unknown driver fault": (
        COUNT,
        CUDARuntimeError("cudaErrorUnknown: unknown error"),
        "no usable NVIDIA GPU or driver (CUDARuntimeError: cudaErrorUnknown",
        "--device cpu",
    ),
    "full": (
        "asarray",
        MemoryError("Out of memory allocating 512 bytes (allocated so far: 0 bytes)."),
        "the GPU has no free memory",
        "end the process that holds it",
    ),
    "no NVRTC": (
        COMPILE,
        DynamicLibNotFoundError(NO_LIBRARY.format("nvrtc")),
        "the CUDA library libnvrtc is missing",
        "pip install",
    ),
    "no NVRTC, CuPy 13": (
        COMPILE,
        RuntimeError("CuPy failed to load libnvrtc.so.12: OSError: libnvrtc.so.12: cannot open shared object file"),
        "the CUDA library libnvrtc is missing",
        "pip install",
    ),
    "no NVRTC, Windows": (
        COMPILE,
        RuntimeError("CuPy failed to load nvrtc64_120_0.dll: FileNotFoundError: Could not find module"),
        "the CUDA library nvrtc64_120_0 is missing",
        "pip install",
    ),
    "no headers": (COMPILE, RuntimeError(NO_HEADERS), "the CUDA headers are missing", "pip install"),
    "no headers, CuPy 13": (COMPILE, CompileException(OLD_HEADERS), "the CUDA headers are missing", "pip install"),
    "unknown architecture": (
        COMPILE,
        CompileException("nvrtc: error: invalid value for --gpu-architecture (-arch)\n"),
        "does not support the GPU's architecture",
        "compute capability 7.5",
    ),
    "no image": (
        COMPILE,
        RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available for execution on the device"),
        "does not support the GPU's architecture",
        "compute capability 7.5",
    ),
    "old driver": (
        COMPILE,
        RuntimeError(
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled with an unsupported toolchain."
        ),
        "driver is missing or too old",
        "update the driver",
    ),
    "no cuBLAS": (
        MULTIPLY,
        ImportError(NO_LIBRARY.format("cublasLt")),
        "the CUDA library libcublasLt is missing",
        "pip install",
    ),
    "cuBLAS does not start": (
        MULTIPLY,
        RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED"),
        "cuBLAS cannot multiply matrices (RuntimeError: CUBLAS_STATUS_NOT_INITIALIZED)",
        "check the GPU",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_is_one_sentence_with_a_remedy(install, fault):
    where, error, cause, remedy = FAULTS[fault]
    install(fake_cupy(**{where: fail(error)}))
    with pytest.raises(tt.DeviceError, match=r"^device 'cuda(:0)?': [^\n]+$") as raised:
        tt.device("cuda")
    assert cause in str(raised.value)
    assert remedy in str(raised.value).rpartition("; ")[2]
    assert raised.value.__cause__ is error


def test_a_missing_or_broken_cupy_is_named(install, monkeypatch):
    install(None)
    with pytest.raises(tt.DeviceError, match=r"^device 'cuda': CuPy is missing \(.*\); pip install -e '\.\[gpu\]'$"):
        tt.device("cuda")
    message = (
        "\n====\nFailed to import CuPy.\n\nOriginal error:\n  ImportError: libcudart.so.12: cannot open shared\n====\n"
    )
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=fail(ImportError(message))), *sys.meta_path])
    with pytest.raises(tt.DeviceError) as raised:
        tt.device("cuda")
    expected = "device 'cuda': the CUDA library libcudart is missing (ImportError: libcudart.so.12: cannot open shared)"
    assert str(raised.value).startswith(expected)


def test_a_gpu_that_computes_nonsense_is_refused(install):
    install(fake_cupy(matmul=lambda a, b: a * b))
    with pytest.raises(tt.DeviceError, match=r"^device 'cuda:0': the GPU computes wrong results \(\[\[0\.0, 9\.0\]"):
        tt.device("cuda")


def test_a_usable_gpu_is_probed_once_per_device_and_does_not_become_current(install):
    multiplied = []

    def matmul(a, b):
        multiplied.append(a.device.id)
        return cupy_like.matmul(a, b)

    cupy = fake_cupy(matmul=matmul)
    install(cupy)
    assert [tt.device(name).name for name in ("cuda", "cuda:0", "auto", "cuda:1", "cuda:1")] == [
        "cuda:0",
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cuda:1",
    ]
    assert multiplied == [0, 1]
    assert tt.device("cuda:1").xp is cupy
    assert cuda_like.runtime.getDevice() == 0
    with pytest.raises(tt.DeviceError, match=r"^device 'cuda:2': this machine has 2 GPU\(s\), numbered from 0$"):
        tt.device("cuda:2")


def test_auto_takes_the_cpu_without_a_word_where_there_is_no_gpu(install):
    install(fake_cupy(**{COUNT: fail(CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected"))}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tt.device("auto").name == "cpu"


def test_auto_warns_of_a_gpu_that_cannot_be_used(install):
    install(fake_cupy(matmul=fail(ImportError(NO_LIBRARY.format("cublasLt")))))
    with pytest.warns(UserWarning, match=r"libcublasLt is missing .* \(the CPU is used instead\)"):
        assert tt.device("auto").name == "cpu"


def test_the_remedy_completes_the_cupy_that_is_installed(install, monkeypatch):
    """Two CuPy wheels side by side do not work."""
    install(fake_cupy(RawModule=fail(RuntimeError(NO_HEADERS))))
    with pytest.raises(tt.DeviceError, match=r"pip install -e '\.\[gpu\]'$"):
        tt.device("cuda")
    monkeypatch.setattr(probe, "version", lambda name: "14.2.0")
    with pytest.raises(tt.DeviceError, match=r"pip install 'cupy-cuda13x\[ctk\]'$"):
        tt.device("cuda")


HIDE = """
import cuda.pathfinder as pathfinder
load, find = pathfinder.load_nvidia_dynamic_lib, pathfinder.find_nvidia_header_directory
def load_nvidia_dynamic_lib(name):
    if name == hidden:
        raise pathfinder.DynamicLibNotFoundError(f'Failure finding "lib{name}.so.12": No such file')
    return load(name)
pathfinder.load_nvidia_dynamic_lib = load_nvidia_dynamic_lib
pathfinder.find_nvidia_header_directory = lambda name: None if hidden == "headers" else find(name)
import tinytensor as tt
try:
    print(tt.device("cuda").name)
except tt.DeviceError as error:
    print(error)
"""


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("hidden", "says"),
    [
        ("nothing", "cuda:0"),
        ("nvrtc", "libnvrtc is missing"),
        ("cublas", "libcublas"),
        ("headers", "headers are missing"),
    ],
)
def test_a_machine_with_only_a_driver(hidden, says, tmp_path):
    """The real CuPy on a real GPU, with a part of the toolkit hidden from it."""
    pytest.importorskip("cuda.pathfinder", reason="CuPy 14 finds the toolkit through it")
    try:
        tt.device("cuda")
    except tt.DeviceError as error:
        pytest.skip(str(error))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "CUPY_CACHE_DIR": str(tmp_path)}
    code = f"hidden = {hidden!r}\n" + textwrap.dedent(HIDE)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert says in result.stdout, result.stdout + result.stderr
