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

from gpt.data import FILE_NAME, FORMAT, STATE
from gpt.encoding import SPLITS
from gpt.errors import UserError
from gpt.files import replace_json, sync, writing
from gpt.vocabulary import CONFIG_NAME, DTYPES
from gpt.vocabulary import FILE_NAME as TOKENIZER_NAME

SAVE_SECONDS = 5
NAMES_KEPT = 1000  # of damaged members; beyond, they are only counted


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
        path = self.directory / STATE
        if (self.directory / FILE_NAME).exists():
            raise UserError(f"--out {self.directory}: already holds a prepared corpus; choose another --out")
        if path.exists():
            return self._read_state(path)
        if self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir())):
            raise UserError(f"--out {self.directory}: exists and is not an empty directory; choose another --out")
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        zeros = dict.fromkeys(SPLITS, 0)
        state = {"settings": self.settings, "units": 0, "bytes": zeros, "documents": zeros, "text_bytes": 0}
        state |= {"source_bytes": 0, "damaged": 0, "damaged_names": []}
        replace_json(path, state)
        return state

    def _read_state(self, path):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            before = state["settings"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged ({error}); remove {self.directory} and begin again") from None
        for name, value in self.settings.items():
            if before.get(name) != value:
                raise UserError(
                    f"--out {self.directory}: holds an unfinished preparation with {name} {before.get(name)}, not "
                    f"{value}; go on with that, or choose another --out"
                )
        return state

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
        state, counts = self.state, {}
        for key, more in (
            ("bytes", {name: len(encoded.tokens[name]) for name in SPLITS}),
            ("documents", encoded.documents),
        ):
            counts[key] = {name: state[key][name] + more[name] for name in SPLITS}
        self.state = {
            **state,
            **counts,
            "units": state["units"] + 1,
            "text_bytes": state["text_bytes"] + encoded.text_bytes,
            "source_bytes": state["source_bytes"] + encoded.size,
            "damaged": state["damaged"] + len(encoded.damaged),
            "damaged_names": (state["damaged_names"] + encoded.damaged)[:NAMES_KEPT],
        }
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


def checksum(path):
    """The SHA-256 of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
