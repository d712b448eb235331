"""Work divided among threads or processes gives what one of them gives, and is bit-reproducible."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tinytensor as tt
from kernels.cpu import blocks, linear
from kernels.cpu.threads import parallel_map, set_num_threads
from tinytensor import nn
from tinytensor.parallel import BatchParallel, WholeBatch


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    """So many threads, for work of any size."""
    monkeypatch.setattr(blocks, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    set_num_threads(request.param)
    yield request.param
    set_num_threads(1)


class Model(nn.Module):
    """ids, targets (B, T) -> loss"""

    def __init__(self, dropout=0.0):
        self.table = nn.Embedding(11, 8)
        self.layers = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 8))

    def forward(self, ids, targets):
        return tt.linear_cross_entropy(self.layers(self.table(ids)), self.table.weight, targets)


def build(dropout=0.0):
    with tt.seeded("weights"):
        return Model(dropout)


def batch(size, time=5):
    return np.random.default_rng(size).integers(0, 11, (2, size, time))


def gradients(model):
    return [p.grad for p in model.parameters()]


def test_parallel_map_keeps_the_order_and_covers_all(threads):
    names = set()

    def work(i):
        names.add(threading.current_thread().name)
        return i * i

    for count in (0, 1, 2, 17):
        assert parallel_map(work, range(count)) == [i * i for i in range(count)]
    assert len(names) <= threads


def test_nested_parallel_map_stays_on_its_thread(threads):
    def outer(_):
        here = threading.current_thread().name
        return set(parallel_map(lambda _: threading.current_thread().name, range(4))) == {here}

    assert threads == 1 or all(parallel_map(outer, range(threads)))


def test_splits_alone_decide_how_sums_are_rounded(monkeypatch):
    """Any number of threads has the same bits, also those that a rank with fewer cores has."""
    monkeypatch.setattr(linear, "PARALLEL_FLOPS", 0)
    monkeypatch.setattr(blocks, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 12)
    x = np.random.default_rng(0).standard_normal((3, 300, 96)).astype(np.float32)
    results = {}
    try:
        for count, splits in ((1, 3), (2, 3), (3, 3), (3, 5)):
            set_num_threads(count, splits)
            with tt.seeded("weights"):
                model = nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 200), nn.GELU(), nn.Linear(200, 96))
            y = model(tt.Tensor(x))
            (y * y).sum().backward()
            results[count, splits] = [y.data.tobytes(), *(p.grad.tobytes() for p in model.parameters())]
    finally:
        set_num_threads(1)
    assert results[1, 3] == results[2, 3] == results[3, 3]
    assert results[1, 3] != results[3, 5]


def test_an_error_in_a_thread_comes_out(threads):
    def work(i):
        if i == 3:
            raise KeyError(i)

    with pytest.raises(KeyError):
        parallel_map(work, range(4))
    assert parallel_map(abs, [-1, 2]) == [1, 2]  # and the threads go on working


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_batch_over_processes_has_the_gradients_of_the_whole(threads, size):
    ids, targets = batch(size)
    whole, parallel = build(), build()
    loss = whole(ids, targets)
    loss.backward()
    result = BatchParallel(parallel, size).backward(ids, targets)
    np.testing.assert_allclose(result, loss.item(), rtol=1e-5)
    for a, b in zip(gradients(parallel), gradients(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_accumulate(threads):
    ids, targets = batch(6)
    whole, parallel = build(), build()
    whole(ids, targets).backward()
    divided = BatchParallel(parallel, 3)
    for part in (slice(0, 3), slice(3, 6)):
        divided.backward(ids[part], targets[part], WholeBatch(3, targets.size))
    for a, b in zip(gradients(parallel), gradients(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


class WithAttention(nn.Module):
    """A model whose attention, positions and channels are all dropped out: ids, targets (B, T) -> loss"""

    def __init__(self):
        self.table, self.qkv, self.drop = nn.Embedding(11, 8), nn.Linear(8, 24), nn.Dropout(0.4)

    def forward(self, ids, targets):
        qkv = self.qkv(self.drop(self.table(ids))).reshape(*ids.shape, 3, 2, 4)
        y = tt.packed_causal_attention(qkv, 0.4).reshape(*ids.shape, 8)
        return tt.linear_cross_entropy(y, self.table.weight, targets)


@pytest.mark.parametrize("ignored", [0.0, 0.6, "rows"])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_sees_the_same_masks_and_loss(monkeypatch, processes, ignored):
    """Against one pass over the whole batch, with dropout, and targets that do not count."""
    monkeypatch.setattr("tinytensor.parallel.processes.PART_TOKENS", 10)  # two rows: several parts in each share
    ids, targets = batch(9)
    if ignored == "rows":
        targets[2:7] = -100  # parts without any target, and more in one process than in another
    else:
        targets[np.random.default_rng(1).random(targets.shape) < ignored] = -100
    with tt.seeded("weights"):
        whole = WithAttention()
    parallel = WithAttention()
    parallel.load_state_dict(whole.state_dict())
    with tt.seeded("step"):
        loss = whole(ids, targets)
        drawn_next = tt.random.next_seed()
    loss.backward()
    with tt.seeded("step"):
        result = BatchParallel(parallel, 9, processes=processes).backward(ids, targets)
        assert tt.random.next_seed() == drawn_next
    np.testing.assert_allclose(result, loss.item(), rtol=1e-5)
    for a, b in zip(gradients(parallel), gradients(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shares", [3, 4, 6, 8])
def test_any_number_of_processes_has_the_same_bits(shares):
    """Also where their blocks of shares are several subtrees, or have rows or shares without targets."""
    ids, targets = batch(7)
    targets[2:4] = -100
    expected = None
    for processes in (1, 2, 3, 5):
        model = build(dropout=0.3)
        parallel = BatchParallel(model, shares, processes=processes)
        assert len(parallel._workers) == min(processes, shares) - 1
        losses = []
        for step in range(2):  # gradients accumulate
            with tt.seeded("step", step):
                losses.append(float(parallel.backward(ids, targets)))
        result = losses, [p.grad.tobytes() for p in model.parameters()]
        expected = expected or result
        assert result == expected


def test_a_batch_without_a_target_that_counts_has_no_loss():
    ids, targets = batch(3)
    assert np.isnan(BatchParallel(build(), 3, processes=2).backward(ids, np.full_like(targets, -100)))


def test_the_bits_repeat(threads):
    def run():
        model = build(dropout=0.3)
        parallel = BatchParallel(model, 7)
        optimizer = tt.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for step in range(5):
            optimizer.zero_grad()
            with tt.seeded("step", step):
                losses.append(float(parallel.backward(*batch(7))))
            optimizer.step()
        return losses, [p.data for p in model.parameters()]

    (losses, weights), (again, same) = run(), run()
    assert losses == again
    assert losses[-1] < losses[0]
    for a, b in zip(weights, same, strict=True):
        np.testing.assert_array_equal(a, b)


def test_processes_follow_the_models_mode_and_new_arrays(threads):
    model = build(dropout=0.9)
    parallel = BatchParallel(model, 4)
    model.eval()
    model.load_state_dict({name: array * 0.5 for name, array in model.state_dict().items()})
    ids, targets = batch(4)
    expected = model(ids, targets).item()
    np.testing.assert_allclose(parallel.backward(ids, targets), expected, rtol=1e-5)


def test_a_batch_of_another_size_than_expected(threads):
    whole, parallel = build(), build()
    split = BatchParallel(parallel, 3)
    for size in (1, 2, 7):
        ids, targets = batch(size)
        loss = whole(ids, targets)
        loss.backward()
        np.testing.assert_allclose(split.backward(ids, targets), loss.item(), rtol=1e-5)
    for a, b in zip(gradients(parallel), gradients(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_without_fork_there_is_one_process(threads, monkeypatch):
    monkeypatch.setattr("tinytensor.parallel.processes.CAN_FORK", False)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("this system cannot fork"))
    whole, parallel = build(), build()
    ids, targets = batch(5)
    loss = whole(ids, targets)
    loss.backward()
    np.testing.assert_allclose(BatchParallel(parallel, 5).backward(ids, targets), loss.item(), rtol=1e-5)
    for a, b in zip(gradients(parallel), gradients(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrong_row", [0, 3])
def test_an_error_in_any_process_comes_out_and_work_goes_on(threads, wrong_row):
    ids, targets = batch(4)
    wrong = ids.copy()
    wrong[wrong_row] = 11
    parallel = BatchParallel(build(), 4)
    expected = parallel.backward(ids, targets)
    with pytest.raises(IndexError):
        parallel.backward(wrong, targets)
    assert parallel.backward(ids, targets) == expected


def test_a_parameter_that_takes_no_part_gets_no_gradient(threads):
    model = build()
    model.spare = nn.Parameter(np.ones(3, np.float32))
    BatchParallel(model, 4).backward(*batch(4))
    assert model.spare.grad is None
    assert model.table.weight.grad is not None


# The life of the processes


@pytest.fixture
def forked(monkeypatch):
    """The ids of the processes that are forked during a test with three of them."""
    ids, fork = [], os.fork

    def noted():
        pid = fork()
        ids.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", noted)
    set_num_threads(3)
    yield ids
    set_num_threads(1)


def is_alive(pid) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("forked")
def test_parameters_of_another_dtype_are_refused():
    model = build()
    parallel = BatchParallel(model, 4)
    model.table.weight.data = model.table.weight.data.astype(np.float64)
    with pytest.raises(TypeError, match="float64"):
        parallel.backward(*batch(4))


def test_processes_end_with_the_object(forked):
    parallel = BatchParallel(build(), 4)
    parallel.backward(*batch(4))
    assert len(forked) == 2
    assert all(map(is_alive, forked))
    del parallel
    gc.collect()
    assert not any(map(is_alive, forked))


def test_ctrl_c_and_sigterm_are_left_to_the_first_process(forked):
    parallel = BatchParallel(build(), 4)
    expected = parallel.backward(*batch(4))
    for pid in forked:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert parallel.backward(*batch(4)) == expected


def test_a_killed_process_is_reported(forked):
    parallel = BatchParallel(build(), 4)
    parallel.backward(*batch(4))
    os.kill(forked[1], signal.SIGKILL)
    for _ in range(2):  # and again: nothing waits for an answer that cannot come
        with pytest.raises(ChildProcessError, match="was killed"):
            parallel.backward(*batch(4))


ENDLESS = """
import os, sys
sys.path[:0] = {path!r}
from kernels.cpu.threads import set_num_threads
from tests.engine.test_parallel import BatchParallel, batch, build
set_num_threads(3)
fork, ids = os.fork, []
os.fork = lambda: ids.append(fork()) or ids[-1]
parallel = BatchParallel(build(), 4)
parallel.backward(*batch(4))
print(*ids, flush=True)
while True:
    parallel.backward(*batch(4))
"""


def test_processes_do_not_outlive_the_first_one_when_it_is_killed():
    program = ENDLESS.format(path=[str(Path(__file__).resolve().parents[2])])
    first = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    others = [int(pid) for pid in first.stdout.readline().split()]
    assert len(others) == 2
    first.kill()
    first.wait()
    deadline = time.monotonic() + 30
    while any(map(is_running, others)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid) -> bool:
    """Whether the process is there and not just waiting for someone to read its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
