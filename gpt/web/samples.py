"""Texts that a run's best model writes while it is trained, one for each that the training saves."""

from __future__ import annotations

import html
import threading
from collections import defaultdict, deque

from gpt.generation.sampling import Sampling
from gpt.training.metrics import Metrics
from gpt.web.folder import Entry
from gpt.web.models import Models, version_of
from gpt.web.sessions import Draft, StopButton

SAMPLE = Sampling(tokens=200)
KEPT = 5  # samples of a run


class Samples:
    """The newest samples of each run that somebody has looked at, shared by all who do."""

    def __init__(self, models: Models):
        self.models = models
        self._written: dict[str, deque[tuple[object, str, str]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._lock = threading.Lock()

    def view(self, entry: Entry) -> str:
        """The samples of a run as HTML, the newest first; the model writes one if it is not the one that wrote that."""
        if not entry.has_model:
            return '<p class="tt-hint">The first evaluation saves a model, which then writes a sample here.</p>'
        with self._lock:
            written, version = self._written[entry.name], version_of(entry.path)
            if not written or written[0][0] != version:
                draft = Draft()
                for _ in draft.extend(self.models.get(entry.name), SAMPLE, StopButton()):
                    pass
                written.appendleft((version, best_so_far(entry), draft.text))
            return "".join(
                f'<figure class="tt-sample"><figcaption>{html.escape(caption)}</figcaption>'
                f"<pre>{html.escape(text)}</pre></figure>"
                for _, caption, text in written
            )


def best_so_far(entry: Entry) -> str:
    """When the best model of a run was saved, as far as its metrics tell."""
    rows = [row for row in Metrics(entry.path / "metrics.jsonl").rows() if "val_loss" in row]
    if not rows:
        return "best model"
    best = min(rows, key=lambda row: row["val_loss"])
    return f"best model, step {best['step']:,}, validation loss {best['val_loss']:.3f}"
