"""Any command line ends within a minute and bounded memory: done, refused in one sentence, and nothing else touched.

`pytest --thorough tests/reliability/test_cli_fuzz.py` gives each of the six commands 300 command lines.
"""

import dataclasses
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinytensor as tt
import train
from gpt import chat, export, generate, prepare
from gpt.chat import ChatOptions
from gpt.corpus.preparation import PrepareOptions
from gpt.explain import __main__ as explain
from gpt.generate import Request
from gpt.generation.sampling import Sampling
from gpt.options import flag
from tests.reliability.conftest import examples
from tests.reliability.forks import forked

ODD = [
    "", "-1", "0", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "1_0", "٣", " 3 ", "3.5", "--", "true", "9" * 5000,
]  # fmt: skip
HUGE = [str(sign * number) for number in (2**31, 2**63, 2**64, 10**30) for sign in (1, -1)]
# Flags that ask for work: of these, large values are legal, and take the time and memory that they take.
WORK = {"steps", "stop_after", "grad_accum_steps", "eval_batches", "processes", "tokens", "workers"}
PATHS = {"out", "resume", "data", "init_from", "tokenizer", "directory", "source"}
NAMES = [
    "text.txt", "text.txt", "empty.txt", "binary", "folder", "empty", "fifo", "loop", "run", "run", "run/best",
    "damaged", "corpus", "new", "new/run", "é\n'", "-dash", ".", "missing", "missing/below", "text.txt/below",
    "x" * 300, "x/" * 2500, "/proc/self/mem", "/dev/null", "/dev/full", os.fsdecode(b"\xff\xfe"),
]  # fmt: skip
# what an operating system lets through: any bytes but NUL; not the names of data sets to download
TEXTS = st.binary(max_size=40).map(lambda data: os.fsdecode(data.replace(b"\0", b"").replace(b"/", b"")))
NAMED = st.sampled_from(NAMES) | TEXTS.filter(lambda text: text not in ("..", "pydocs", "stdlib", "gpt2"))
LINES = st.lists(st.sampled_from([b"to be", b"/temp 1", b"/temperature nan", b"/", b"/reset", b" /help"]) | st.binary())

SMALL = ["--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--block-size", "8", "--batch-size", "2"]
SHORT = ["--steps", "3", "--eval-interval", "2", "--eval-batches", "1", "--processes", "1", "--device", "cpu"]
# {name: (main, how a command line that works begins, its groups of flags)}
COMMANDS = {
    "train": (train.main, [*SMALL, *SHORT, "--data", "text.txt", "--out", "new"], tuple(train.GROUPS.values())),
    "resume": (train.main, ["--resume", "run", "--device", "cpu"], tuple(train.GROUPS.values())),
    "generate": (generate.main, ["run", "--tokens", "3", "--device", "cpu"], (Request, Sampling)),
    "chat": (chat.main, ["run", "--tokens", "3", "--device", "cpu"], (ChatOptions, Sampling)),
    "prepare": (prepare.main, ["text.txt", "--out", "new", "--tokenizer", "char"], (PrepareOptions,)),
    "export": (export.main, ["run", "new"], ()),
    "explain": (explain.main, ["run", "--tokens", "3", "--device", "cpu", "--out", "new.html"], (explain.Request,)),
}


def values(field):
    """Values of a flag, of which many are not valid."""
    if field.name in PATHS:
        return NAMED
    if field.name == "device":
        return st.sampled_from(["auto", "cpu", "cuda", "cuda:1", f"cuda:{2**70}", "cuda:-1", "tpu", ""])
    if field.metadata["choices"]:
        return st.sampled_from(field.metadata["choices"]) | TEXTS
    if isinstance(field.default, str):
        return TEXTS
    numbers = st.integers(-1, 9).map(str) | st.sampled_from(ODD)
    if isinstance(field.default, float):
        numbers |= st.floats().map(str)
    return numbers if field.name in WORK else numbers | st.sampled_from(HUGE)


