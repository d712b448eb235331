"""A dry run notes what a program enqueues, from shapes alone: the same launches and shapes as when it is computed."""

import numpy as np
import pytest

import tinytensor as tt
from kernels import emulator
from kernels.cuda.analysis import steps
from kernels.emulator import checked, cupy_like
from kernels.emulator.dry_run import dry_run


@pytest.fixture(scope="module", autouse=True)
def compiler():
    if not emulator.available():
        pytest.skip(emulator.MISSING)


def arrays(*shapes, dtype=np.float32):
    return [cupy_like.zeros(shape, dtype=dtype) for shape in shapes]


def f32(*shape):
    return cupy_like.ones(shape, dtype=np.float32)


RESULTS = {
    "broadcast": lambda: f32(4, 1) + f32(3),
    "comparison": lambda: f32(4) > 0.5,
    "integer division": lambda: cupy_like.arange(5) / 2,
    "weak scalar": lambda: f32(4).astype(np.float16) * 2.0,
    "matrix product": lambda: f32(4, 5) @ f32(5, 3),
    "batch of products": lambda: f32(2, 1, 4, 5) @ f32(7, 5, 3),
    "vector product": lambda: f32(4, 5) @ f32(5),
    "dot": lambda: cupy_like.dot(f32(5), f32(5)),
    "sum of an axis": lambda: f32(4, 5, 6).sum(axis=(0, -1), keepdims=True),
    "sum of booleans": lambda: (f32(4, 5) > 0).sum(),
    "sum in float32": lambda: f32(4, 5).astype(np.float16).sum(axis=0, dtype=np.float32),
    "argmax": lambda: f32(4, 5).argmax(axis=1),
    "any": lambda: (f32(4) > 0).any(),
    "view": lambda: f32(4, 6)[1:, ::2].swapaxes(0, 1),
    "reshape that copies": lambda: f32(4, 6).T.reshape(-1),
    "gather": lambda: f32(6, 5)[cupy_like.arange(4).reshape(2, 2)],
    "sort": lambda: cupy_like.argsort(cupy_like.arange(9)),
    "search": lambda: cupy_like.searchsorted(cupy_like.arange(9), cupy_like.arange(4)),
    "stack": lambda: cupy_like.stack([f32(4, 5), f32(4, 5)], axis=1),
    "concatenate": lambda: cupy_like.concatenate([f32(4, 5), f32(4, 2)], axis=-1),
    "fills": lambda: (cupy_like.zeros((2, 3)) + cupy_like.full((3,), 7)) * cupy_like.ones_like(f32(3)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_have_the_shape_and_dtype_of_computed_ones(name):
    expected = RESULTS[name]()
    with dry_run() as operations:
        y = RESULTS[name]()
    assert (y.shape, y.dtype, y.flags.c_contiguous) == (expected.shape, expected.dtype, expected.flags.c_contiguous)
    assert operations


def test_bytes_are_those_of_each_array_once():
    x, row, y = arrays((100, 30), (30,), (100, 30))
    with dry_run() as operations:
        y[...] = x + cupy_like.broadcast_to(row, (100, 30))
        x += y
        cupy_like.asarray(np.zeros(7, np.float32))
    noted = [(o.kind, o.name, o.read, o.written, o.launches) for o in operations]
    assert noted == [
        ("elementwise", "add", 12_120, 12_000, 1),
        ("copy", "copy", 12_000, 12_000, 1),
        ("elementwise", "add", 24_000, 12_000, 1),
        ("transfer", "from the host", 0, 28, 1),
    ]


def test_arrays_larger_than_the_machine_cost_nothing():
    with dry_run() as operations:
        x = cupy_like.empty((1 << 20, 1 << 14), dtype=np.float32)  # 64 GiB
        y = x[:16] @ x[:16].T
    assert y.shape == (16, 16)
    assert operations[0].operations == 2 * 16 * 16 << 14


def test_values_cannot_be_read():
    with dry_run(), pytest.raises(RuntimeError, match="in a dry run arrays have no values"):
        float(f32(3).sum())


def test_a_function_without_a_rule_is_named():
    with dry_run(), pytest.raises(NotImplementedError, match=r"cumsum: not known to a dry run; add it to dry_run\.py"):
        f32(3).cumsum()


def step(device):
    """Forward, backward and update of a small model; the model and its optimizer."""
    with tt.seeded(1):
        linear, norm = tt.nn.Linear(16, 8).to(device), tt.nn.LayerNorm(16).to(device)
    optimizer = tt.optim.AdamW([*linear.parameters(), *norm.parameters()], lr=0.1)
    x = tt.Tensor(device.put(np.ones((5, 16), np.float32)))
    loss = tt.cross_entropy(linear(tt.gelu(norm(x), approximate="tanh")), np.arange(5) % 8)
    loss.backward()
    optimizer.step(tt.clip_scale(tt.grad_norm(optimizer.parameters(), fused=True), 1.0))
    return optimizer


def test_a_step_launches_what_it_launches_in_earnest():
    device = tt.device("emulated")
    with checked() as launches:
        step(device)
    with dry_run() as operations:
        step(device)
    kernels = [o for o in operations if o.kind == "kernel"]
    assert [o.name for o in kernels] == [launch.kernel for launch in launches]
    adamw = kernels[-1]
    sizes = 16 * 8 + 8 + 16 + 16
    assert steps.moved_and_done(adamw)[1] == 3 * 4 * sizes  # parameters and moments written, besides the table
    assert adamw.args["params"].shape == (sizes,)


def test_rows_are_sums_by_kernel_and_a_step_takes_python_its_time():
    x, w = arrays((64, 32), (32, 16), dtype=np.float16)
    with dry_run() as operations:
        for _ in range(3):
            x @ w
        x[:, :7] @ w[:7]
    (row,) = steps.rows(operations)
    assert (row.name, row.launches, row.operations) == ("cuBLAS products", 4, 2 * 64 * 16 * (3 * 32 + 7))
    assert steps.step_seconds([row], steps.GPUS[0]) == 4 * steps.OVERHEAD
