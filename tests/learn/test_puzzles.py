"""The puzzles: solutions are right, wrong answers refused with what the learner must know, and the commands."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gpt.cli import run_command
from kernels import emulator
from kernels.emulator import RawModule
from learn import autograd, check_cuda, cuda
from learn.check_cuda import Output, compare
from learn.folder import PUZZLES, Folder
from learn.puzzle import HERE, Refused, check_within
from learn.puzzles import COMMAND, main
from tests.learn import wrong_answers

needs_compiler = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
SOURCE = "answers.cu"


def solution(name):
    return PUZZLES[name].solution_path().read_text()


def changed(name, wrong):
    """The solution with one change."""
    text = solution(name)
    assert text.count(wrong.old) >= 1, (name, wrong)
    return text.replace(wrong.old, wrong.new, 1)


def refusal(check, *arguments):
    """What the learner is told; empty if the answer is accepted."""
    try:
        check(*arguments)
    except Refused as refused:
        return str(refused)
    return ""


def test_every_puzzle_has_a_task_a_solution_hints_and_wrong_answers():
    assert len(autograd.PUZZLES) >= 15
    assert len(cuda.PUZZLES) >= 20
    assert len(PUZZLES) == len(autograd.PUZZLES) + len(cuda.PUZZLES)
    files = {puzzle.name + puzzle.suffix for puzzle in PUZZLES.values()}
    for folder in ("tasks", "solutions"):
        assert {path.name for path in (HERE / folder).iterdir() if path.is_file()} == files
    for name, puzzle in PUZZLES.items():
        assert f"Puzzle {name}: " in puzzle.task()
        assert f"{COMMAND} check {name}" in puzzle.task()
        assert len(puzzle.hints) >= 2
        wrong = (wrong_answers.AUTOGRAD if puzzle.kind == "autograd" else wrong_answers.CUDA)[name]
        assert len(wrong) >= 3
        assert puzzle.kind == "autograd" or any(w.line for w in wrong), "one that races but is right"


def test_the_page_lists_every_puzzle():
    page = (HERE.parent / "docs" / "puzzles.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(PUZZLES)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of wrong answers
@pytest.mark.parametrize("puzzle", autograd.PUZZLES, ids=lambda puzzle: puzzle.name)
def test_autograd_answers(puzzle, tmp_path):
    puzzle.check(puzzle.solution_path())
    path = tmp_path / f"{puzzle.name}.py"
    path.write_text(puzzle.task())
    assert "is still ...: write it" in refusal(puzzle.check, path)
    for wrong in wrong_answers.AUTOGRAD[puzzle.name]:
        path.write_text(changed(puzzle.name, wrong))
        found = refusal(puzzle.check, path)
        assert re.search(wrong.finding, found), (wrong, found)


def joined(answers):
    """{kernel: source} as one source, which compiles in a fraction of the time, and {kernel: its first line}."""
    text, first = "", {}
    for kernel, source in answers.items():
        first[kernel] = text.count("\n") + 1
        undefine = "".join(f"#undef {macro}\n" for macro in re.findall(r"#define (\w+)", source))
        text += re.sub(r"void \w+\(", f"void {kernel}(", source, count=1) + undefine
    return text, first


def cuda_answers():
    """[(puzzle, kernel, source, Wrong)] of all wrong answers."""
    return [
        (puzzle, f"{puzzle.name}_{i}", changed(puzzle.name, wrong), wrong)
        for puzzle in cuda.PUZZLES
        for i, wrong in enumerate(wrong_answers.CUDA[puzzle.name])
    ]


@needs_compiler
def test_cuda_answers():
    answers = cuda_answers()
    tasks = {f"{puzzle.name}_task": puzzle.task() for puzzle in cuda.PUZZLES}
    solutions = {puzzle.name: solution(puzzle.name) for puzzle in cuda.PUZZLES}
    text, first = joined(solutions | tasks | {kernel: source for _, kernel, source, _ in answers})
    module = RawModule(code=text, name=SOURCE)
    for puzzle in cuda.PUZZLES:
        assert refusal(puzzle.check_kernel, module, puzzle.name) == ""
        assert re.search("was never written|expected", refusal(puzzle.check_kernel, module, f"{puzzle.name}_task"))
    for puzzle, kernel, source, wrong in answers:
        found = refusal(puzzle.check_kernel, module, kernel)
        assert re.search(wrong.finding, found), (kernel, wrong, found)
        assert "\nlaunched with grid (" in found
        if wrong.finding == wrong_answers.RACE:
            assert re.match(rf"kernel {kernel}, block \(.*\), thread \(.*\) (reads|writes|updates)", found)
        if wrong.line:
            (line,) = [i for i, text in enumerate(source.splitlines()) if wrong.line in text]
            assert f"{SOURCE}:{first[kernel] + line}" in found, (kernel, found)


@needs_compiler
def test_answers_that_race_are_right_by_value_in_the_order_of_the_fast_build():
    racing = [answer for answer in cuda_answers() if answer[3].line]
    module = RawModule(code=joined({kernel: source for _, kernel, source, _ in racing})[0], name=SOURCE)
    for puzzle, kernel, _, _ in racing:
        for run in puzzle.runs(np.random.default_rng(0)):
            output = Output(run)
            arguments = [*run.inputs.values(), output, *map(np.int32, run.sizes.values())]
            module.get_function(kernel)(run.grid, run.block, arguments)
            compare(run, output)


def test_a_loop_without_end_is_stopped_and_said(tmp_path, capfd):
    path = tmp_path / "square.py"
    path.write_text(solution("square").replace("gx = 2", "while True:\n            pass\n        gx = 2"))
    assert refusal(check_within, PUZZLES["square"], path, 1) == "it did not end within 1 s: is a loop endless?"
    path.write_text(solution("square").replace("gx = 2", "import os\n        os._exit(3)\n        gx = 2"))
    assert "ended the process that ran it (exit code 3)" in refusal(check_within, PUZZLES["square"], path)
    path.write_text(solution("square").replace("gx = 2", "print(g.shape)\n        gx = 2"))
    assert refusal(check_within, PUZZLES["square"], path) == ""
    assert capfd.readouterr().out.startswith("(3,)\n")


@needs_compiler
def test_a_kernel_without_end_is_stopped_and_said(tmp_path):
    path = tmp_path / "map.cu"
    path.write_text(solution("map").replace("out[i] =", "for (int j = 0; j < 2; j = 0) out[i] ="))
    assert refusal(check_within, PUZZLES["map"], path, 1) == "it did not end within 1 s: is a loop endless?"
    path.write_text(solution("map").replace("out[i]", "aut[i]"))
    assert re.search("map.cu:4.*aut.*not declared", refusal(check_within, PUZZLES["map"], path))
    path.write_text(solution("map").replace("void map", "void mop"))
    assert "has no kernel 'map'" in refusal(check_within, PUZZLES["map"], path)


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("def f(:\n", r"SyntaxError at square.py:1"),
        ("import numpy as np\n1 / 0\n", "ZeroDivisionError at square.py:2: division by zero"),
        ("x = 1\n", r"has no class Square\(Function\)"),
        (solution("square").replace("x * x", "x * 3"), "forward does not compute the formula"),
        (solution("square").replace("2 * self", "2 * sel"), "NameError at square.py:10"),
    ],
)
def test_a_file_that_does_not_work(text, finding, tmp_path):
    path = tmp_path / "square.py"
    path.write_text(text)
    assert re.search(finding, refusal(PUZZLES["square"].check, path))


def test_a_wrong_gradient_is_shown_beside_the_right_one(tmp_path):
    path = tmp_path / "broadcast_add.py"
    path.write_text(solution("broadcast_add").replace("g.sum(axis=0)", "g[0]"))
    found = refusal(PUZZLES["broadcast_add"].check, path).splitlines()
    assert "of inputs (3, 4), (4,): the gradient of input 1 at element (0,) is" in found[0]
    assert found[1] == "dL/db (4,) by finite differences:"
    assert found[3] == "by your vjp:"
    numeric, analytic = (np.array(line.strip(" []").split(), float) for line in (found[2], found[4]))
    g = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_allclose(numeric, g.sum(axis=0), atol=1e-4)
    np.testing.assert_allclose(analytic, g[0], atol=1e-4)


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """A started folder `puzzles` in the current directory."""
    monkeypatch.chdir(tmp_path)
    assert run_command(main, ["start"]) == 0
    assert "41 files written" in capsys.readouterr().out
    return Folder(Path("puzzles"))


def test_check_records_progress(folder, capsys):
    square, relu = (folder.file(PUZZLES[name]) for name in ("square", "relu"))
    assert (str(square), str(relu)) == ("puzzles/autograd/01_square.py", "puzzles/autograd/02_relu.py")
    assert run_command(main, ["check", "square"]) == 1
    assert "01_square.py is unchanged: fill it in" in capsys.readouterr().out
    square.write_text(solution("square"))
    assert run_command(main, ["check", str(square)]) == 0
    assert f"square: solved\nnext: edit {relu}, then {COMMAND} check relu\n" == capsys.readouterr().out
    relu.write_text(solution("relu").replace("g * (", "1 * ("))
    assert run_command(main, ["check"]) == 1
    out = capsys.readouterr().out
    assert "square: solved\nrelu: not yet\n  ReLU of inputs (3, 4)" in out
    assert "1 right, 1 not yet, 39 not begun" in out
    assert run_command(main, []) == 0
    out = capsys.readouterr().out
    assert "(1 of 19 solved)" in out
    assert "[x]  1 square" in out
    assert "[ ]  2 relu" in out
    square.write_text(solution("square").replace("2 *", "3 *"))
    assert run_command(main, ["check", "square"]) == 1
    assert Folder(Path("puzzles")).solved == set()


def test_start_leaves_the_learners_files(folder, capsys):
    square, relu = (folder.file(PUZZLES[name]) for name in ("square", "relu"))
    square.write_text("mine")
    relu.unlink()
    assert run_command(main, ["start"]) == 0
    assert "1 files written, 40 were there" in capsys.readouterr().out
    assert square.read_text() == "mine"
    assert relu.read_text() == PUZZLES["relu"].task()


def test_another_folder_is_named_in_what_to_do_next(tmp_path, capsys):
    puzzles = tmp_path / "mine"
    assert run_command(main, ["list", "--dir", str(puzzles)]) == 0
    assert f"next: {COMMAND} start {puzzles}\n" in capsys.readouterr().out
    assert run_command(main, ["start", str(puzzles)]) == 0
    assert f"check square --dir {puzzles}\n" in capsys.readouterr().out
    assert run_command(main, ["check", "square", "--dir", str(puzzles)]) == 1
    assert f"hint square --dir {puzzles} helps" in capsys.readouterr().out
    (puzzles / "autograd" / "01_square.py").write_text(solution("square"))
    assert run_command(main, ["check", "--dir", str(puzzles)]) == 0


def test_hints_get_more_explicit_and_the_solution_is_apart(folder, capsys):
    hints = PUZZLES["sum"].hints
    for expected in (*hints, hints[-1]):
        assert run_command(main, ["hint", "sum"]) == 0
        assert expected in capsys.readouterr().out
    assert run_command(main, ["solution", "sum"]) == 0
    assert capsys.readouterr().out == solution("sum")


@needs_compiler
def test_a_kernel_is_checked_from_the_command_line(folder, capsys):
    path = folder.file(PUZZLES["histogram"])
    path.write_text(solution("histogram").replace("atomicAdd(&out[ids[i]], 1)", "out[ids[i]] += 1"))
    assert run_command(main, ["check", "histogram"]) == 1
    out = capsys.readouterr().out
    assert re.search(
        r"kernel histogram, block .*, thread .* at 15_histogram.cu:4, which thread .* with no barrier", out
    )


WRONG_USAGE = [
    (["check", "sqare"], "error: sqare: no such puzzle (did you mean square?); python -m learn.puzzles lists them"),
    (["frob"], "error: COMMAND: invalid choice: 'frob'"),
    (["hint"], "error: the following arguments are required: NAME"),
    (["check", "--dir", "nowhere"], "error: nowhere: there are no puzzles; python -m learn.puzzles start nowhere"),
    (["check", "map"], "error: the emulator needs a C++ compiler: install g++"),
    (["check", "max"], "08_max.py: does not exist; python -m learn.puzzles start writes it"),
    (["start", "puzzles/progress.json"], "error: puzzles/progress.json/autograd: cannot be written (Not a directory)"),
]


def test_what_the_user_can_put_right_is_one_sentence(folder, capsys, monkeypatch):
    monkeypatch.setattr(check_cuda, "available", lambda: False)
    folder.file(PUZZLES["map"]).write_text(solution("map"))
    folder.file(PUZZLES["max"]).unlink()
    for argv, sentence in WRONG_USAGE:
        assert run_command(main, argv) == 2
        captured = capsys.readouterr()
        assert sentence in captured.err
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "content", ["", "[]", json.dumps({"solved": 3, "hints": {}}), json.dumps({"hints": {"a": "b"}})]
)
def test_damaged_progress_is_named(content, tmp_path, capsys):
    (tmp_path / "progress.json").write_text(content)
    assert run_command(main, ["list", "--dir", str(tmp_path)]) == 2
    assert "progress.json: not a record of progress" in capsys.readouterr().err
