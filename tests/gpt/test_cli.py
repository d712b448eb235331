"""The command line: flags become typed settings, mistakes become one sentence and exit code 2."""

import errno
import os
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import tinytensor as tt
from gpt.cli import configure_process, make_parser, parse, run_command
from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.options import field_names, flag, option
from gpt.training.recipe import RENAMED, TrainConfig
from kernels.cpu.threads import set_num_threads


@dataclass(frozen=True)
class Recipe:
    cups: int = option(2, "cups of flour", at_least=1)
    heat: float = option(180.0, "degrees; 50% more for bread")
    cover: bool = option(True, "put the lid on")
    cake: str = option("plain", "what to bake", choices=("plain", "lemon"))


GROUPS = {"recipe": Recipe}


def parsed(*argv):
    return parse(make_parser("bake", "Bake a cake.", GROUPS), GROUPS, argv)


def test_only_flags_that_are_given_are_returned_and_they_have_their_types():
    assert parsed() == {}
    assert parsed("--cups", "3", "--heat", "1e2", "--no-cover") == {"cups": 3, "heat": 100.0, "cover": False}
    assert parsed("--cake=lemon", "--cover") == {"cake": "lemon", "cover": True}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cupz", "3"], "--cupz: unknown flag (did you mean --cups?)"),
        (["--cupz=3"], "--cupz: unknown flag (did you mean --cups?)"),
        (["--no-covr"], "--no-covr: unknown flag (did you mean --no-cover?)"),
        (["--cover=1"], "--cover/--no-cover: takes no value, but was given '1'"),
        (["stray"], "stray: unknown argument"),
        (["--cups", "many"], "--cups many: must be a whole number"),
        (["--heat", "hot"], "--heat hot: must be a number"),
        (["--cups"], "--cups: expected one argument"),
        (["--cup", "3"], "--cup: unknown flag (did you mean --cups?)"),
    ],
)
def test_mistakes_are_one_sentence(argv, message):
    with pytest.raises(UserError) as error:
        parsed(*argv)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("--threads", "--processes"),
        ("--clip", "--grad-clip"),
        ("--warmup", "--warmup-steps"),
        ("--accumulation", "--grad-accum-steps"),
        ("--keep", "--keep-checkpoints"),
    ],
)
def test_a_flag_that_was_renamed_is_answered_with_its_new_name(former, now):
    groups = {"training": TrainConfig}
    with pytest.raises(UserError, match=rf"^{former}: unknown flag \(did you mean {now}\?\)$"):
        parse(make_parser("x", "X.", groups), groups, [former, "3"], RENAMED)


def test_help_shows_every_flag_with_its_default(capsys):
    groups = {"model": GPTConfig, "training": TrainConfig}
    with pytest.raises(SystemExit) as left:
        parse(make_parser("x", "X.", groups, {"n_layer": 77}), groups, ["--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    assert "default 77" in out
    assert all(flag(name) in out for cls in groups.values() for name in field_names(cls))


def test_help_may_hold_a_percent_sign(capsys):
    with pytest.raises(SystemExit):
        parsed("-h")
    assert "50% more" in capsys.readouterr().out


def failing(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("--x 3: too many"), "error: --x 3: too many\n"),
        (tt.DeviceError("no GPU"), "error: no GPU\n"),
        (MemoryError(), "error: out of memory: lower --batch-size"),
        (ChildProcessError("gone"), "error: gone, perhaps for lack of memory: lower --processes"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), "error: a/b: No space left on device\n"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(error, message, capsys):
    assert run_command(failing(error)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_each_command_names_what_would_save_memory(capsys):
    assert run_command(failing(MemoryError()), to_save_memory="lower --samples") == 2
    assert capsys.readouterr().err == "error: out of memory: lower --samples\n"


def test_interruption_is_130_and_success_passes_through(capsys):
    assert run_command(failing(KeyboardInterrupt())) == 130
    assert run_command(lambda argv: len(argv), [1, 2, 3]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda argv: 1 // 0)
    with pytest.raises(FileNotFoundError):
        run_command(lambda argv: os.stat("/no/such/file"))


@pytest.mark.parametrize(("name", "configured"), [("cpu", True), ("cuda:0", False)])
def test_the_process_is_configured_for_the_cpu_alone(monkeypatch, name, configured):
    calls = []
    monkeypatch.setattr("gpt.cli.keep_freed_memory", lambda: calls.append("memory"))
    configure_process(tt.Device(name, np), processes=1)
    assert calls == ["memory"] * configured


@pytest.mark.parametrize("processes", [1, 2])
def test_blas_takes_no_more_cores_than_the_processes(processes):
    with threadpool_limits(limits=3, user_api="blas"):
        try:
            configure_process(tt.device("cpu"), processes)
            assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {1}
        finally:
            set_num_threads(1)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently")
def test_a_closed_pipe_is_not_an_error(capfd):
    assert run_command(failing(BrokenPipeError())) == 0
