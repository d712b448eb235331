"""Whatever happened to a file: refused in one sentence, or the results of the undamaged one to the bit.

`pytest --thorough tests/reliability/test_damage.py` damages each file of a run, a corpus and an export in 30 ways.
"""

import os
import random
import shutil
from dataclasses import dataclass

import pytest

import train
from gpt import export, generate, prepare
from gpt.explain import __main__ as explain
from tests.reliability.conftest import contents
from tests.reliability.forks import forked

BLOCK = 64  # bytes that are lost at once
FEW, MANY = 1, 30


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place.randrange(len(content))] ^= 1 << place.randrange(8)
    path.write_bytes(content)


def zero(path, place):
    content = bytearray(path.read_bytes())
    begin = place.randrange(len(content))
    content[begin : begin + BLOCK] = bytes(len(content[begin : begin + BLOCK]))
    path.write_bytes(content)


def truncate(path, place):
    os.truncate(path, place.randrange(path.stat().st_size))


def lengthen(path, place):
    path.write_bytes(path.read_bytes() + place.randbytes(BLOCK))


def replace_by(make):
    def damage(path, _):
        path.unlink()
        make(path)

    return damage


DAMAGES = {
    "one bit": flip,
    "block of zeros": zero,
    "truncated": truncate,
    "longer": lengthen,
    "empty": replace_by(lambda path: path.touch()),
    "missing": replace_by(lambda path: None),
    "directory": replace_by(lambda path: path.mkdir()),
    "dangling link": replace_by(lambda path: path.symlink_to("nowhere")),
    "link to itself": replace_by(lambda path: path.symlink_to(path.name)),
    "pipe": replace_by(os.mkfifo),
    "endless": replace_by(lambda path: path.symlink_to("/dev/zero")),
}


@dataclass
class Command:
    """A command that reads a directory, and what it gives."""

    main: object
    argv: list
    result: object  # function of (end, place)
    reads: tuple = ("**/*",)  # patterns of the files that it reads


def text(end, place):
    return end.output


def page(end, place):
    return (place / "new.html").read_bytes()


def trained(end, place):
    return contents(place / "new")


def resumed(end, place):
    return contents(place / "run")


def exported(end, place):
    return {path.name: path.read_bytes() for path in (place / "new").iterdir()}


BEST = ("best/*", "manifest.json")
GENERATE = ["--tokens", 5, "--device", "cpu", "--prompt", "to be"]
COMMANDS = {
    "resume run": Command(train.main, ["--resume", "run"], resumed),
    "generate run": Command(generate.main, ["run", *GENERATE], text, BEST),
    "explain run": Command(explain.main, ["run", *GENERATE, "--out", "new.html"], page, BEST),
    "export run": Command(export.main, ["run", "new"], exported, BEST),
    "train corpus": Command(train.main, ["--data", "corpus", "--out", "new"], trained),
    "generate model": Command(generate.main, ["model", *GENERATE], text),
    "export model": Command(export.main, ["model", "new"], exported),
}


@pytest.fixture(scope="module")
def original(_stopped, uninterrupted, text_file, tmp_path_factory):
    """A run, a corpus and a model directory, all undamaged."""
    place = tmp_path_factory.mktemp("damage") / "original"
    shutil.copytree(_stopped, place / "run")
    assert prepare.main([str(text_file), "--out", str(place / "corpus"), "--tokenizer", "char"]) == 0
    assert export.main([str(uninterrupted), str(place / "model")]) == 0
    return place


def undetectable(name, kind, place):
    """Whether a file has no checksum that could tell: of numbers in a model of others, or in a line of metrics."""
    return kind in ("one bit", "block of zeros") and name in ("model/model.safetensors", "run/metrics.jsonl")


def fault(title, command, name, kind, end, place, expected):
    """What is wrong with how a command ended on a damaged file; None if nothing is."""
    if end.code == 2:
        end.error()
        return None
    if end.code:
        return "neither done nor refused"
    if not undetectable(name, kind, place) and command.result(end, place) != expected:
        return "silently different" if "warning: " not in end.errors else None
    if title == "resume run" and "step-000008" in name and "step-000008: invalid" not in end.errors:
        return "not mentioned"
    return None


@pytest.mark.parametrize("title", COMMANDS)
def test_a_damaged_file_is_named_or_makes_no_difference(title, original, flags, tmp_path, request):
    command, folder, place = COMMANDS[title], title.split()[1], tmp_path / "place"
    argv = [*flags[:-2], *command.argv] if folder == "corpus" else command.argv

    def attempt(damage=None, path=None, seed=None):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(original, place)
        if damage:
            damage(place / path, random.Random(seed))
        return forked(command.main, argv, place)

    end = attempt()
    assert end.code == 0, end
    expected = command.result(end, place)
    read = sorted(path for pattern in command.reads for path in (original / folder).glob(pattern))
    files = [path for path in read if path.is_file() and path.stat().st_size]
    kinds, faults = sorted(DAMAGES), []
    for number, name in enumerate(str(path.relative_to(original)) for path in files):
        for i in range(MANY if request.config.getoption("--thorough") else FEW):
            kind = kinds[(number + i) % len(kinds)]
            end = attempt(DAMAGES[kind], name, f"{name} {i}")
            if reason := fault(title, command, name, kind, end, place, expected):
                faults.append((reason, name, kind, i, end))
    assert not faults
