"""A run as its ranks see it: the first one writes it, and the others follow."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt.corpus.tokens import Tokens, open_tokens
from gpt.distributed.agreement import require_agreement
from gpt.training.checkpoint import Progress
from gpt.training.run import Run, open_run
from tinytensor.parallel import Communicator


class NoMetrics:
    """Metrics of a rank that does not write them."""

    def rows(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def append(self, row: dict[str, Any]) -> None:
        """Leave it to the first rank."""


class FollowedRun(Run):
    """A run that another rank writes. What all ranks have to do together is done here, too."""

    @property
    def metrics(self) -> Any:
        """Nothing that could be read."""
        return NoMetrics()

    def tokens(self) -> Tokens:
        """The tokens to train on, as large as they must be; the first rank verifies all of them."""
        return open_tokens(self.directory)

    def save(self, progress: Progress, model: Any, optimizer: Any) -> None:
        """Give the first rank this one's part of the optimizer's state."""
        optimizer.state_dict()

    def record_val_loss(self, progress: Progress, val_loss: float, model: Any) -> None:
        """Record a validation loss."""
        progress.val_loss = val_loss

    def restore(self, model: Any, optimizer: Any, from_scratch: bool = False) -> tuple[Progress, list[str]]:
        """Nothing yet: `start_together` brings what the first rank has restored."""
        return Progress(), []


def lead(ranks: Communicator, run: Run, changes: Mapping[str, Any]) -> None:
    """In the first rank: let the others open the run, and compare them. Raises UserError."""
    if ranks.size > 1:
        ranks.exchange(str(run.directory.resolve()))
        require_agreement(ranks, run, changes)


def follow(ranks: Communicator, changes: Mapping[str, Any], resumed: bool) -> Run:
    """In the other ranks: the run of the first one, once that exists. Raises UserError."""
    directory = Path(ranks.exchange("")[0])
    run = open_run(directory, changes if resumed else {})
    require_agreement(ranks, run, changes)
    return FollowedRun(run.directory, run.preset, run.model, dataclasses.replace(run.train, sample_interval=0))


def start_together(ranks: Communicator, progress: Progress, model: Any, optimizer: Any) -> Progress:
    """Give all ranks the progress, the weights and the optimizer state that the first one has; returns the progress."""
    if ranks.size == 1:
        return progress
    content = ranks.exchange(json.dumps(dataclasses.asdict(progress)))[0]
    for parameter in model.parameters():
        if not parameter.requires_grad:  # the optimizer knows the others
            ranks.broadcast(parameter.data)
    optimizer.synchronize()
    return Progress(**json.loads(content))
