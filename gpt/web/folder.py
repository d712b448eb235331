"""The runs and models in a folder. The page asks for them by name, and gets nothing that is not in this list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpt.errors import UserError
from gpt.files import read_json
from gpt.training.run import RUN_FILE, RUN_FORMAT, Run, open_run
from gpt.weights.directory import WEIGHTS_FILE
from gpt.weights.load import INDEX_FILE, find_directory, model_config


@dataclass(frozen=True)
class Entry:
    """A run or model directory."""

    name: str
    path: Path
    run: Run | None = None  # None for a model directory
    has_model: bool = False  # a run has one from its first evaluation on
    problem: str = ""  # why it is unreadable


class Folder:
    """A folder of runs and models, or one of these alone."""

    def __init__(self, root: Path):
        self.root = root

    def entries(self) -> list[Entry]:
        """What there is now, the newest first. Raises UserError if there is nothing."""
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder; train a model with python train.py, or name another folder")
        candidates = [self.root] if (self.root / RUN_FILE).exists() else list(self.root.iterdir())
        found = [(changed, entry) for path in candidates for changed, entry in [read_entry(path, self.root)] if entry]
        if not found:
            raise UserError(f"{self.root}: contains no run or model; train one with python train.py")
        return [entry for _, entry in sorted(found, key=lambda item: (-item[0], item[1].name))]

    def find(self, name: str | None) -> Entry:
        """The readable entry of that name. Raises UserError."""
        for entry in self.entries():
            if entry.name == name:
                if entry.problem:
                    raise UserError(f"{name}: unreadable ({entry.problem})")
                return entry
        what = (
            f"{name}: there is no such run or model" if name else "no run or model is chosen; the list above has those"
        )
        raise UserError(f"{what} in {self.root}")


def read_entry(path: Path, root: Path) -> tuple[float, Entry | None]:
    """A directory as an Entry, and when it last changed; None if it is neither a run nor a model."""
    name = path.resolve().name
    try:
        if (path.name.startswith(".") and path != root) or not (path / RUN_FILE).exists():
            return 0.0, None
        changed = max(file.stat().st_mtime for file in (path / RUN_FILE, path / "metrics.jsonl") if file.exists())
        directory = find_directory(path)
        if not all(place.resolve().is_relative_to(root.resolve()) for place in (path, directory)):
            return changed, Entry(path.name, path, problem=f"it is a link to a place outside of {root}")
        run = open_run(path, {}) if read_json(path / RUN_FILE).get("format") == RUN_FORMAT else None
        has_model = any((directory / file).exists() for file in (WEIGHTS_FILE, INDEX_FILE))
        if has_model or run is None:
            model_config(directory)  # raises if it is damaged
        return changed, Entry(name, path, run, has_model)
    except (UserError, OSError, ValueError) as error:
        return 0.0, Entry(name, path, problem=str(error).removeprefix("--resume "))
