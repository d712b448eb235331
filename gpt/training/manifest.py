"""What a run's files were, so that a resumption notices what was damaged or edited meanwhile.

`manifest.json` in a run directory has the run's configuration, the SHA-256 of each file that does not change, such as
the frozen weights in `base/`, those of `best/model.safetensors`, and the step of the newest checkpoint. Like the
`state.json` of a checkpoint it is sealed: it contains its own checksum. Token files are covered by `meta.json`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt.corpus.tokens import META_FILE
from gpt.errors import UserError
from gpt.files import is_sealed, read_json, reading, replace_json, sealed, sha256
from gpt.options import flag
from gpt.tokenizers.files import GENERATION_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from gpt.weights.adapters import BASE
from gpt.weights.directory import BEST, WEIGHTS_FILE
from gpt.weights.families.common import CONFIG_FILE
from gpt.weights.load import find_directory

MANIFEST_FILE = "manifest.json"
TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, TEMPLATE_FILE, GENERATION_FILE)
BEST_WEIGHTS = f"{BEST}/{WEIGHTS_FILE}"
MODEL_FILES = (CONFIG_FILE, *TOKENIZER_FILES)
FILES = (META_FILE, *TOKENIZER_FILES, *(f"{BEST}/{name}" for name in MODEL_FILES), BEST_WEIGHTS)

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
        base = [f"{BASE}/{path.name}" for path in sorted((self.directory / BASE).glob("*"))]  # of LoRA's adapters
        names = [name for name in (*FILES, *base) if (self.directory / name).exists()]
        self.files = {name: [sha256(self.directory / name)] for name in names}
        self._write()

    def verify(self, config: Config, may_change: set[str]) -> None:
        """Raise UserError for the first file or setting that is not what it was. Without a manifest, create it."""
        if not self.path.exists():  # an earlier version's run, or one whose changes the user accepts
            self.create(config, None)
            return
        self._read()
        for group, settings in self.config.items():
            for name, value in settings.items():
                now = config[group].get(name, value)
                if now != value and name not in may_change:
                    raise UserError(
                        f"{self.directory / CONFIG_FILE}: {flag(name)} was changed from {value} to {now} since the run "
                        f"was created: put it back, or delete {self.path} to accept the change"
                    )
        self._require_valid(self._digests(self.files))

    def verify_best(self) -> None:
        """Raise UserError if the best model is not what it was; a training may be replacing it meanwhile."""
        # read before the manifest, which knows new weights before they are in place, and those before them afterwards
        found = self._digests(name for name in FILES if name.startswith(BEST))
        self._read()
        found |= self._digests(name for name in self.files if name.startswith(f"{BASE}/"))
        self._require_valid({name: digest for name, digest in found.items() if name in self.files})

    def _digests(self, names: Iterable[str]) -> dict[str, str | None]:
        """{name: SHA-256 of the file, None if it is missing}."""
        found: dict[str, str | None] = {}
        for name in names:
            path = self.directory / name
            with reading(path):
                found[name] = sha256(path) if path.exists() else None
        return found

    def _require_valid(self, found: Mapping[str, str | None]) -> None:
        """Raise UserError for the first file that is not what it was."""
        for name, digest in found.items():
            if digest not in self.files[name]:
                path, state = self.directory / name, "is not the file that was saved" if digest else "is missing"
                # without its frozen weights no run can be used
                accept = "" if name.startswith(f"{BASE}/") else f", or delete {self.path} to accept the change"
                raise UserError(f"{path}: {state}: restore it from a copy{accept}")
            self.files[name] = [digest]

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


def find_verified(name: str | Path) -> Path:
    """`find_directory(name)`; UserError if that is the best model of a run, and not what the run's manifest says."""
    directory = find_directory(name)
    place = directory.absolute()  # "." may be one, too
    manifest = Manifest(place.parent)
    if place.name == BEST and manifest.path.exists():
        manifest.verify_best()
    return directory
