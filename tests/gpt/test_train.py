"""The command as its user sees it: a run from start to end, interrupted and resumed in every way, and every mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train
from gpt.cli import run_command
from gpt.corpus.folders import pydocs
from gpt.generate import main as generate_main
from gpt.prepare import main as prepare_main
from gpt.training.recipe import RENAMED
from kernels.cpu.threads import set_num_threads

ROOT = Path(train.__file__).parent
PATIENCE = 120  # seconds after which a subprocess must have got somewhere; reached only when it hangs
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX's")


def run(*argv):
    return run_command(train.main, [str(word) for word in argv])


def rows(directory):
    """The metrics without the two fields that tell the time."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    timing = ("tokens_per_second", "seconds")
    return [{key: value for key, value in json.loads(line).items() if key not in timing} for line in lines]


def weights(directory, step):
    """The bytes of a checkpoint's model and optimizer."""
    checkpoint = directory / "checkpoints" / f"step-{step:06d}"
    return [(checkpoint / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer")]


def assert_same_run(one, other, step):
    assert rows(one) == rows(other)
    assert weights(one, step) == weights(other, step)
    assert (one / "best/model.safetensors").read_bytes() == (other / "best/model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def flags(tiny):
    """60 steps with dropout and accumulation, so that all randomness takes part."""
    return [*tiny, "--steps", 60, "--eval-interval", 20, "--dropout", 0.2, "--grad-accum-steps", 2, "--log-interval", 7]


@pytest.fixture(scope="session")
def uninterrupted(flags, tmp_path_factory):
    """The uninterrupted run; read-only."""
    directory = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert run(*flags, "--out", directory) == 0
    return directory


@pytest.fixture
def finished(uninterrupted, tmp_path):
    """A copy of it to resume."""
    shutil.copytree(uninterrupted, tmp_path / "finished")
    return tmp_path / "finished"


def test_a_run_leaves_everything_it_promises_and_says_where(flags, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*flags, "--out", out) == 0
    printed, errors = capsys.readouterr()
    assert "val loss" in printed
    assert errors == ""  # no progress bar in a log
    assert all(str(out / name) in printed and (out / name).exists() for name in ("loss.png", "sample.txt"))
    assert f"python -m gpt.generate {out}" in printed
    assert [row["step"] for row in rows(out)] == [0, 7, 14, 20, 21, 28, 35, 40, 42, 49, 56, 60]
    assert [row["step"] for row in rows(out) if "val_loss" in row] == [0, 20, 40, 60]
    assert set(rows(out)[-1]) == {"step", "train_loss", "lr", "grad_norm", "val_loss"}
    assert len((out / "sample.txt").read_text()) == 501
    assert generate_main([str(out), "--tokens", "5", "--device", "cpu"]) == 0


def test_30_steps_and_a_resumption_equal_60_steps(flags, uninterrupted, tmp_path, capsys):
    resumed = tmp_path / "resumed"
    assert run(*flags, "--out", resumed, "--stop-after", 30) == 0
    assert f"--resume {resumed}" in capsys.readouterr().out
    assert [row["step"] for row in rows(resumed)] == [0, 7, 14, 20, 21, 28]
    assert (resumed / "loss.png").exists()
    assert run("--resume", resumed) == 0
    assert_same_run(uninterrupted, resumed, 60)


def test_a_run_of_the_first_version_resumes_bit_exactly(flags, tmp_path):
    """One whose config.json has the former names and fewer settings, whose meta.json says less, without a manifest."""
    out, uninterrupted = tmp_path / "run", tmp_path / "uninterrupted"
    flags = [*flags, "--positions", "learned", "--optimizer", "adamw", "--schedule", "cosine"]
    assert run(*flags, "--out", uninterrupted) == 0
    assert run(*flags, "--out", out, "--stop-after", 30) == 0
    config, meta = (json.loads((out / name).read_text()) for name in ("config.json", "meta.json"))
    for former, now in RENAMED.items():
        config["train"][former] = config["train"].pop(now)
    del config["model"]["positions"]
    for later in ("optimizer", "schedule", "muon_lr", "val_share", "sample_interval"):
        del config["train"][later]
    (out / "config.json").write_text(json.dumps(config))
    kept = ("format", "source", "dtype", "train", "val")
    (out / "meta.json").write_text(json.dumps({name: meta[name] for name in kept}))
    (out / "manifest.json").unlink()
    assert run("--resume", out) == 0
    assert_same_run(uninterrupted, out, 60)
    assert json.loads((out / "config.json").read_text())["train"].keys() >= {*RENAMED.values()}


@pytest.mark.parametrize("given", [{"init_from": "MODEL"}, {"model": "bigram"}])
def test_the_default_preset_takes_adamw_where_muon_does_not_fit(given, uninterrupted):
    given = {name: str(uninterrupted) if value == "MODEL" else value for name, value in given.items()}
    chosen = [train.configure(train.RunOptions(), changes)[1].optimizer for changes in (given, {}, given)]
    assert chosen == ["adamw", "muon", "adamw"]


def test_what_is_shown_changes_no_bit(flags, tmp_path):
    quiet, talkative = tmp_path / "quiet", tmp_path / "talkative"
    assert run(*flags, "--out", quiet, "--stop-after", 20, "--sample-interval", 0, "--eval-interval", 60) == 0
    assert run(*flags, "--out", talkative, "--stop-after", 10, "--sample-interval", 1, "--eval-interval", 3) == 0
    assert run("--resume", talkative, "--stop-after", 20, "--sample-interval", 2) == 0
    assert weights(quiet, 20) == weights(talkative, 20)


def test_the_share_for_validation_is_chosen_and_recorded(flags, tmp_path, capsys):
    out, corpus = tmp_path / "run", tmp_path / "corpus"
    assert run(*flags, "--out", out, "--steps", 1, "--val-share", 0.25) == 0
    meta = json.loads((out / "meta.json").read_text())
    assert meta["val"] == pytest.approx(0.25 * (meta["train"] + meta["val"]), rel=0.01)
    assert json.loads((out / "config.json").read_text())["train"]["val_share"] == 0.25
    data = flags[flags.index("--data") + 1]
    assert run_command(prepare_main, [data, "--out", str(corpus), "--tokenizer", "char"]) == 0
    capsys.readouterr()
    assert run(*flags, "--data", corpus, "--out", tmp_path / "other", "--val-share", 0.25) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --val-share 0.25: {corpus} was split when it was prepared: leave it out, or")
    assert not (tmp_path / "other").exists()
    assert run(*flags, "--out", tmp_path / "other", "--val-share", 0.001) == 2
    assert "for validation, fewer than the 9 of one window: use a longer text" in capsys.readouterr().err


@pytest.mark.parametrize(("optimizer", "positions"), [("adamw", "learned"), ("muon", "rotary")])
def test_two_processes_resume_bit_exactly_too(flags, tmp_path, optimizer, positions):
    recipe = ["--optimizer", optimizer, "--positions", positions, "--schedule", "linear"]
    flags = [*flags, "--processes", 2, *recipe]
    try:
        assert run(*flags, "--out", tmp_path / "uninterrupted", "--stop-after", 20) == 0
        assert run(*flags, "--out", tmp_path / "resumed", "--stop-after", 10) == 0
        assert run("--resume", tmp_path / "resumed", "--stop-after", 20) == 0
    finally:
        set_num_threads(1)
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "resumed", 20)
    assert generate_main([str(tmp_path / "resumed"), "--tokens", "50", "--device", "cpu"]) == 0


def test_resuming_a_finished_run_changes_nothing(uninterrupted, finished):
    assert run("--resume", finished) == 0
    assert_same_run(uninterrupted, finished, 60)


def test_a_run_can_be_made_longer_but_not_shorter_than_it_is(finished, capsys):
    assert run("--resume", finished, "--steps", 70) == 0
    assert rows(finished)[-1]["step"] == 70
    assert json.loads((finished / "config.json").read_text())["train"]["steps"] == 70
    assert run("--resume", finished, "--steps", 50) == 2
    assert "--steps 50: the run is already at step 70" in capsys.readouterr().err


def test_an_invalid_newest_checkpoint_is_named_and_the_result_is_the_same(flags, uninterrupted, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*flags, "--out", out, "--checkpoint-interval", 10, "--stop-after", 30) == 0
    with open(out / "checkpoints/step-000030/model.safetensors", "r+b") as file:
        file.truncate(100)
    assert run("--resume", out) == 0
    assert "step-000030: invalid" in capsys.readouterr().err
    assert_same_run(uninterrupted, out, 60)
    shutil.rmtree(out / "checkpoints/step-000050")
    (out / "checkpoints/step-000060/state.json").unlink()
    assert run("--resume", out) == 2
    assert "no valid checkpoint remains" in capsys.readouterr().err


def started(*argv, **options):
    command = [sys.executable, ROOT / "train.py", *argv]
    return subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True, **options)


def wait_for(path, process):
    """Wait until the process has made `path`."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def last_step(directory):
    return max(int(path.name.removeprefix("step-")) for path in (directory / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM] if sys.platform != "win32" else [])
def test_a_run_that_was_killed_or_interrupted_resumes_bit_exactly(flags, tmp_path, number):
    flags = [*flags, "--steps", 100_000, "--checkpoint-interval", 10]
    out = tmp_path / "run"
    process = started(*flags, "--out", out)
    wait_for(out / "checkpoints" / "step-000020", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert "Traceback" not in errors
    assert (out / "loss.png").exists() == (number != signal.SIGKILL)

    last = last_step(out) + 15
    assert run("--resume", out, "--stop-after", last) == 0
    assert run(*flags, "--out", tmp_path / "uninterrupted", "--stop-after", last) == 0
    assert_same_run(tmp_path / "uninterrupted", out, last)


@pytest.fixture
def split(flags, tmp_path):
    """A run over two processes, under way, and the id of the second."""
    out = tmp_path / "run"
    flags = [*flags, "--processes", 2, "--steps", 100_000, "--checkpoint-interval", 10]
    process = started(*flags, "--out", out, start_new_session=True)
    wait_for(out / "checkpoints" / "step-000020", process)
    yield process, int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()), flags
    process.kill()
    set_num_threads(1)


linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the processes of a run")


@linux
def test_ctrl_c_in_a_terminal_reaches_all_processes_of_a_run_and_it_resumes_bit_exactly(split, tmp_path):
    process, _, flags = split
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in errors
    last = last_step(tmp_path / "run") + 5
    assert run("--resume", tmp_path / "run", "--stop-after", last) == 0
    assert run(*flags, "--out", tmp_path / "uninterrupted", "--stop-after", last) == 0
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "run", last)


@linux
def test_a_process_of_a_run_that_is_killed_is_one_sentence_and_nothing_is_lost(split, tmp_path):
    process, second, _ = split
    os.kill(second, signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    last = errors.splitlines()[-1]
    assert last.startswith("error: a process that worked on a share of the batch was ")
    assert last.endswith(", perhaps for lack of memory: lower --processes or --batch-size")
    assert "Traceback" not in errors
    assert run("--resume", tmp_path / "run", "--stop-after", last_step(tmp_path / "run") + 5) == 0


@posix
def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_it_stays(flags, tmp_path):
    import resource

    out = tmp_path / "run"
    assert run(*flags, "--out", out, "--stop-after", 20) == 0
    before = weights(out, 20)
    size = len(before[1])  # room for the model, none for the larger optimizer state

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.RLIM_INFINITY))

    process = started("--resume", out, preexec_fn=limit)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "error: " in errors
    assert "cannot be written" in errors
    assert "Traceback" not in errors
    assert weights(out, 20) == before
    assert run("--resume", out) == 0


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tiny, tmp_path, capfd):
    out = tmp_path / "run"
    flags = [*tiny, "--lr", 1e30, "--min-lr", 0, "--grad-clip", 0, "--steps", 50, "--warmup-steps", 5]
    assert run(*flags, "--out", out) == 2
    captured = capfd.readouterr().err
    assert "Warning" not in captured
    error = captured.splitlines()[-1]
    assert error.startswith("error: the ")
    assert "at step 10 with learning rate" in error
    assert "lower --lr" in error
    assert not list(out.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "/no/such/file"], "error: /no/such/file: no such file or folder"),
        (["--preset", "nanogpt"], "(did you mean nanogpt-cpu?)"),
        (["--n-layr", "3"], "error: --n-layr: unknown flag (did you mean --n-layer?)"),
        (["--n-embd", "100", "--n-head", "3"], "error: --n-embd 100: must be a multiple of --n-head 3"),
        (["--positions", "rotery"], "error: --positions rotery: must be one of learned, rotary (did you mean rotary?)"),
        (["--n-embd", "12", "--positions", "rotary"], "error: --n-embd 12: with --positions rotary, must"),
        (["--positions", "rotary", "--model", "bigram"], "error: --positions rotary: --model bigram has no positions"),
        (
            ["--muon-lr", "0.1", "--preset", "gpt2"],
            "error: --muon-lr 0.1: --optimizer adamw does not use it: add --opt",
        ),
        (["--weight-decay", "inf"], "error: --weight-decay inf: must be below inf"),
        (["--val-share", "1"], "error: --val-share 1.0: must be below 1"),
        (["--block-size", "0"], "error: --block-size 0: must be at least 1"),
        (["--batch-size", "-4"], "error: --batch-size -4: must be at least 1"),
        (["--steps", "soon"], "error: --steps soon: must be a whole number"),
        (["--stop-after", "-1"], "error: --stop-after -1: must be at least 0"),
        (["--device", "cuda:99"], "error: device 'cuda"),
        (["--device", "quantum"], "error: device 'quantum': must be auto, cpu, cuda"),
        (["--resume", "/no/such/run"], "error: --resume /no/such/run: no such directory"),
        (["--resume", str(ROOT)], "is not the directory of a run"),
        (["--resume", "x", "--preset", "gpt2"], "error: --preset: is fixed when a run is created"),
    ],
)
def test_every_mistake_is_one_sentence_and_leaves_nothing(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.txt: contains no text"),
        (b"short", "bad.txt: has 4 tokens for training, fewer than the 129 of one window"),
        (b"fine so far \xff" * 200, "bad.txt: contains no text; unreadable: "),
    ],
)
def test_a_file_that_cannot_be_trained_on_is_one_sentence(content, message, tmp_path, capsys):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    assert run("--data", path, "--out", tmp_path / "run") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_run_is_never_overwritten(uninterrupted, flags, capsys):
    assert run(*flags, "--out", uninterrupted) == 2
    assert "already contains a run; resume it with --resume" in capsys.readouterr().err


def test_mistakes_show_no_traceback(tmp_path):
    process = started("--presett", "x", cwd=tmp_path)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert errors == "error: --presett: unknown flag (did you mean --preset?)\n"


def count_based_optimum(text):
    """Validation loss of the best bigram table that counting can give: add-one smoothed frequencies of pairs."""
    ids = np.searchsorted(sorted(set(text)), list(text))
    boundary = int(0.9 * len(ids))
    counts = np.ones((ids.max() + 1,) * 2)
    np.add.at(counts, (ids[: boundary - 1], ids[1:boundary]), 1)
    log_p = np.log(counts / counts.sum(axis=1, keepdims=True))
    return -log_p[ids[boundary:-1], ids[boundary + 1 :]].mean()


def test_the_bigram_preset_comes_within_two_hundredths_of_counting(tmp_path):
    """A fifth of the preset's steps, on 27 characters. All of them on the 65 of tinyshakespeare end at 2.4878, where
    counting gives 2.4819: `python train.py --preset bigram --data tinyshakespeare.txt`.
    """
    text = re.sub("[^a-z]+", " ", pydocs().lower())
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    out = tmp_path / "run"
    assert run("--preset", "bigram", "--data", path, "--device", "cpu", "--out", out, "--steps", 6000) == 0
    assert rows(out)[-1]["val_loss"] <= count_based_optimum(text) + 0.02
