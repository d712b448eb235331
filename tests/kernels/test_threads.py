"""The process-wide number of threads: set, given back to BLAS, refused, and shut down when it changes."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from kernels.cpu.threads import get_num_threads, no_nested_parallelism, parallel_map, set_num_threads


@pytest.fixture(autouse=True)
def one_thread_afterwards():
    yield
    set_num_threads(1)


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


def test_blas_runs_on_one_thread_beside_ours_and_gets_its_own_back():
    with threadpool_limits(limits=2, user_api="blas"):
        for count in (2, 3):  # the second change must not take the first one's limit for BLAS's own
            set_num_threads(count)
            assert get_num_threads() == count
            assert blas_threads() == {1}
        for _ in range(2):
            set_num_threads(1)
            assert get_num_threads() == 1
            assert blas_threads() == {2}


def test_threads_end_when_the_number_changes():
    before = threading.active_count()
    barrier = threading.Barrier(3)
    set_num_threads(3)
    parallel_map(lambda _: barrier.wait(10), range(3))  # so that all three run
    assert threading.active_count() == before + 2
    set_num_threads(2)
    assert threading.active_count() == before
    parallel_map(abs, range(2))
    set_num_threads(1)
    assert threading.active_count() == before


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_below_one_is_refused_and_changes_nothing(count):
    set_num_threads(2)
    with pytest.raises(ValueError, match=f"set_num_threads: count is {count}: must be at least 1"):
        set_num_threads(count)
    assert get_num_threads() == 2
    assert parallel_map(abs, [-1, -2, -3]) == [1, 2, 3]


def test_without_nested_parallelism_the_caller_does_all_the_work():
    set_num_threads(3)
    with no_nested_parallelism():
        names = parallel_map(lambda _: threading.current_thread(), range(6))
    assert set(names) == {threading.current_thread()}


DISABLED = """
import sys
sys.path[:0] = {path!r}
import numpy as np
import kernels.cpu
from kernels.cpu import compiled
x = np.linspace(-3, 3, 8, dtype=np.float32)
assert compiled._loops() is None
assert np.isfinite(kernels.cpu.gelu_forward(x)).all()
assert np.isfinite(kernels.cpu.softmax_forward(x[None])).all()
"""


def test_numpy_passes_run_where_numba_is_told_not_to_compile(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    program = DISABLED.format(path=[str(Path(__file__).resolve().parents[2])])
    subprocess.run([sys.executable, "-c", program], check=True)
