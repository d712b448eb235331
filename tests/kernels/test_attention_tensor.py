"""Attention on tensor cores: values, gradients, masks, bank conflicts, spills and the model of its speed.

The formula in float32, with its operands rounded to 16 bits where the kernels round them, shows what accuracy 16 bits
can give; a kernel's error against float64 may be at most twice that. All launches are checked ones.
"""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels.cuda.attention_tensor as k
import tinytensor as tt
from kernels.cuda.analysis import issue, nvrtc, sass, tensor
from kernels.cuda.launch import KernelArgumentError
from kernels.emulator import checked
from kernels.options import DropoutOptions
from tests.kernels.test_cuda_kernels import attention_mask, ungrouped

SEED = 0x0123_4567_89AB_CDEF
# Each is compiled once: a head size's tiles, with dropout or without, for one dtype; and sizes that are padded to it.
VARIANTS = {
    32: ("float16", 0.2, (1, 5, 24, 32)),
    64: ("bfloat16", 0.0, (33, 40, 63, 64)),
    96: ("bfloat16", 0.2, (65, 72, 96)),
    128: ("float16", 0.0, (100, 120, 127, 128)),
}


@pytest.fixture(scope="module", params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The device under test."""
    try:
        return tt.device(request.param)
    except tt.DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def emulated():
    """The emulated device."""
    try:
        return tt.device("emulated")
    except tt.DeviceError as error:
        pytest.skip(str(error))


def floats(name):
    return np.dtype(name) if name == "float16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


# ---- formulas --------------------------------------------------------------------------------------------------------


def forward(qkv, scale, mask, rounded):
    """y, lse for qkv (B, T, 3, H, D) in float64 or float32; `rounded` is what the operands of products go through."""
    q, key, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D)
    s = np.where(np.tri(q.shape[2], dtype=bool), q.dtype.type(scale) * (q @ key.mT), -np.inf)
    top = s.max(-1, keepdims=True)
    p = np.exp(s - top)
    total = p.sum(-1, keepdims=True)
    y = rounded(p * (mask > 0)).astype(q.dtype) @ v / total * q.dtype.type(mask.max())
    return rounded(y).astype(q.dtype).swapaxes(1, 2), (top + np.log(total))[..., 0]


def backward(g, qkv, scale, mask, rounded):
    y, lse = forward(qkv, scale, mask, rounded)
    q, key, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
    g, y, mask = g.swapaxes(1, 2), y.swapaxes(1, 2), mask.astype(q.dtype)
    s = np.where(np.tri(q.shape[2], dtype=bool), q.dtype.type(scale) * (q @ key.mT), -np.inf)
    p = np.exp(s - lse[..., None])
    ds = rounded(p * (g @ v.mT * mask - (g * y).sum(-1, keepdims=True))).astype(q.dtype)
    gv = rounded(p * (mask > 0)).astype(q.dtype).mT @ g * mask.max()
    return np.stack([a.swapaxes(1, 2) for a in (scale * (ds @ key), scale * (ds.mT @ q), gv)], axis=2).astype(q.dtype)


def grouped(gradient, groups):
    """(B, T, 3, H, D) for every head of queries to (B, T, H + 2 G, D)."""
    B, T, _, H, D = gradient.shape
    kv = gradient[:, :, 1:].reshape(B, T, 2, groups, H // groups, D).sum(4)
    return np.concatenate([gradient[:, :, 0], kv.reshape(B, T, 2 * groups, D)], axis=2)


def by_kernels(device, g, qkv, scale, dropout, groups):
    """y, lse and the gradient as NumPy arrays, 16-bit ones in float64."""
    xp = device.xp
    inputs = xp.asarray(qkv), xp.asarray(g)
    y, lse = k.attention_forward(inputs[0], scale, dropout, groups)
    gqkv = k.attention_backward(inputs[1], inputs[0], y, lse, scale, dropout, groups)
    assert (y.dtype, gqkv.dtype, lse.dtype) == (qkv.dtype, qkv.dtype, np.float32)
    return [xp.asnumpy(a).astype(np.float64) for a in (y, lse, gqkv)]


def watched(device, **options):
    return checked(**options) if device.name == "emulated" else nullcontext()


def compare(device, dtype, shape, groups, p, seed, kind="normal"):
    B, T, H, D = shape
    rng = np.random.default_rng(seed)
    qkv, g = rng.standard_normal((B, T, H + 2 * groups, D)), rng.standard_normal((B, T, H, D))
    scale = D**-0.5
    if kind == "large":  # scores near 1e3, which are exact: all but one weight of a row vanish
        qkv[:, :, : H + groups] = rng.integers(-4, 5, qkv[:, :, : H + groups].shape)
        scale = 2.0 ** int(np.log2(1e3 / 8 / D))
    if kind == "constant":
        qkv[:, :, : H + groups] = 0.5
    qkv, g = qkv.astype(dtype), g.astype(dtype)
    mask = attention_mask(B, T, H, p)
    with watched(device, seed=seed, count_lines=True) as launches:
        got = by_kernels(device, g, qkv, scale, DropoutOptions(p, SEED), groups)

    def formulas(precision, rounded):
        full = ungrouped(qkv.astype(precision), groups)
        gradient = grouped(backward(g.astype(precision), full, scale, mask, rounded), groups)
        return (*forward(full, scale, mask, rounded), rounded(gradient).astype(precision))

    # dp and delta nearly cancel where a weight is nearly 1: then the roundings of y decide, which may fall either way
    products = np.abs(
        np.einsum("bihd,bjhd->bhij", *(x.astype(np.float32) for x in (g, ungrouped(qkv, groups)[:, :, 2])))
    )
    cancelling = (
        2.0 ** (-12 if dtype == np.float16 else -9) * products.max() * scale * np.abs(qkv[:, :, : H + groups]).max()
    )
    usual = formulas(np.float32, lambda x: x.astype(dtype))
    floors = (0, 0, cancelling / 8)
    for result, want, plain, floor in zip(got, formulas(np.float64, lambda x: x), usual, floors, strict=True):
        error, usual_error = np.abs(result - want).max(), np.abs(plain - want).max()
        assert error <= 2 * usual_error + floor + 2e-6 * max(1, np.abs(want).max()), (error, usual_error)
    return launches


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", VARIANTS)
@settings(max_examples=6)
@given(st.data())
def test_accuracy(device, head, data):
    """No fault in the order of threads drawn, error at most twice that of the formula in 16 bits."""
    dtype, p, sizes = VARIANTS[head]
    groups, shared = data.draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (1, 3)]), "groups and heads to each")
    T = data.draw(st.integers(1, 40) | st.sampled_from([63, 64, 65, 130]), "T")
    shape = (
        data.draw(st.integers(1, 2), "B") if T < 64 else 1,
        T,
        groups * shared,
        data.draw(st.sampled_from(sizes), "D"),
    )
    kind = data.draw(st.sampled_from(["normal", "normal", "large", "constant"]))
    compare(device, floats(dtype), shape, groups, p, data.draw(st.integers(0, 2**16), "seed"), kind)


@pytest.mark.parametrize("head", VARIANTS)
def test_no_bank_conflicts(emulated, head):
    """At no line that reads or writes shared memory, with tiles that cross the diagonal and others."""
    dtype, p, _ = VARIANTS[head]
    launches = compare(emulated, floats(dtype), (1, 140, 2, head), 1, p, 3)
    assert [launch.kernel for launch in launches] == list(tensor.TILES)
    for launch in launches:
        shared = [line for line in launch.lines if line.memory == "shared"]
        assert sum(line.accesses for line in shared) > 400
        assert [line for line in shared if line.excess] == []


def test_same_bits_in_ten_orders_of_threads(emulated):
    dtype, p, _ = VARIANTS[32]
    rng = np.random.default_rng(1)
    qkv, g = rng.standard_normal((1, 70, 4, 24)).astype(dtype), rng.standard_normal((1, 70, 2, 24)).astype(dtype)
    results = []
    for seed in range(10):
        with checked(seed, count_lines=True):
            results.append([a.tobytes() for a in by_kernels(emulated, g, qkv, 0.2, DropoutOptions(p, SEED), 1)])
    assert results == results[:1] * 10


def test_gradient_check(emulated):
    """Along drawn directions, against differences of the formula in float64."""
    dtype, p, _ = VARIANTS[32]
    rng = np.random.default_rng(2)
    qkv, g = rng.standard_normal((1, 50, 3, 1, 32)).astype(dtype), rng.standard_normal((1, 50, 1, 32)).astype(dtype)
    mask, wide = attention_mask(1, 50, 1, p), qkv.astype(np.float64)
    with checked(count_lines=True):
        gradient = by_kernels(emulated, g, qkv, 0.2, DropoutOptions(p, SEED), None)[2]
    for _ in range(5):
        direction, h = rng.standard_normal(qkv.shape), 1e-5
        ends = [(forward(wide + step * direction, 0.2, mask, lambda x: x)[0] * g).sum() for step in (h, -h)]
        numeric, analytic = (ends[0] - ends[1]) / (2 * h), (gradient * direction).sum()
        size = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs(numeric - analytic) <= 2.0**-11 * size / 10, (numeric, analytic)


def test_what_the_kernels_refuse(emulated):
    qkv = emulated.xp.zeros((1, 4, 3, 1, 8), dtype=np.float16)
    with pytest.raises(KernelArgumentError, match="scale is -1"):
        k.attention_forward(qkv, -1)
    with pytest.raises(KernelArgumentError, match="float32: must be float16 or bfloat16"):
        k.attention_forward(qkv.astype(np.float32), 1)
    with pytest.raises(KernelArgumentError, match="head size 129"):
        k.attention_forward(emulated.xp.zeros((1, 4, 3, 1, 129), dtype=np.float16), 1)
    y, lse = k.attention_forward(qkv[:0], 1)
    assert k.attention_backward(y, qkv[:0], y, lse, 1).shape == (0, 4, 3, 1, 8)


def test_traffic_is_what_the_formula_says(emulated):
    dtype, p, _ = VARIANTS[32]
    qkv, g = np.zeros((1, 200, 6, 32), dtype), np.zeros((1, 200, 2, 32), dtype)
    with checked(count_lines=True) as launches:
        by_kernels(emulated, g, qkv, 1.0, DropoutOptions(p, SEED), 2)
    for launch in launches:
        work = tensor.work(k.plan(launch.kernel, 32, True, 86), 1, 200, 2, 32)
        assert abs(launch.bytes_read - work.read) <= 0.01 * work.read, launch
        assert launch.bytes_written == work.written, launch


# ---- machine code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", tensor.ARCHITECTURES)
def test_no_spills(architecture, request):
    """The kernel with the most registers, at head size 64; with --thorough all variants."""
    try:
        nvrtc.load_nvrtc()
    except nvrtc.CompilerMissing as error:
        pytest.skip(str(error))
    variants = [tensor.build(k.plan(tensor.KEYS, 64, False, architecture), "bfloat16")]
    if request.config.getoption("--thorough"):
        variants = list(tensor.builds(architecture))
    for variant in variants:
        used = variant.resources(architecture)
        assert (used.spill_stores, used.spill_loads) == (0, 0), variant
        assert 2 * used.registers * variant.threads <= 65_536, variant


@pytest.mark.parametrize("kernel", tensor.TILES)
def test_products_are_tensor_core_instructions(kernel):
    """HMMA in the machine code's loop, as many as the strip's products need; the model's aims."""
    try:
        nvrtc.load_nvrtc()
        sass.find_nvdisasm()
    except nvrtc.CompilerMissing as error:
        pytest.skip(str(error))
    tiles = k.plan(kernel, 64, False, 80)
    loop = tensor.inner_loop(tensor.build(tiles, "bfloat16"), 80)
    needed = tensor.PRODUCTS[kernel] * 16 * tiles.m_tiles * tiles.strip * 64 // 2048
    assert loop["HMMA.16816.F32.BF16"] == needed
    assert issue.utilization(loop, issue.RATES[80], 2) >= 0.6


def test_the_source_asks_for_tensor_cores():
    """Where there is no disassembler: in the text, for both dtypes."""
    text = tensor.source("attention_tensor_forward.cu")
    assert text.count("mma.sync.aligned.m16n8k16.row.col.f32.") == 2


LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @P0 BRA `(.L_x_2) ;
        /*0020*/                   FSEL R2, R2, R3, P1 ;
.L_x_2:
        /*0030*/                   HMMA.16816.F32 R4, R8, R10, R4 ;
        /*0040*/              @!P2 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
"""


def test_the_loop_is_found_without_what_it_skips():
    assert sass.inner_loop(sass.parse(LISTING)) == Counter({"BRA": 2, "HMMA.16816.F32": 1})


def test_the_model_at_its_ends():
    """One warp waits for each place in turn; of two equal places and N warps, each is busy N / (N + 1) of the time."""
    assert issue.cycle_time({"tensor": 10, "shared": 5, "other": 5}, 1) == 20
    for n in (1, 2, 5):
        assert issue.cycle_time({"tensor": 10, "shared": 10}, n) == pytest.approx(10 * (n + 1) / n)
    assert issue.cycle_time({"tensor": 10, "shared": 1}, 50) == pytest.approx(10)
    assert issue.utilization(Counter({"HMMA.16816.F32": 4, "LDSM.16.M88.4": 1}), issue.RATES[80], 1) == 32 / 48
    assert issue.useful_pairs(64, 64, 64) == 65 / 128
