"""The learner's folder: a file for each puzzle, and `progress.json` with what is solved and what hints were shown.

puzzles/autograd/01_square.py ...    puzzles/cuda/01_map.cu ...    puzzles/progress.json
"""

import re
from pathlib import Path
from typing import Any

from gpt.errors import UserError, did_you_mean
from gpt.files import read_json, reading, replace_json, replace_text, writing
from learn import autograd, cuda
from learn.puzzle import Puzzle

DEFAULT = "puzzles"
KINDS: tuple[list, ...] = (autograd.PUZZLES, cuda.PUZZLES)
PUZZLES: dict[str, Puzzle] = {puzzle.name: puzzle for puzzles in KINDS for puzzle in puzzles}
NUMBERS = {puzzle.name: i + 1 for puzzles in KINDS for i, puzzle in enumerate(puzzles)}


def find_puzzle(name: str) -> Puzzle:
    """The puzzle of this name, or whose file this is. UserError if there is none."""
    stem = re.sub(r"^\d+_", "", Path(name).stem)
    if stem not in PUZZLES:
        raise UserError(f"{name}: no such puzzle{did_you_mean(stem, PUZZLES)}; python -m learn.puzzles lists them")
    return PUZZLES[stem]


class Folder:
    """A folder of puzzles, which may not exist yet.

    solved: names of the puzzles whose file was right when it was last checked. hints: how many were shown, by name.
    """

    def __init__(self, path: Path):
        self.path = path
        self.solved: set[str] = set()
        self.hints: dict[str, int] = {}
        if self.progress.exists():
            self._read()

    @property
    def progress(self) -> Path:
        """The file with the progress."""
        return self.path / "progress.json"

    @property
    def start_command(self) -> str:
        """The command that writes the files that are missing in this folder."""
        return "python -m learn.puzzles start" + ("" if self.path == Path(DEFAULT) else f" {self.path}")

    def _read(self) -> None:
        try:
            with reading(self.progress):
                content: dict[str, Any] = read_json(self.progress)
            self.solved = set(content["solved"]) & PUZZLES.keys()
            self.hints = {name: int(content["hints"][name]) for name in content["hints"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.progress}: not a record of progress ({error}); delete it to begin a new one"
            ) from None

    def save(self) -> None:
        """Write the progress."""
        replace_json(self.progress, {"solved": [name for name in PUZZLES if name in self.solved], "hints": self.hints})

    def file(self, puzzle: Puzzle) -> Path:
        """The learner's file for a puzzle."""
        return self.path / puzzle.kind / f"{NUMBERS[puzzle.name]:02}_{puzzle.name}{puzzle.suffix}"

    def start(self) -> int:
        """Write the files that do not exist yet; returns how many."""
        missing = [puzzle for puzzle in PUZZLES.values() if not self.file(puzzle).exists()]
        for puzzle in missing:
            path = self.file(puzzle)
            with writing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, puzzle.task())
        self.save()
        return len(missing)

    def is_started(self, puzzle: Puzzle) -> bool:
        """Whether the learner has changed the puzzle's file. UserError if there is no such file."""
        path = self.file(puzzle)
        if not path.exists():
            raise UserError(f"{path}: does not exist; {self.start_command} writes it")
        with reading(path):
            return path.read_text(encoding="utf-8", errors="replace") != puzzle.task()

    def next(self) -> Puzzle | None:
        """The first puzzle that is not solved."""
        return next((puzzle for puzzle in PUZZLES.values() if puzzle.name not in self.solved), None)
