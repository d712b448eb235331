"""Each way to exchange arrays gives what the others give: threads, NCCL's calls, and MPI under its launcher."""

import subprocess
import sys

import numpy as np
import pytest

import tinytensor as tt
from kernels.emulator import available
from tests.parallel.fake_nccl import FakeNccl, World
from tests.parallel.mpi import MPIEXEC, ROOT, needs_mpi
from tests.parallel.threads import run
from tinytensor.parallel import ONE_RANK
from tinytensor.parallel.nccl import NCCLRanks

needs_compiler = pytest.mark.skipif(not available(), reason="the emulated device needs a compiler")


def transcript(ranks, device, seed):
    """What a rank receives in some calls with arrays of random types and lengths, as lists."""
    random, size = np.random.default_rng(seed), ranks.size
    ranks.reserve(8 * 5 * size)
    received = []
    for dtype in ("float32", "float64", "int64", "float16"):
        table = random.integers(0, 5, (size, size))  # values that row sends to column
        counts = random.integers(0, 4, size) if dtype != "float64" else np.full(size, 3)
        mine = device.put((np.arange(table[ranks.rank].sum()) + 100 * ranks.rank).astype(dtype))
        for x in (mine, outgoing(ranks, mine)):
            parts = ranks.all_to_all(x, table[ranks.rank].tolist(), table[:, ranks.rank].tolist())
            received += [part.copy() for part in parts]
        mine = device.put(np.full(counts[ranks.rank], ranks.rank, dtype))
        for x in (outgoing(ranks, mine), mine):
            received += [part.copy() for part in ranks.all_gather(x, counts.tolist())]
        x = device.put(np.full(3, ranks.rank + 7, dtype))
        ranks.broadcast(x)
        received.append(x)
    ranks.barrier()
    texts = ranks.exchange("ä" * ranks.rank)
    flags = [ranks.any(ranks.rank == rank) for rank in (0, size - 1, size)]
    assert all(tt.array_module(x) is device.xp for x in received)
    return [tt.to_numpy(x).tolist() for x in received], texts, flags, ranks.bytes_sent


def outgoing(ranks, values):
    """The same values in an array that may be sent without a copy."""
    x = ranks.outgoing(len(values), values)
    x[...] = values
    return x


def expected(size, seed):
    return run(size, lambda ranks: transcript(ranks, tt.device("cpu"), seed))


def test_one_rank_is_the_smallest_case():
    assert [transcript(ONE_RANK, tt.device("cpu"), 1)] == expected(1, 1)


def test_all_to_all_sends_the_columns_of_a_table():
    table = np.array([[1, 0, 2], [0, 3, 1], [2, 2, 0]])

    def work(ranks):
        x = np.concatenate([np.full(count, 10 * ranks.rank + to) for to, count in enumerate(table[ranks.rank])])
        received = ranks.all_to_all(x, table[ranks.rank].tolist(), table[:, ranks.rank].tolist())
        return [part.tolist() for part in received]

    assert run(3, work) == [[[0], [], [20, 20]], [[], [11, 11, 11], [21, 21]], [[2, 2], [12], []]]


def with_nccl(size, work):
    """[work(ranks)] of ranks that send arrays of the emulated device by NCCL's calls, and the calls of each."""
    world = World(size)
    modules = [FakeNccl(world, tt.device("emulated").xp.cuda.get_current_stream().ptr) for _ in range(size)]
    return run(size, lambda host: work(NCCLRanks(host, modules[host.rank]))), [module.calls for module in modules]


@needs_compiler
@pytest.mark.parametrize("size", [1, 2, 3])
def test_nccl_gives_what_other_ranks_give(size):
    for seed in range(5):
        found, _ = with_nccl(size, lambda ranks: transcript(ranks, tt.device("emulated"), seed))  # noqa: B023
        assert found == expected(size, seed)


@needs_compiler
def test_nccls_calls_are_grouped_with_addresses_counts_and_types():
    device = tt.device("emulated")

    def work(ranks):
        x = device.put(np.arange(3, dtype=np.float32))
        ranks.all_to_all(x, [1, 2], [1 + ranks.rank] * 2)
        ranks.all_gather(x[: 1 + ranks.rank], [1, 2])
        ranks.all_gather(x, [3, 3])
        ranks.all_gather(np.zeros(1), [1, 1])  # of the host: not by NCCL
        return x.data.ptr

    (x, _), ((*calls,), _) = with_nccl(2, work)
    names = ["groupStart", *["send", "recv"] * 2, "groupEnd", "groupStart", *["broadcast"] * 2, "groupEnd", "allGather"]
    assert [call[0] for call in calls] == names
    sent = [call for call in calls if call[0] == "send"]
    assert [(source - x, count, kind, peer) for _, source, _, count, kind, peer in sent] == [(0, 1, 7, 0), (4, 2, 7, 1)]
    received = [call for call in calls if call[0] == "recv"]
    assert received[1][2] - received[0][2] == 4
    assert [(count, kind, peer) for *_, count, kind, peer in received] == [(1, 7, 0), (1, 7, 1)]
    assert [(count, root) for _, _, _, count, _, root in calls[7:9]] == [(1, 0), (2, 1)]


@needs_compiler
def test_the_fake_refuses_what_nccl_does_not_allow():
    device = tt.device("emulated")

    def ungrouped(ranks):
        x = device.put(np.zeros(2, np.float32))
        ranks._comm.send(x.data.ptr, 2, 7, 1 - ranks.rank, 0)

    def unequal(ranks):
        ranks._all_to_all(device.put(np.zeros(2, np.float32)), [1, 1], [2, 2])

    for wrong, message in ((ungrouped, "without a group"), (unequal, "count or type")):
        with pytest.raises(AssertionError, match=message):
            with_nccl(2, wrong)


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import tinytensor as tt
from tests.parallel.test_communicators import transcript
from tinytensor.parallel.ranks import world
ranks = world()
for name in ("cpu", "emulated"):
    lines = ranks.exchange(repr(transcript(ranks, tt.device(name), 3)))
    if ranks.rank == 0:
        print(*lines, sep="\\n", flush=True)
    ranks.bytes_sent = 0
"""


@needs_compiler
@needs_mpi
@pytest.mark.parametrize("size", [1, 3])
def test_mpi_gives_what_other_ranks_give(size):
    command = [MPIEXEC, "-n", str(size), sys.executable, "-c", PROGRAM.format(root=str(ROOT))]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    lines = [line for line in result.stdout.splitlines() if line]
    assert lines == [repr(one) for one in expected(size, 3)] * 2