@st.composite
def command_lines(draw, name):
    """A command line that works, changed in up to four places."""
    _, start, groups = COMMANDS[name]
    words = list(start)
    fields = [field for group in groups for field in dataclasses.fields(group)]
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["flag", "flag", "flag", "flag", "replaced", "dropped", "word"]))
        if kind == "flag" and fields:
            field = draw(st.sampled_from(fields))
            if isinstance(field.default, bool):
                words.append(draw(st.sampled_from(["--", "--no-"])) + field.name.replace("_", "-"))
            elif draw(st.booleans()):
                words += [flag(field.name), draw(values(field))]
            else:
                words.append(f"{flag(field.name)}={draw(values(field))}")
        elif kind == "dropped" and words:
            words.pop(draw(st.integers(0, len(words) - 1)))
        elif kind == "word":
            words.insert(draw(st.integers(0, len(words))), draw(NAMED | st.sampled_from(["-h", "--", "-", "--seed"])))
        elif words and not words[0].startswith("-"):  # the argument without a flag
            words[0] = draw(NAMED)
    return [*words, "--stop-after", "9"] if name in ("train", "resume") else words


@pytest.fixture(scope="module")
def world(text_file, _stopped, tmp_path_factory):
    """A directory with good and bad inputs; special files are added to each copy of it."""
    world = tmp_path_factory.mktemp("fuzz") / "world"
    world.mkdir()
    shutil.copy(text_file, world / "text.txt")
    (world / "empty.txt").touch()
    (world / "binary").write_bytes(bytes(range(256)))
    (world / "empty").mkdir()
    (world / "folder/below").mkdir(parents=True)
    shutil.copy(text_file, world / "folder/below/text.txt")
    shutil.copytree(_stopped, world / "run")
    shutil.copytree(_stopped, world / "damaged")
    for path in (world / "damaged").rglob("*.safetensors"):
        os.truncate(path, 500)
    assert run_prepare(text_file, world / "corpus") == 0
    tt.device("auto")  # imports what a GPU needs once, and not in each fork
    return world


def run_prepare(text_file, out):
    return prepare.main([str(text_file), "--out", str(out), "--tokenizer", "char"])


def snapshot(place):
    """{path: content} of all files, and None for the others, but what verification remembers of token files."""
    paths = [path for path in place.rglob("*") if path.name != ".verified.json"]
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in paths
    }


def check(name, argv, world, place, stdin=b""):
    """Run a command line in a fresh copy of the world, and hold it to what all command lines promise."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world, place)
    os.mkfifo(place / "fifo")
    (place / "loop").symlink_to("loop")
    before = snapshot(place)
    end = forked(COMMANDS[name][0], argv, place, stdin)
    case = (name, argv, end)
    assert end.code in (0, 2, 130), case
    assert "Traceback" not in end.errors, case
    if end.code == 2:
        end.error()
    after = snapshot(place)
    made = {path.split("/")[0] for path in after.keys() - before.keys()} - {"run" if name == "resume" else ""}
    assert not [path for path in after if ".tmp" in path or path.endswith(".lock")], case
    if end.code == 2:  # a run that failed after it was created can be resumed, a preparation too
        made = {top for top in made if not any((place / top).rglob("config.json")) or name == "export"}
        made = {top for top in made if not any((place / top).rglob("state.json"))}
        assert not made, (made, case)
    else:
        assert all(any(top in word for word in [*argv, "runs", "explain.html"]) for top in made), (made, case)
    changed = [path for path in before if before[path] != after.get(path) and not path.startswith(("run/", "damaged/"))]
    if name not in ("train", "resume"):
        changed = [path for path in before if before[path] != after.get(path)]
    assert not changed or name == "prepare", (changed, case)


@pytest.mark.parametrize("name", COMMANDS)
def test_any_command_line(name, world, tmp_path):
    @examples(8, 300)
    @given(argv=command_lines(name), lines=LINES)
    def trial(argv, lines):
        check(name, argv, world, tmp_path / "place", b"\n".join(lines))

    trial()
