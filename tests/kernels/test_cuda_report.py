"""The kernels as each architecture would compile them, and the report's formulas against what the emulator counts."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kernels import emulator
from kernels.cuda.analysis import nvrtc, report, traffic
from kernels.cuda.analysis.occupancy import MULTIPROCESSORS, occupancy, resident_blocks
from kernels.cuda.attention import plan
from kernels.cuda.attention_tensor import TILES
from kernels.cuda.launch import SOURCES, SharedMemory, flags, signatures, source

KIB = 1024
MEASURED = (61, 80, 90)  # with every combination of options
OTHERS = tuple(a for a in nvrtc.ARCHITECTURES if a not in MEASURED)


@pytest.fixture(scope="module")
def compiler():
    """NVRTC from PyPI."""
    try:
        nvrtc.load_nvrtc()
    except nvrtc.CompilerMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def counting():
    """The emulator, which needs a C++ compiler."""
    if not emulator.available():
        pytest.skip(emulator.MISSING)


def variants(architecture):
    """{(source, options): Build} of what a device of this architecture would compile."""
    return {(build.source, build.options): build for build in report.builds(architecture)}


@pytest.mark.parametrize("architecture", OTHERS)
def test_every_source_compiles(compiler, architecture):
    """Every source for every architecture, and every combination of options for one of them at least."""
    needed = variants(architecture)
    others = {f"{kernel}.cu" for kernel in TILES}  # tests/kernels/test_attention_tensor.py
    assert {build.source for build in needed.values()} | others == {path.name for path in SOURCES.glob("*.cu")}
    elsewhere = {key for other in (*MEASURED, *OTHERS[: OTHERS.index(architecture)]) for key in variants(other)}
    chosen = {build.source: build for build in needed.values()}  # of each source one
    for build in [*chosen.values(), *(needed[key] for key in needed.keys() - elsewhere)]:
        compiled = nvrtc.resources(source(build.source), architecture, flags(build.defines))
        assert compiled.keys() == signatures(build.source).keys(), build


@pytest.mark.parametrize("architecture", MEASURED)
def test_no_spills_and_enough_occupancy(compiler, architecture):
    for build in report.builds(architecture):
        used = build.resources(architecture)
        assert (used.spill_stores, used.spill_loads) == (0, 0), build
        if build.source == "softmax.cu":
            assert build.occupancy(architecture) >= 0.5, build
        if build.defines.get("HEAD") == 64:
            assert build.occupancy(architecture) >= 0.25, build


@pytest.mark.parametrize(("architecture", "dtype"), [(50, "float16"), (80, "bfloat16"), (120, "bfloat16")])
def test_kernels_of_16_bits_compile_without_spills(compiler, request, architecture, dtype):
    """Of each source one variant, and one beside a residual stream of float32; with --thorough all of them."""
    try:
        nvrtc.include_options()
    except nvrtc.CompilerMissing as error:
        pytest.skip(str(error))
    builds = report.sixteen_bit_builds(architecture, dtype)
    needed = {(build.source, build.kernel, "FLOAT_STREAM" in build.defines): build for build in builds}
    if request.config.getoption("--thorough"):
        needed = dict(enumerate(report.sixteen_bit_builds(architecture, dtype)))
    assert {build.source for build in needed.values()} >= {"softmax.cu", "layer_norm.cu", "gelu.cu", "embedding.cu"}
    for build in needed.values():
        used = build.resources(architecture)
        assert (used.spill_stores, used.spill_loads) == (0, 0), build
        types = {"STORAGE", "FLOAT_STREAM"}
        plain = replace(build, defines={name: n for name, n in build.defines.items() if name not in types})
        assert build.occupancy(architecture) >= min(0.5, plain.occupancy(architecture)), build


def test_a_source_that_does_not_compile_says_where(compiler):
    with pytest.raises(nvrtc.CompileError, match=r'"?broken.cu"?\(7\).*undefined'):
        nvrtc.resources('#line 7 "broken.cu"\nextern "C" __global__ void f(int *p) { *p = q; }', 61)


def test_the_report_compiles_with_cupys_options(compiler, monkeypatch):
    """What CuPy itself passes to NVRTC for a RawModule, recorded where it would compile."""
    core = pytest.importorskip("cupy._core.core", reason="CuPy imports without a GPU", exc_type=ImportError)
    cupys = importlib.import_module("cupy.cuda.compiler")
    try:
        options = core.assemble_cupy_compiler_options(("-DHEAD=64",))
    except RuntimeError as error:
        pytest.skip(str(error))  # no CUDA headers here
    passed = []

    class Program:
        def __init__(self, *args, **kwargs):
            pass

        def compile(self, options, log_stream=None):
            passed.extend(option for option in options if not option.startswith("-I"))
            raise Compiled

    class Compiled(Exception):
        pass

    monkeypatch.setattr(cupys, "_get_arch_for_options_for_nvrtc", lambda arch: (f"-arch=sm_{arch}", "cubin"))
    monkeypatch.setattr(cupys, "_preprocess", lambda *_: "")  # compiles an empty file for its cache key
    monkeypatch.setattr(cupys, "_kernel_cache_backend", SimpleNamespace(load=lambda name: None))
    monkeypatch.setattr(cupys, "_NVRTCProgram", Program)
    with pytest.raises(Compiled):
        cupys._compile_module_with_cache("", options, arch="61")
    assert sorted(passed) == sorted(["-DHEAD=64", "-arch=sm_61", *nvrtc.CUPY_OPTIONS])


def test_occupancy_of_known_cases():
    """By hand: 65,536 / (128 * 32) = 16 warps; 98,304 / 49,152 = 2 blocks of 8 warps; nothing limits but warp slots."""
    assert resident_blocks(61, 256, 128, 0) == 2
    assert resident_blocks(61, 256, 32, 48 * KIB) == 2
    assert occupancy(61, 256, 32, 0) == 1
    assert occupancy(86, 1024, 32, 0) == 32 / 48  # 48 warp slots hold one block of 32
    assert resident_blocks(80, 256, 32, 81 * KIB) == 2  # each block also loses 1 KiB: 2 * 82 = 164
    assert resident_blocks(80, 256, 32, 82 * KIB) == 1
    assert resident_blocks(75, 32, 32, 0) == 16  # block slots


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("owned", [1, 2])
def test_tiles_fit_into_shared_memory(architecture, owned):
    memory = MULTIPROCESSORS[architecture].memory
    for head in range(1, 129):
        tiles = plan(head, owned, memory)
        assert head <= tiles.head <= head + 31
        assert tiles.shared <= memory.per_block
        assert tiles.block_m % 8 == tiles.block_n % 16 == 0
        if owned == 1 or head <= 96:
            assert 2 * (tiles.shared + memory.reserved) <= memory.per_multiprocessor


def test_a_device_without_large_blocks_is_never_asked_for_them():
    assert plan(128, 2, SharedMemory(48 * KIB, 64 * KIB)).shared <= 48 * KIB


# ---- formulas against counts --------------------------------------------------------------------------------------


def close(counted, formula, within):
    assert abs(counted - formula) <= within * formula, (counted, formula)


@pytest.mark.parametrize("T", [128, 512, 1024])
def test_attention_moves_what_the_formula_says(counting, T):
    """Device memory traffic: Q once, K and V once per tile of queries; never T x T numbers."""
    counts = report.count_attention(B=1, T=T, H=1, D=32)
    assert [count.launch.kernel for count in counts] == list(traffic.ATTENTION_KERNELS)
    for count in counts:
        close(count.bytes, count.formula.bytes, 0.05)
        close(count.operations, count.formula.operations, 0.1)


@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (8, 2)])
def test_the_cache_is_read_once_for_a_token(counting, heads, groups):
    """Heads that share keys and values read them together; what the first kernel leaves for the second is little."""
    counts = report.count_cached_attention(B=2, end=500, H=heads, G=groups, D=32)
    assert [count.launch.kernel for count in counts] == ["cached_attention_parts", "cached_attention_merge"]
    for count in counts:
        assert count.bytes == count.formula.bytes
        close(count.operations, count.formula.operations, 0.1)
    cache = 4 * 2 * 2 * groups * 500 * 32
    assert cache <= counts[0].launch.bytes_read <= 1.3 * cache  # and each warp the queries


@pytest.mark.parametrize("columns", [256, 1000, 2048])
def test_row_kernels_move_what_the_formulas_say(counting, columns):
    """A warp, four and sixteen warps per row."""
    for count in report.count_rows(64, columns):
        close(count.bytes, count.formula.bytes, 0.05)
        close(count.operations, count.formula.operations, 0.1)


def test_long_rows_are_read_twice(counting):
    """But for the part that stays in registers."""
    for count in report.count_rows(2, 9000):
        if "softmax" in count.launch.kernel:
            assert count.launch.bytes_read == count.formula.read
            assert count.launch.bytes_written == count.formula.written


def test_the_report_prints_its_tables(compiler, counting, capsys, monkeypatch):
    monkeypatch.setattr(report, "HEAD_SIZES", (64,))
    assert report.main(["--arch", "61"]) == 0
    text = capsys.readouterr().out
    assert "| `softmax_forward` | 32 threads per row |" in text
    assert "| 64 | backward | 64x32, 48 |" in text
    assert "| `gelu_forward` | 64 x 1024 | 0.524 | 0.524 | +0.0% |" in text  # 2 * 64 * 1024 * 4 bytes
    assert "!" not in text  # marks spills
    assert text.count("###") == 4


def test_the_report_names_a_missing_cuda_compiler(monkeypatch, capsys):
    def missing():
        raise nvrtc.CompilerMissing("nvidia-cuda-nvrtc-cu12 is not installed: pip install nvidia-cuda-nvrtc-cu12")

    monkeypatch.setattr(nvrtc, "load_nvrtc", missing)
    nvrtc.resources.cache_clear()
    assert report.main(["--arch", "61"]) == 2
    assert "pip install nvidia-cuda-nvrtc-cu12" in capsys.readouterr().err


def test_the_report_names_a_missing_host_compiler(monkeypatch):
    def missing(*_):
        raise emulator.CompileError(emulator.MISSING)

    monkeypatch.setattr(report, "count_rows", missing)
    assert report.counted_table() == f"Nothing counted: {emulator.MISSING}"


def test_results_are_cached(compiler, monkeypatch, tmp_path):
    """By content: an unchanged source is not compiled again, a changed one is."""
    monkeypatch.setenv("TINYTENSOR_CACHE", str(tmp_path))
    kernel = 'extern "C" __global__ void f(int *p) { *p = 1; }'
    first = nvrtc.resources(kernel, 61)
    nvrtc.resources.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(nvrtc, "compiler_log", None)
        assert nvrtc.resources(kernel, 61) == first
    assert nvrtc.resources(kernel.replace("f(", "g("), 61).keys() == {"g"}
