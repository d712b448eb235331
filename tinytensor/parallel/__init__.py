"""A training step on several cores, machines and GPUs, to the same bits on any number of them.

`shares.py` is the rule: what is computed apart, and in which order it is added. `processes.py` divides shares among the
cores of one machine; `ranks.py` connects the processes of several by MPI, `nccl.py` their GPUs, and `sharded.py` is the
step that they make together.
"""

from tinytensor.parallel.processes import BatchParallel, WholeBatch, available_cores, count_targets
from tinytensor.parallel.ranks import ONE_RANK, Communicator, own_cores
from tinytensor.parallel.sharded import Part, ShardedOptimizer
from tinytensor.parallel.shares import shares_of_rank

__all__ = [
    "ONE_RANK",
    "BatchParallel",
    "Communicator",
    "Part",
    "ShardedOptimizer",
    "WholeBatch",
    "available_cores",
    "count_targets",
    "own_cores",
    "shares_of_rank",
]
