"""The kernels as each architecture would compile them, and the report's formulas against what the emulator counts."""

import numpy as np
import pytest

import kernels.cuda as k
import tinytensor as tt
from kernels.cuda import nvrtc, report, traffic
from kernels.cuda.attention import plan
from kernels.cuda.launch import SOURCES, SharedMemory, flags, shared_memory, signatures, source
from kernels.cuda.occupancy import MULTIPROCESSORS, occupancy, resident_blocks
from kernels.emulator import checks

KIB = 1024
MEASURED = (61, 80, 90)  # assembled by ptxas; the other architectures are compiled


@pytest.fixture(scope="module")
def compilers():
    """NVRTC and ptxas from PyPI."""
    try:
        nvrtc.find_compilers()
    except nvrtc.CompilerMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def emulated():
    try:
        return tt.device("emulated").xp
    except tt.DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("architecture", sorted(set(nvrtc.ARCHITECTURES) - set(MEASURED)))
def test_every_source_compiles(compilers, architecture):
    """Each .cu file, and attention.cu for each head size with this architecture's tiles."""
    modules = {(build.source, build.options): build for build in report.builds(architecture)}
    assert {build.source for build in modules.values()} == {path.name for path in SOURCES.glob("*.cu")}
    forward = {b.options for b in modules.values() if b.kernel == "attention_forward"}
    for build in modules.values():
        if build.defines.get("ROW_THREADS") in (32, 128) or build.options in forward:
            continue  # the same text with other constants, which the test below compiles
        ptx = nvrtc.compile_ptx(source(build.source), architecture, flags(build.defines))
        assert f".target sm_{architecture}" in ptx
        assert all(f".entry {name}(" in ptx for name in signatures(build.source)), build


@pytest.mark.parametrize("architecture", MEASURED)
def test_no_spills_and_enough_occupancy(compilers, architecture):
    for build in report.builds(architecture):
        used = build.resources(architecture)
        assert (used.spill_stores, used.spill_loads) == (0, 0), build
        if build.source == "softmax.cu":
            assert build.occupancy(architecture) >= 0.5, build
        if build.defines.get("HEAD") == 64:
            assert build.occupancy(architecture) >= 0.25, build


def test_a_source_that_does_not_compile_says_where(compilers):
    with pytest.raises(nvrtc.CompileError, match=r'"?broken.cu"?\(7\).*undefined'):
        nvrtc.compile_ptx('#line 7 "broken.cu"\nextern "C" __global__ void f(int *p) { *p = q; }', 61)


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
        assert tiles.tile % 8 == tiles.stream % 16 == 0
        if owned == 1 or head <= 96:
            assert 2 * (tiles.shared + memory.reserved) <= memory.per_multiprocessor


def test_a_device_without_large_blocks_is_never_asked_for_them():
    assert plan(128, 2, SharedMemory(48 * KIB, 64 * KIB)).shared <= 48 * KIB


# ---- formulas against counts --------------------------------------------------------------------------------------


def close(counted, formula, within):
    assert abs(counted - formula) <= within * formula, (counted, formula)


def draw(xp, *shape):
    return xp.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("T", [128, 512, 1024])
def test_attention_moves_what_the_formula_says(emulated, T):
    """Device memory traffic: Q once, K and V once per tile of queries; never T x T numbers."""
    B, H, D = 1, 1, 32
    qkv, g = draw(emulated, B, T, 3, H, D), draw(emulated, B, T, H, D)
    with checks.checked(count_flops=True) as launches:
        y, lse = k.attention_forward(qkv, D**-0.5)
        k.attention_backward(g, qkv, y, lse, D**-0.5)
    memory = shared_memory(emulated, 0)
    for launch in launches:
        if launch.kernel == "attention_delta":
            work = traffic.delta_work(B, T, H, D)
        else:
            tiles = plan(D, 1 if launch.kernel == "attention_forward" else 2, memory)
            work = traffic.attention_work(launch.kernel, B, T, H, D, tiles)
            close(launch.flops, work.operations, 0.1)
        close(launch.bytes_read + launch.bytes_written, work.bytes, 0.05)
    assert len(launches) == 4


def count_rows(xp, columns):
    """{kernel: Launch} of each kernel that works row by row or element by element."""
    x, g, weight = draw(xp, 64, columns), draw(xp, 64, columns), draw(xp, columns)
    targets = xp.asarray(np.arange(64) % columns)
    with checks.checked(count_flops=True) as launches:
        k.softmax_backward(g, k.softmax_forward(x))
        k.log_softmax_backward(g, k.log_softmax_forward(x))
        _, mean, rstd = k.layer_norm_forward(x, weight, weight, 1e-5)
        k.layer_norm_backward(g, x, weight, mean, rstd)
        k.gelu_backward(g, k.gelu_forward(x))
        k.dropout(x, 0.0, 1)
        _, lse = k.cross_entropy_forward(x, targets, -1)
        k.cross_entropy_backward(xp.ones((), dtype=np.float32), x, targets, lse, -1)
        k.adamw_update(x, g, draw(xp, 64, columns), g * g, 0.1, 0.9, 0.99, 1e-8, 0.1, 1, 1.0)
    return {launch.kernel: launch for launch in launches}


@pytest.mark.parametrize("columns", [256, 1000])
def test_row_kernels_move_what_the_formulas_say(emulated, columns):
    counted = count_rows(emulated, columns)
    assert set(traffic.ROW_KERNELS) <= set(counted)
    for kernel in traffic.ROW_KERNELS:
        work, launch = traffic.row_work(kernel, 64, columns), counted[kernel]
        close(launch.unique_bytes_read + launch.unique_bytes_written, work.bytes, 0.05)
        if columns == 256:  # beyond, the reduction over a row's many threads weighs more
            close(launch.flops + launch.special, work.operations, 0.3)


def test_long_rows_are_read_twice(emulated):
    x = draw(emulated, 2, 9000)
    with checks.checked() as launches:
        k.softmax_forward(x)
    kept = 2 * traffic.KEPT * traffic.row_threads(9000)  # these stay in registers
    assert launches[0].bytes_read == 4 * (2 * x.size - kept)


def test_the_report_prints_its_tables(compilers, capsys, monkeypatch):
    monkeypatch.setattr(report, "HEAD_SIZES", (64,))
    assert report.main(["--arch", "61"]) == 0
    text = capsys.readouterr().out
    assert "| `softmax_forward` | 32 threads per row |" in text
    assert "| 64 | backward | 64x32, 48 |" in text
    assert "!" not in text  # marks spills
    assert text.count("###") == 3


def test_the_report_names_a_missing_compiler(monkeypatch, capsys):
    def missing(*_):
        raise nvrtc.CompilerMissing("nvidia-cuda-nvrtc-cu12 is not installed: pip install nvidia-cuda-nvrtc-cu12")

    monkeypatch.setattr(nvrtc, "compile_ptx", missing)
    assert report.main(["--arch", "61"]) == 2
    assert "pip install nvidia-cuda-nvrtc-cu12" in capsys.readouterr().err
