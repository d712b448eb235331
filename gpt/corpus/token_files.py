"""Token files as they grow, so that they can be gone on with after any end.

Floor 5, above `encoding` and `data`. `state.json` says how far the files are known to be good: it is replaced
at once or not at all, and only after what it speaks of is on the disk. Going on, the files are cut back to it.
When all is written, `meta.json` takes its place, and the directory is one that `--data` accepts. Read
`gpt.prepare` next.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from gpt.corpus.encoding import SPLITS
from gpt.errors import UserError
from gpt.files import replace_json, sync, writing
from gpt.tokenizers.files import CONFIG_NAME, DTYPES
from gpt.tokenizers.files import FILE_NAME as TOKENIZER_NAME
from gpt.training.batches import FILE_NAME, FORMAT, STATE

SAVE_SECONDS = 5
NAMES_KEPT = 1000  # of damaged members; beyond, they are only counted
NOTHING = {
    "units": 0,
    "bytes": dict.fromkeys(SPLITS, 0),  # of the token files
    "documents": dict.fromkeys(SPLITS, 0),
    "text_bytes": 0,
    "source_bytes": 0,
    "damaged": 0,
    "damaged_names": [],
}


class TokenFiles:
    """`train.bin` and `val.bin` of a preparation with certain settings (a dict). A context manager."""

    def __init__(self, directory, settings):
        self.directory = Path(directory)
        self.settings = settings
        self.state = self._open_state()
        self.going_on = self.state["units"] > 0
        self._files, self._saved = {}, 0.0

    def _open_state(self):
        """The state of an unfinished preparation, or of a new one."""
        if (self.directory / FILE_NAME).exists():
            raise UserError(f"--out {self.directory}: already holds a prepared corpus; choose another --out")
        path = self.directory / STATE
        if path.exists():
            state = self._read_state(path)
            if state["settings"] == self.settings:
                return state
            self._require_nothing_done(state)
            self.discard()
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            if any(not file.name.startswith(".") for file in self.directory.iterdir()):
                raise UserError(f"--out {self.directory}: exists and is not an empty directory; choose another --out")
        state = {"settings": self.settings, **NOTHING}
        replace_json(path, state)
        return state

    def _read_state(self, path):
        """The parsed state.json."""
        try:
            return {**NOTHING, "settings": {}} | json.loads(path.read_text(encoding="utf-8"))
        except (OSError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged ({error}); remove {self.directory} and begin again") from None

    def _require_nothing_done(self, state):
        """UserError, with the first setting that differs, if there are tokens of other settings."""
        before = state["settings"]
        if state["units"]:
            name = next(name for name, value in self.settings.items() if before.get(name) != value)
            raise UserError(
                f"--out {self.directory}: holds an unfinished preparation with {name} {before.get(name)}, not "
                f"{self.settings[name]}; go on with that, or choose another --out"
            )

    def __enter__(self):
        for name in SPLITS:
            path = self.directory / f"{name}.bin"
            with writing(path):
                file = self._files[name] = open(path, "ab")
                if file.tell() < self.state["bytes"][name]:
                    raise UserError(f"{path}: is shorter than it was; remove {self.directory} and begin again")
                file.truncate(self.state["bytes"][name])
        self._saved = time.monotonic()
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None or not issubclass(kind, (UserError, OSError)):
                self.save()
        finally:
            for file in self._files.values():
                file.close()

    def append(self, encoded):
        """Add the tokens of the next unit."""
        for name, file in self._files.items():
            with writing(file.name):
                file.write(encoded.tokens[name])
                file.flush()
        self.state = advanced(self.state, encoded)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self):
        """Force the tokens to the disk, then the state that counts them."""
        for file in self._files.values():
            with writing(file.name):
                file.flush()
                os.fsync(file.fileno())
        replace_json(self.directory / STATE, self.state)
        self._saved = time.monotonic()

    def finish(self, source, dtype, vocab_size):
        """Write `meta.json` and remove the state; returns what was written."""
        state, kind = self.state, DTYPES[dtype]
        content = {
            "format": FORMAT,
            "source": source,
            "dtype": kind.str,
            **{name: state["bytes"][name] // kind.itemsize for name in SPLITS},
            "documents": state["documents"],
            "text_bytes": state["text_bytes"],
            "vocab_size": vocab_size,
            "damaged": state["damaged"],
            "damaged_names": state["damaged_names"],
            "sha256": {name: checksum(self.directory / f"{name}.bin") for name in SPLITS},
            "settings": self.settings,
        }
        replace_json(self.directory / FILE_NAME, content)
        (self.directory / STATE).unlink()
        return content

    def discard(self):
        """Remove what was written, so that the command can be given again with other settings."""
        for name in (STATE, *(f"{name}.bin" for name in SPLITS), TOKENIZER_NAME, CONFIG_NAME):
            (self.directory / name).unlink(missing_ok=True)
        sync(self.directory)


def advanced(state, encoded):
    """The state after one more unit: a new one, so that an interruption never finds it half changed."""
    return {
        **state,
        "units": state["units"] + 1,
        "bytes": {name: state["bytes"][name] + len(encoded.tokens[name]) for name in SPLITS},
        "documents": {name: state["documents"][name] + encoded.documents[name] for name in SPLITS},
        "text_bytes": state["text_bytes"] + encoded.text_bytes,
        "source_bytes": state["source_bytes"] + encoded.size,
        "damaged": state["damaged"] + len(encoded.damaged),
        "damaged_names": (state["damaged_names"] + encoded.damaged)[:NAMES_KEPT],
    }


def checksum(path):
    """The SHA-256 of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
