"""What does not fit is refused before anything is allocated or written, with a flag and a value that would fit."""

import re
import tempfile

import pytest

import train
from gpt.cli import run_command
from gpt.corpus.preparation import PrepareOptions
from gpt.errors import UserError
from gpt.generate import main as generate
from gpt.model import GPTConfig
from gpt.planning import check, memory
from gpt.planning.check import check_training, format_bytes
from gpt.planning.limits import Limit, host_limit
from gpt.planning.memory import preparation_memory, training_memory
from gpt.planning.plan import format_seconds
from gpt.prepare import main as prepare
from gpt.training.recipe import PRESETS, TrainConfig
from tests.gpt.planning.test_limits import MIB, system

GIB = 1 << 30


@pytest.fixture
def has(monkeypatch):
    """A function that sets how much memory there seems to be."""

    def set_memory(count, name="this machine"):
        monkeypatch.setattr(check, "host_limit", lambda: Limit(count, name))

    monkeypatch.setattr(check, "process_limit", lambda: None)
    set_memory(22 * GIB)
    return set_memory


@pytest.fixture
def error(capsys, tmp_path, monkeypatch):
    """A function that gives a command in an empty directory and returns its error, if nothing is left there."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)

    def call(main, *argv):
        assert run_command(main, [str(word) for word in argv]) == 2
        assert not [*empty.iterdir()]
        captured = capsys.readouterr().err
        assert captured.count("\n") == 1
        return captured

    return call


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("--n-layer", 10**6),
        ("--n-embd", 30000),
        ("--n-embd", 10**6),
        ("--vocab-size", 10**8),
        ("--batch-size", 10**6),
        ("--batch-size", 10**9),
        ("--batch-size", 10**18),
        ("--block-size", 10**7),
        ("--eval-batches", 10**9),
        ("--grad-accum-steps", 10**9),
    ],
)
def test_a_size_out_of_proportion_is_named_with_one_that_fits(has, error, name, value):
    sentence = error(train.main, "--device", "cpu", name, value)
    match = re.match(
        rf"error: {name} {value}: needs about .*, this machine has 22.0 GiB; {name} (\d+) would fit", sentence
    )
    assert match, sentence
    changes = {"device": "cpu", "vocab_size": 1, name[2:].replace("-", "_"): int(match[1])}
    check_training(*train.configure(train.RunOptions(), changes), {})


def test_gpt2_in_a_small_cgroup_is_refused_with_what_would_fit(has, error, tmp_path, monkeypatch):
    files = {"small/memory.max": 1536 * MIB, "small/memory.current": 0}
    root = system(tmp_path / "root", "0::/small\n", files, available=20000, own=0)
    monkeypatch.setattr(check, "host_limit", lambda: host_limit(root))
    sentence = error(train.main, "--preset", "gpt2", "--device", "cpu")
    match = re.search(
        r"needs about [34]\.\d GiB, the cgroup of this process has 1.5 GiB; --n-embd (\d+) would fit", sentence
    )
    assert match, sentence
    assert int(match[1]) % PRESETS["gpt2"]["n_head"] == 0


def test_of_several_flags_the_one_farthest_from_its_default_is_named(has, error):
    sentence = error(train.main, "--device", "cpu", "--batch-size", 64, "--n-layer", 10**6)
    assert sentence.startswith("error: --n-layer 1000000: needs")


def test_where_no_flag_alone_would_do_two_are_named(has, error):
    sentence = error(train.main, "--device", "cpu", "--n-layer", 10**9, "--n-embd", 10**6)
    assert re.search("; lower --n-(layer|embd) and --n-(embd|layer), or use a machine with more memory\n", sentence)


def test_a_batch_on_a_gpu_is_compared_with_the_gpu(has, monkeypatch, capsys):
    monkeypatch.setattr(check, "device_limit", lambda device: Limit(8 * GIB, "cuda:0"))
    monkeypatch.setattr(check.tt, "device", lambda name: type("Device", (), {"name": "cuda:0"}))
    model, config = (
        GPTConfig(vocab_size=50257, n_embd=768, n_layer=12, n_head=12, block_size=1024),
        TrainConfig(batch_size=64),
    )
    with pytest.raises(check.UserError, match=r"--batch-size 64: .*, cuda:0 has 8.0 GiB; --batch-size [1-9] would fit"):
        check_training(model, config, {})


def test_close_to_the_limit_there_is_a_warning_but_no_error(has, capsys):
    model, config = GPTConfig(vocab_size=100, n_embd=1024), TrainConfig(device="cpu", processes=1)
    (needed,) = check.training_memory("gpt", model, config, "cpu", False)
    has(needed.total * 10 // 9)
    check_training(model, config, {})
    assert re.match(
        r"warning: --\S+ \d+: needs about .* of the .* that this machine has; .* would fit", capsys.readouterr().err
    )
    has(needed.total * 10 // 7)
    check_training(model, config, {})
    assert not capsys.readouterr().err


def test_resuming_uses_the_same_check(has, tiny, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*tiny, "--steps", "2", "--out", str(run)]
    assert run_command(train.main, [*flags, "--stop-after", "1"]) == 0
    capsys.readouterr()
    before = sorted(path.name for path in run.iterdir())
    has(10 * MIB, "the cgroup of this process")
    assert run_command(train.main, ["--resume", str(run)]) == 2
    sentence = capsys.readouterr().err
    assert re.fullmatch(
        r"error: this needs about \d+ MiB, the cgroup of this process has 10 MiB; end other programs, or use a machine "
        r"with more memory\n",
        sentence,
    )
    assert sorted(path.name for path in run.iterdir()) == before
    assert run_command(generate, [str(run), "--tokens", "1"]) == 2
    has(22 * GIB)
    assert run_command(train.main, ["--resume", str(run)]) == 0
    capsys.readouterr()
    assert run_command(generate, [str(run), "--device", "cpu", "--samples", "100000000"]) == 2
    assert re.match(
        r"error: --samples 100000000: .*; --samples \d+ would fit\n",
        capsys.readouterr().err,
    )
    assert run_command(generate, [str(run), "--device", "cpu", "--tokens", "100000000000"]) == 2
    assert re.match(
        r"error: --tokens 100000000000: .*; --tokens \d+ would fit\n",
        capsys.readouterr().err,
    )


def test_a_vocabulary_too_large_to_learn_is_refused(has, error, text_file, monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda: 100 * MIB)
    needed = preparation_memory(PrepareOptions(out="x", tokenizer="bpe"), 1).total
    has(needed + 60 * MIB)
    sentence = error(prepare, text_file, "--out", "prepared", "--tokenizer", "bpe", "--vocab-size", 10**6)
    assert re.match(r"error: --vocab-size 1000000: .*; --vocab-size \d+ would fit\n", sentence)


def test_a_plan_is_printed_and_nothing_written(has, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(train.main, [*tiny, "--plan", "--steps", "7"]) == 0
    assert not [*tmp_path.iterdir()]
    printed = capsys.readouterr().out
    assert re.search(r"^weights +0 +1$", printed, re.MULTILINE)
    assert re.search(r"^peak +\d+$", printed, re.MULTILINE)
    assert re.search(r"^available to this machine +22,528$", printed, re.MULTILINE)
    assert re.search(r"^a step of 16 tokens: [\d.]+ m?s; an evaluation: ", printed, re.MULTILINE)
    assert re.search(r"^steps: 7, evaluations: 2, together about ", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "steps", "evaluations"),
    [
        ([], 8, 3),  # of steps 14 to 21, evaluations at 15, 20 and 21
        (["--processes", "0"], 8, 3),
        (["--steps", "13"], 0, 0),
        (["--steps", "5"], 0, 0),
        (["--steps", "15"], 2, 1),
        (["--from-scratch"], 21, 6),  # and one before the first step
    ],
)
def test_a_plan_of_a_resumption_is_for_the_rest_of_the_run(has, tiny, tmp_path, capsys, changes, steps, evaluations):
    run = tmp_path / "run"
    flags = [*tiny, "--steps", "21", "--eval-interval", "5", "--stop-after", "13", "--out", str(run)]
    assert run_command(train.main, flags) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert run_command(train.main, ["--resume", str(run), "--plan", *changes]) == 0
    assert f"\nsteps: {steps}, evaluations: {evaluations}, together about " in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_plan_where_nothing_can_be_written_is_one_sentence(has, tiny, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/no", "/dev/null"])
    assert run_command(train.main, [*tiny, "--plan"]) == 2
    assert re.fullmatch(
        r"error: No usable temporary directory found in .*: free some space, or set TMPDIR to another directory\n",
        capsys.readouterr().err,
    )


def test_a_limit_of_each_process_can_be_raised(has, error, tiny, monkeypatch):
    monkeypatch.setattr(check, "process_limit", lambda: Limit(10 * MIB, "a process under this ulimit -v"))
    assert re.fullmatch(
        r"error: this needs about \d+ MiB, a process under this ulimit -v has 10 MiB; raise that limit\n",
        error(train.main, *tiny),
    )


def test_a_setting_of_numba_that_it_does_not_know_changes_nothing(monkeypatch):
    sizes = []
    monkeypatch.setattr(memory, "resident", lambda: 100 * MIB)
    for value in ("", "0", "yes"):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
        sizes.append(training_memory("gpt", GPTConfig(vocab_size=65), TrainConfig(processes=2), "cpu", False)[0].total)
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_plan_of_what_does_not_fit_ends_after_the_memory(has, tiny, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_command(train.main, [*tiny, "--plan", "--n-layer", "100000000"]) == 2
    captured = capsys.readouterr()
    assert "peak" in captured.out
    assert "a step" not in captured.out
    assert captured.err.startswith("error: --n-layer 100000000: needs about")
    assert not [*tmp_path.iterdir()]


def test_numbers_are_written_as_people_read_them():
    assert [format_bytes(n) for n in (5 * MIB, 3 * GIB // 2, 812 * GIB, 10**40)] == [
        "5 MiB",
        "1.5 GiB",
        "812 GiB",
        "2^80 bytes or more",
    ]
    assert [format_seconds(s) for s in (0.0123, 5.02, 600, 3600 * 5, 86400 * 30)] == [
        "12.3 ms",
        "5.02 s",
        "10 min",
        "5 h",
        "30 days",
    ]


def test_a_check_costs_no_more_than_a_few_evaluations_of_the_formulas(has, monkeypatch):
    calls = []
    predict = check.training_memory
    monkeypatch.setattr(check, "training_memory", lambda *args: calls.append(args) or predict(*args))
    check_training(GPTConfig(vocab_size=100), TrainConfig(device="cpu"), {})
    assert len(calls) == 1


def test_processes_are_forked_before_there_is_state_that_each_would_keep(has, tiny, tmp_path, monkeypatch):
    order = []
    for name in ("make_parallel", "build_optimizer"):
        made = getattr(train, name)
        monkeypatch.setattr(train, name, lambda *args, made=made, name=name: order.append(name) or made(*args))
    assert run_command(train.main, [*tiny, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    assert order == ["make_parallel", "build_optimizer"]


def test_advice_leaves_a_window_for_each_share(has):
    has(1 << 28)
    settings = {"shares": 6, "batch_size": 10**6, "grad_accum_steps": 2, "processes": 1, "device": "cpu"}
    with pytest.raises(UserError) as refused:
        check_training(GPTConfig(vocab_size=100, n_embd=1024), TrainConfig(**settings), {"batch_size": 10**6})
    assert "--batch-size" in str(refused.value)  # and no complaint about more shares than windows
