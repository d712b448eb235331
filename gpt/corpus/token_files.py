"""Token files being written, so that an interrupted preparation can be resumed.

`state.json` says how much of the files is known to be good: it is replaced atomically, and only after the tokens that
it counts have been flushed to the disk. Resuming truncates the files to it. When everything is written, `meta.json`
takes its place, and the directory is one that `--data` accepts.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt.corpus.encoding import Encoded
from gpt.corpus.split import SPLITS
from gpt.corpus.tokens import (
    ANSWERS,
    FLAGS,
    FORMAT,
    META_FILE,
    STATE_FILE,
    VERIFIED_FILE,
    remember,
    sample_digest,
    scan,
)
from gpt.errors import UserError
from gpt.files import is_sealed, read_json, replace_json, sealed, sync, writing
from gpt.tokenizers.files import COMPANIONS, DTYPES, TOKENIZER_FILE

SAVE_SECONDS = 5
MAX_NAMES = 1000  # of unreadable files and members; further ones are only counted
STATE_VERSION = 4  # of the state, and of the rules by which it came about
INITIAL: dict[str, Any] = {
    "version": STATE_VERSION,
    "units": 0,
    "documents": dict.fromkeys(SPLITS, 0),
    "text_bytes": 0,
    "source_bytes": 0,
    "unreadable": 0,
    "unreadable_names": [],
}


class TokenFiles:
    """`train.bin` and `val.bin` of a preparation with given settings (a dict). A context manager.

    with_answers: there are files `train.answers.bin` and `val.answers.bin`, too, with a byte for each token.
    """

    def __init__(self, directory: str | Path, settings: dict[str, Any], with_answers: bool = False):
        self.directory = Path(directory)
        self.settings = settings
        self.names = (*SPLITS, *(name + ANSWERS for name in SPLITS)) if with_answers else SPLITS
        self.state = self._open_state()
        self.is_resumed = self.state["units"] > 0
        self._files: dict[str, Any] = {}
        self._saved = 0.0

    def _open_state(self) -> dict[str, Any]:
        """The state of an unfinished preparation, or of a new one."""
        path = self.directory / STATE_FILE
        # with a state too, its process was killed at the last instant: finish it again
        if (self.directory / META_FILE).exists() and not path.exists():
            raise UserError(f"--out {self.directory}: already contains a prepared corpus; choose another --out")
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
        state = self._initial()
        replace_json(path, sealed(state))
        return state

    def _initial(self) -> dict[str, Any]:
        return {**INITIAL, "bytes": dict.fromkeys(self.names, 0), "settings": self.settings}

    def _read_state(self, path: Path) -> dict[str, Any]:
        """The parsed state.json."""
        try:
            state = {"version": 1} | read_json(path)
        except (OSError, TypeError, ValueError) as error:
            raise UserError(f"{path}: corrupt ({error}); remove {self.directory} and start again") from None
        if state["version"] != STATE_VERSION:
            raise UserError(f"{path}: was written by another version; remove {self.directory} and start again")
        if not is_sealed(state):
            raise UserError(f"{path}: is not the file that was saved; remove {self.directory} and start again")
        del state["sha256"]
        return state

    def _require_nothing_done(self, state: dict[str, Any]) -> None:
        """UserError, with the first setting that differs, if there are tokens of other settings."""
        before = state["settings"]
        if state["units"]:
            name = next(name for name, value in self.settings.items() if before.get(name) != value)
            raise UserError(
                f"--out {self.directory}: contains an unfinished preparation with {name} {before.get(name)}, not "
                f"{self.settings[name]}; resume it with that setting, or choose another --out"
            )

    def __enter__(self) -> "TokenFiles":
        for name in self.names:
            path = self.directory / f"{name}.bin"
            with writing(path):
                file = self._files[name] = open(path, "ab")
                if file.tell() < self.state["bytes"][name]:
                    raise UserError(f"{path}: has become shorter; remove {self.directory} and start again")
                file.truncate(self.state["bytes"][name])
        self._saved = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or not issubclass(kind, (UserError, OSError)):
                self.save()
        finally:
            for file in self._files.values():
                file.close()

    def append(self, encoded: Encoded) -> None:
        """Add the tokens of the next unit."""
        for name, file in self._files.items():
            with writing(file.name):
                file.write(encoded.tokens[name])
                file.flush()
        self.state = advanced(self.state, encoded)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Flush the tokens to the disk, then the state that counts them."""
        for file in self._files.values():
            with writing(file.name):
                file.flush()
                os.fsync(file.fileno())
        replace_json(self.directory / STATE_FILE, sealed(self.state))
        self._saved = time.monotonic()

    def finish(self, source: str, dtype: str, vocab_size: int) -> dict[str, Any]:
        """Write `meta.json` and remove the state; returns what was written."""
        state, kind = self.state, DTYPES[dtype]
        paths = {name: self.directory / f"{name}.bin" for name in self.names}
        scanned = {name: scan(path, kind if name in SPLITS else FLAGS) for name, path in paths.items()}
        content = {
            "format": FORMAT,
            "source": source,
            "dtype": kind.str,
            **{name: state["bytes"][name] // kind.itemsize for name in SPLITS},
            "documents": state["documents"],
            "text_bytes": state["text_bytes"],
            "vocab_size": vocab_size,
            "unreadable": state["unreadable"],
            "unreadable_names": state["unreadable_names"],
            "sha256": {name: found["sha256"] for name, found in scanned.items()},
            "samples": {name: sample_digest(path) for name, path in paths.items()},
            "settings": self.settings,
        }
        remember([self.directory], scanned)
        replace_json(self.directory / META_FILE, content)
        (self.directory / STATE_FILE).unlink()
        return content

    def discard(self) -> None:
        """Remove what was written, so that the command can be given again with other settings."""
        with suppress(UserError):  # first of all, so that a process killed meanwhile leaves a state that fits
            replace_json(self.directory / STATE_FILE, sealed(self._initial()))
        tokens = (f"{name}.bin" for name in self.names)
        for name in (*tokens, TOKENIZER_FILE, *COMPANIONS, VERIFIED_FILE, STATE_FILE):
            (self.directory / name).unlink(missing_ok=True)
        sync(self.directory)


def advanced(state: dict[str, Any], encoded: Encoded) -> dict[str, Any]:
    """The state after one more unit: a new dict, so that an interruption never finds it half changed."""
    return {
        **state,
        "units": state["units"] + 1,
        "bytes": {name: size + len(encoded.tokens[name]) for name, size in state["bytes"].items()},
        "documents": {name: state["documents"][name] + encoded.documents[name] for name in SPLITS},
        "text_bytes": state["text_bytes"] + encoded.text_bytes,
        "source_bytes": state["source_bytes"] + encoded.size,
        "unreadable": state["unreadable"] + len(encoded.unreadable),
        "unreadable_names": (state["unreadable_names"] + encoded.unreadable)[:MAX_NAMES],
    }
