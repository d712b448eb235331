"""What a run's files were, so that a resumption notices what was damaged or edited meanwhile.

`manifest.json` in a run directory has the run's configuration, the SHA-256 of each file that does not change, those of
`best/model.safetensors`, and the step of the newest checkpoint. Like the `state.json` of a checkpoint it is sealed: it
contains its own checksum. Token files are covered by `meta.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt.corpus.tokens import META_FILE
from gpt.errors import UserError
from gpt.files import is_sealed, read_json, reading, replace_json, sealed, sha256
from gpt.options import flag
from gpt.tokenizers.files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from gpt.weights.directory import WEIGHTS_FILE
from gpt.weights.families import CONFIG_FILE

MANIFEST_FILE = "manifest.json"
MODEL_FILES = (CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
BEST_WEIGHTS = f"best/{WEIGHTS_FILE}"
FILES = (META_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, *(f"best/{name}" for name in MODEL_FILES), BEST_WEIGHTS)

Config = Mapping[str, Mapping[str, Any]]


class Manifest:
    """The manifest of the run in a directory.

    checkpoint: step of the newest checkpoint that was saved, 0 before the first, None if that is unknown.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.config: Config = {}
        self.files: dict[str, list[str | None]] = {}  # what is valid; None: that the file does not exist
        self.checkpoint: int | None = None

    @property
    def path(self) -> Path:
        """Of the manifest's own file."""
        return self.directory / MANIFEST_FILE

    def create(self, config: Config, checkpoint: int | None) -> None:
        """Write the manifest of the files as they are."""
        self.config, self.checkpoint = config, checkpoint
        self.files = {name: [sha256(self.directory / name)] for name in FILES if (self.directory / name).exists()}
        self._write()

    def verify(self, config: Config, may_change: set[str]) -> None:
        """Raise UserError for the first file or setting that is not what it was. Without a manifest, create it."""
        if not self.path.exists():  # an earlier version's run, or one whose changes the user accepts
            self.create(config, None)
            return
        self._read()
        accept = f"or delete {self.path} to accept the change"
        for group, settings in self.config.items():
            for name, value in settings.items():
                now = config[group].get(name, value)
                if now != value and name not in may_change:
                    raise UserError(
                        f"{self.directory / CONFIG_FILE}: {flag(name)} was changed from {value} to {now} since the run "
                        f"was created: put it back, {accept}"
                    )
        for name, valid in self.files.items():
            path = self.directory / name
            with reading(path):
                found = sha256(path) if path.exists() else None
            if found not in valid:
                state = "is not the file that was saved" if found else "is missing"
                raise UserError(f"{path}: {state}: restore it from a copy, {accept}")
            self.files[name] = [found]

    def record_best(self, path: Path) -> None:
        """Record the file at `path`, which is about to replace the best weights; those before it remain valid."""
        self.files[BEST_WEIGHTS] = [*self.files.get(BEST_WEIGHTS, [None])[-1:], sha256(path)]
        self._write()

    def record_checkpoint(self, step: int) -> None:
        """Record that a checkpoint was saved."""
        self.checkpoint = step
        self._write()

    def _read(self) -> None:
        try:
            content = read_json(self.path)
            if not is_sealed(content):
                raise ValueError("its checksum differs")
            self.config, self.files, self.checkpoint = (content[name] for name in ("config", "files", "checkpoint"))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: corrupt ({error}); delete it to resume without what it verifies") from None

    def _write(self) -> None:
        replace_json(self.path, sealed({"config": self.config, "files": self.files, "checkpoint": self.checkpoint}))
