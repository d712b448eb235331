"""Puzzles: write the VJP of an operation, or a CUDA kernel, and have it checked: `python -m learn.puzzles`.

No GPU is needed: kernels run on the emulator, which also finds races and accesses outside of arrays. It needs g++.
Answers are code of the learner, and are run as they are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt.cli import Parser, accept_any_text, run_command
from gpt.errors import UserError
from learn.folder import DEFAULT, KINDS, NUMBERS, PUZZLES, Folder, find_puzzle
from learn.puzzle import Puzzle, Refused, check_within

COMMAND = "python -m learn.puzzles"
TITLES = {"autograd": "Autograd: write the vector-Jacobian product", "cuda": "CUDA: write the kernel"}
HELP = f"""\
{COMMAND}                  lists the puzzles and your progress
{COMMAND} start [DIR]      writes a file for each, for you to fill in (default: {DEFAULT})
{COMMAND} check [NAME]     checks your answer, or all that you have begun
{COMMAND} hint NAME        a hint; again, the next one
{COMMAND} solution NAME    a right answer
"""


def make_parser() -> Parser:
    """The parser of the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        COMMAND,
        usage=f"{COMMAND} [COMMAND]",
        description="Learn autograd and CUDA by writing them.\n\n" + HELP,
        epilog="Exit codes: 0 all that was checked is right, 1 it is not, 2 wrong usage, 130 interrupted.",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS)
    show = commands.add_parser("list", help="the puzzles and your progress")
    start = commands.add_parser("start", help="write the files to fill in")
    start.add_argument("dir", nargs="?", default=DEFAULT, metavar="DIR", help=f"where to (default: {DEFAULT})")
    check = commands.add_parser("check", help="check answers")
    check.add_argument("names", nargs="*", metavar="NAME", help="puzzles, or their files (default: all you have begun)")
    hint = commands.add_parser("hint", help="show a hint; again, the next one")
    hint.add_argument("name", metavar="NAME", help="a puzzle, or its file")
    solution = commands.add_parser("solution", help="show a right answer")
    solution.add_argument("name", metavar="NAME", help="a puzzle, or its file")
    for command in (show, check, hint):
        command.add_argument("--dir", default=DEFAULT, metavar="DIR", help=f"your puzzles (default: {DEFAULT})")
    return parser


def list_puzzles(folder: Folder) -> None:
    """Print all puzzles, with a cross at those that are solved."""
    for puzzles in KINDS:
        solved = sum(puzzle.name in folder.solved for puzzle in puzzles)
        print(f"{TITLES[puzzles[0].kind]} ({solved} of {len(puzzles)} solved)\n")
        for puzzle in puzzles:
            mark = "x" if puzzle.name in folder.solved else " "
            print(f"  [{mark}] {NUMBERS[puzzle.name]:2} {puzzle.name:18} {puzzle.title}")
        print()
    print_next(folder)


def dir_option(folder: Folder) -> str:
    """What a command needs to find a folder that is not the default."""
    return "" if folder.path == Path(DEFAULT) else f" --dir {folder.path}"


def print_next(folder: Folder) -> None:
    """Print what to do next."""
    puzzle = folder.next()
    if puzzle is None:
        print("All puzzles are solved.")
    elif folder.file(puzzle).exists():
        print(f"next: edit {folder.file(puzzle)}, then {COMMAND} check {puzzle.name}{dir_option(folder)}")
    else:
        print(f"next: {folder.start_command}")


def check(folder: Folder, puzzle: Puzzle) -> bool:
    """Check one answer, print what was found, record it; whether it is right."""
    finding = None
    if not folder.is_started(puzzle):
        finding = (
            f"{folder.file(puzzle)} is unchanged: fill it in ({COMMAND} hint {puzzle.name}{dir_option(folder)} helps)"
        )
    else:
        try:
            check_within(puzzle, folder.file(puzzle))
        except Refused as refused:
            finding = str(refused)
    folder.solved -= {puzzle.name}
    if finding is None:
        folder.solved |= {puzzle.name}
        print(f"{puzzle.name}: solved")
    else:
        print(f"{puzzle.name}: not yet\n  " + finding.replace("\n", "\n  "))
    folder.save()
    return finding is None


def check_all(folder: Folder, names: Sequence[str]) -> int:
    """Check the puzzles of these names, or all that were begun; the exit code."""
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: there are no puzzles; {folder.start_command} writes them")
    puzzles = [find_puzzle(name) for name in names]
    if not names:
        puzzles = [p for p in PUZZLES.values() if folder.file(p).exists() and folder.is_started(p)]
    right = [check(folder, puzzle) for puzzle in puzzles]
    if not names:
        print(f"{sum(right)} right, {len(right) - sum(right)} not yet, {len(PUZZLES) - len(right)} not begun")
    if all(right):
        print_next(folder)
    return 0 if all(right) else 1


def show_hint(folder: Folder, puzzle: Puzzle) -> None:
    """Print the next hint, or the last one again."""
    number = min(folder.hints.get(puzzle.name, 0) + 1, len(puzzle.hints))
    print(f"hint {number} of {len(puzzle.hints)}: {puzzle.hints[number - 1]}")
    if number == len(puzzle.hints):
        print(f"That was the last one; {COMMAND} solution {puzzle.name} shows an answer.")
    if folder.path.is_dir():
        folder.hints[puzzle.name] = number
        folder.save()


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = make_parser().parse_args(list(sys.argv[1:] if argv is None else argv) or ["list"])
    accept_any_text()
    if arguments.command == "solution":
        print(find_puzzle(arguments.name).solution_path().read_text(encoding="utf-8"), end="")
        return 0
    folder = Folder(Path(arguments.dir))
    if arguments.command == "list":
        list_puzzles(folder)
    elif arguments.command == "start":
        written = folder.start()
        print(f"{folder.path}: {written} files written, {len(PUZZLES) - written} were there and are as they were")
        print_next(folder)
    elif arguments.command == "hint":
        show_hint(folder, find_puzzle(arguments.name))
    else:
        return check_all(folder, arguments.names)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, to_save_memory="end other programs"))
