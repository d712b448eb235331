"""Threads: blocks and batches spread over them give what one thread gives, and repeat to the bit."""

import threading

import numpy as np
import pytest

import tinytensor as tt
from kernels.cpu import blocks
from tinytensor import nn
from tinytensor.parallel import BatchParallel


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    """So many threads, for work of any size."""
    monkeypatch.setattr(blocks, "SPREAD_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    blocks.use_threads(request.param)
    yield request.param
    blocks.use_threads(1)


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


def test_spread_keeps_the_order_and_covers_all(threads):
    names = set()

    def work(i):
        names.add(threading.current_thread().name)
        return i * i

    for count in (0, 1, 2, 17):
        assert blocks.spread(work, range(count)) == [i * i for i in range(count)]
    assert len(names) <= threads


def test_spread_inside_spread_stays_where_it_is(threads):
    def outer(_):
        here = threading.current_thread().name
        return set(blocks.spread(lambda _: threading.current_thread().name, range(4))) == {here}

    assert threads == 1 or all(blocks.spread(outer, range(threads)))


def test_an_error_in_a_thread_comes_out(threads):
    def work(i):
        if i == 3:
            raise KeyError(i)

    with pytest.raises(KeyError):
        blocks.spread(work, range(4))
    assert blocks.spread(abs, [-1, 2]) == [1, 2]  # and the threads go on working


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_batch_over_threads_has_the_gradients_of_the_whole(threads, size):
    ids, targets = batch(size)
    whole, parallel = build(), build()
    loss = whole(ids, targets)
    loss.backward()
    result = BatchParallel(parallel).backward(ids, targets)
    np.testing.assert_allclose(result, loss.item(), rtol=1e-5)
    for a, b in zip(gradients(parallel), gradients(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_scaled_batches_accumulate(threads):
    ids, targets = batch(6)
    whole, parallel = build(), build()
    whole(ids, targets).backward()
    spread = BatchParallel(parallel)
    for part in (slice(0, 3), slice(3, 6)):
        spread.backward(ids[part], targets[part], scale=0.5)
    for a, b in zip(gradients(parallel), gradients(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_bits_repeat(threads):
    def run():
        model = build(dropout=0.3)
        parallel = BatchParallel(model)
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


def test_replicas_follow_the_models_mode_and_new_arrays(threads):
    model = build(dropout=0.9)
    parallel = BatchParallel(model)
    model.eval()
    model.load_state_dict({name: array * 0.5 for name, array in model.state_dict().items()})
    ids, targets = batch(4)
    expected = model(ids, targets).item()
    np.testing.assert_allclose(parallel.backward(ids, targets), expected, rtol=1e-5)
