"""The process-wide number of threads: set, given back to BLAS, refused, and shut down when it changes."""

import importlib
import os
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from kernels.cpu.threads import get_num_threads, no_nested_parallelism, parallel_map, run_together, set_num_threads


@pytest.fixture(autouse=True)
def one_thread_before_and_after():
    set_num_threads(1)
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


@pytest.mark.parametrize("count", [1, 3])
def test_threads_meet_at_every_barrier(count):
    """Each writes its own number and reads the others' from the round before, many times over."""
    numba = pytest.importorskip("numba")
    team_loop = importlib.import_module("kernels.cpu.loops.team")
    barrier, share = team_loop.barrier, team_loop.share

    @numba.njit(nogil=True)
    def rounds(team, member, sums):
        for i in range(1, len(sums)):
            first, end = share(sums.shape[1], member, team[0])
            total = sums[i - 1].sum()
            for n in range(first, end):
                sums[i, n] = total % 1009 + n
            barrier(team)

    set_num_threads(count)
    sums = np.ones((300, 7), np.int64)
    run_together(lambda team, member: rounds(team, member, sums))
    for before, row in pairwise(sums):
        np.testing.assert_array_equal(row, before.sum() % 1009 + np.arange(7))


@pytest.mark.parametrize("failing", [0, 1])
def test_threads_that_wait_for_one_that_fails_do_not_wait_for_ever(failing):
    numba = pytest.importorskip("numba")
    barrier = importlib.import_module("kernels.cpu.loops.team").barrier
    wait = numba.njit(nogil=True)(lambda team: barrier(team))
    wait(np.array([1, 0, 0]))  # compiled

    def work(team, member):
        if member == failing:
            raise KeyboardInterrupt
        wait(team)

    set_num_threads(3)
    with pytest.raises(KeyboardInterrupt):
        run_together(work)
    assert parallel_map(abs, [-1, -2, -3]) == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be bound to processors here")
def test_as_many_threads_as_processors_have_one_each_while_they_work():
    before = os.sched_getaffinity(0)
    for count in (len(before), len(before) + 1):
        set_num_threads(count)
        used: dict[int, set[int]] = {}
        run_together(lambda team, member, used=used: used.update({member: os.sched_getaffinity(0)}))
        assert os.sched_getaffinity(0) == before
        assert sorted(used) == list(range(count))
        if count == len(before) > 1:
            assert set().union(*used.values()) == before
            assert {len(one) for one in used.values()} == {1}
        else:
            assert all(some == before for some in used.values())


def test_without_nested_parallelism_the_caller_is_a_team_of_one():
    set_num_threads(3)
    members: list[tuple[int, int]] = []
    with no_nested_parallelism():
        run_together(lambda team, member: members.append((int(team[0]), member)))
    assert members == [(1, 0)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_has_threads_of_its_own():
    set_num_threads(2)
    run_together(lambda team, member: None)
    child = os.fork()
    if child == 0:
        members: list[int] = []
        run_together(lambda team, member: members.append(member))
        os._exit(0 if sorted(members) == [0, 1] else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads have no processors of their own here")
def test_a_team_works_where_threads_may_not_choose_a_processor(monkeypatch):
    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    set_num_threads(2)
    members: list[int] = []
    run_together(lambda team, member: members.append(member))
    assert sorted(members) == [0, 1]


DISABLED = """
import sys
sys.path[:0] = {path!r}
import numpy as np
import kernels.cpu
qkv = np.random.default_rng(0).standard_normal((1, 40, 3, 2, 8)).astype(np.float32)
for result in zip(*[kernels.cpu.attention_forward(qkv.astype(dtype), 0.5) for dtype in (np.float32, np.float64)]):
    np.testing.assert_allclose(*result, atol=1e-5)
"""


def test_numpy_passes_run_where_numba_is_told_not_to_compile(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    program = DISABLED.format(path=[str(Path(__file__).resolve().parents[2])])
    subprocess.run([sys.executable, "-c", program], check=True)
