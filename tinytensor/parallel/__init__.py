"""A training step on several cores: `processes.py` forks a process for each share of the batch."""

from tinytensor.parallel.processes import BatchParallel, WholeBatch, available_cores, count_targets

__all__ = ["BatchParallel", "available_cores", "count_targets"]
