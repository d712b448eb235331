"""Batches: windows that are a function of (seed, step, index) alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpt.training.batches import Batches, EvalWindows, windows
from tinytensor.ops.losses import IGNORE

TOKENS = np.arange(1000, dtype=np.uint16)


def test_targets_are_the_inputs_one_step_later():
    ids, targets = windows(TOKENS, np.array([0, 5]), block_size=3)
    np.testing.assert_array_equal(ids, [[0, 1, 2], [5, 6, 7]])
    np.testing.assert_array_equal(targets, ids + 1)
    assert ids.dtype == targets.dtype == np.int64


def test_a_window_alone_has_targets_of_its_own():
    answers = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1], np.uint8)
    ids, targets = windows(np.arange(10), np.array([0]), 4, answers)
    assert (ids.tolist(), targets.tolist()) == ([[0, 1, 2, 3]], [[IGNORE, IGNORE, 3, 4]])


@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**6), rows=st.integers(1, 6), splits=st.integers(1, 6))
def test_parts_are_slices_of_one_big_batch(seed, step, rows, splits):
    batches = Batches(TOKENS, 8, seed)
    whole = batches.rows(step, slice(0, rows * splits))
    parts = [batches.rows(step, slice(rows * i, rows * (i + 1))) for i in range(splits)]
    for big, small in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(big, np.concatenate(small))


def test_a_batch_depends_on_seed_and_step_and_on_no_earlier_batch():
    batches, rows = Batches(TOKENS, 8, seed=1), slice(0, 16)
    first = batches.rows(5, rows)[0]
    batches.rows(6, rows)
    np.testing.assert_array_equal(batches.rows(5, rows)[0], first)
    assert (batches.rows(6, rows)[0] != first).any()
    assert (Batches(TOKENS, 8, seed=2).rows(5, rows)[0] != first).any()


def test_the_windows_of_a_step_never_change():
    """Fixed numbers: a run must be replayable with any later version of NumPy and of this file."""
    assert Batches(TOKENS, 8, seed=1).starts(0, 0, 4).tolist() == [602, 505, 224, 726]


def test_every_window_can_be_drawn_and_none_exceeds_the_end():
    batches = Batches(np.arange(12, dtype=np.uint16), block_size=8, seed=0)
    starts = np.concatenate([batches.starts(step, 0, 64) for step in range(20)])
    counts = np.bincount(starts)
    assert len(counts) == 4  # windows of 9 tokens in 12 begin at 0, 1, 2, 3
    assert counts.min() > 0.8 * counts.mean()


def test_a_split_of_one_window_is_long_enough():
    shortest = EvalWindows(np.zeros(9, np.uint16), block_size=8, batch_size=2, batches=3)
    assert all(ids.shape == (2, 8) for ids, _ in shortest)


@given(length=st.integers(10, 500), batches=st.integers(1, 20), batch_size=st.integers(1, 8))
def test_evaluation_windows_are_fixed_and_spread_from_end_to_end(length, batches, batch_size):
    eval_windows = EvalWindows(np.arange(length), 8, batch_size, batches)
    once, again = (np.concatenate([ids for ids, _ in eval_windows]) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert len(eval_windows) == batches
    starts, count = once[:, 0], batches * batch_size
    assert starts[0] == 0
    assert starts[-1] >= (length - 8) * (count - 1) // count  # the last is as near the end as the spacing allows
    assert (np.diff(starts) >= 0).all()
