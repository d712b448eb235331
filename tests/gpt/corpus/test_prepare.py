"""Prepared corpora: every document on one side, whatever its format; the same bytes after any interruption."""

import bz2
import csv
import gzip
import io
import json
import lzma
import resource
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train
from gpt import prepare
from gpt.cli import run_command
from gpt.corpus import preparation, sources
from gpt.corpus.documents import SEPARATOR, Document
from gpt.corpus.split import SplitRule
from gpt.corpus.tokens import is_prepared, open_tokens
from gpt.errors import UserError
from gpt.tokenizers.bpe import BpeTokenizer
from gpt.tokenizers.characters import CharTokenizer
from gpt.tokenizers.load import load_tokenizer
from gpt.training.batches import Batches, windows

pyarrow = pytest.importorskip("pyarrow", reason="tables need pyarrow")
parquet_files = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).resolve().parents[3]
TEXTS = [f"Document {i}: naïve 日本語 😀\n" + "all work and no play " * (1 + i % 40) for i in range(120)]
DOCUMENT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x03")).filter(lambda t: t.strip())


def run(source, out, *flags):
    """Prepare with the character tokenizer, the quickest, and without processes; the content of meta.json."""
    defaults = {"--tokenizer": "char", "--val-share": "0.3", "--workers": "1", "--out": str(out)}
    given_flags = dict(zip(flags[::2], map(str, flags[1::2]), strict=True))
    argv = [str(word) for pair in (defaults | given_flags).items() for word in pair]
    prepare.main([str(source), *argv])
    return json.loads((Path(out) / "meta.json").read_text())


def prepared_documents(out):
    """{split: the documents in its file}."""
    tokens, tokenizer = open_tokens(out), load_tokenizer(out)
    texts = {name: tokenizer.decode(np.array(getattr(tokens, name))) for name in ("train", "val")}
    end = tokenizer.decode([tokenizer.end_of_text])
    assert all(text.endswith(end) for text in texts.values())
    return {name: text.removesuffix(end).split(end) for name, text in texts.items()}


def error(capsys, *argv):
    """The one line that the command prints on stderr when it ends with code 2."""
    assert run_command(prepare.main, [str(word) for word in argv]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def tar_of(files, mode="w"):
    """The bytes of a tar archive of {name: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def as_texts(texts):
    return {f"{i:04d}.txt": text.encode() for i, text in enumerate(texts)}


def openwebtext(texts):
    """Members like OpenWebText's: each the .xz of a .tar of a few texts."""
    shards = [texts[i : i + 7] for i in range(0, len(texts), 7)]
    return {f"owt/subset-{i}_data.xz": lzma.compress(tar_of(as_texts(shard))) for i, shard in enumerate(shards)}


def json_lines(texts):
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


def parquet(texts):
    buffer = io.BytesIO()
    parquet_files.write_table(pyarrow.table({"n": range(len(texts)), "text": texts}), buffer, row_group_size=11)
    return buffer.getvalue()


def arrow(texts, writer):
    buffer, table = io.BytesIO(), pyarrow.table({"text": texts})
    with writer(buffer, table.schema) as out:
        out.write_table(table, max_chunksize=13)
    return buffer.getvalue()


def comma_separated(texts, separator=","):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator).writerows([("id", "text"), *enumerate(texts)])
    return b"\xef\xbb\xbf" + buffer.getvalue().encode()  # as spreadsheets begin it


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def zstandard(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


def saved_to_disk(texts, split="."):
    """The files of a split that `Dataset.save_to_disk` writes, with one that `map` may leave there."""
    half, files = len(texts) // 2, {"dataset_info.json": b'{"citation": ""}', "state.json": b'{"_data_files": []}'}
    for i, part in enumerate((texts[:half], texts[half:])):
        files[f"data-0000{i}-of-00002.arrow"] = arrow(part, pyarrow.ipc.new_stream)
    files["cache-0123456789abcdef.arrow"] = arrow(["not this"], pyarrow.ipc.new_stream)
    return {f"{split}/{name}": data for name, data in files.items()}


LAYOUTS = {
    "JSON array": lambda texts: {"a.json": json.dumps([{"id": 1, "text": text} for text in texts], indent=1).encode()},
    "JSON array of texts": lambda texts: {"a.json": json.dumps(texts).encode()},
    "JSON lines by another name": lambda texts: {"a.json": json_lines(texts)},
    "JSON objects": lambda texts: {
        f"{i}.json": json.dumps({"text": t}, indent=1).encode() for i, t in enumerate(texts)
    },
    "JSON array, gzip, in a tar": lambda texts: {
        "a.tar": tar_of({"a.json.gz": gzip.compress(json.dumps(texts).encode())})
    },
    "JSON lines, bzip2": lambda texts: {"a.jsonl.bz2": bz2.compress(json_lines(texts))},
    "JSON lines, Zstandard": lambda texts: {"a.jsonl.zst": zstandard(json_lines(texts))},
    "CSV": lambda texts: {"a.csv": comma_separated(texts)},
    "CSV, xz": lambda texts: {"a.csv.xz": lzma.compress(comma_separated(texts))},
    "TSV in a zip": lambda texts: {"a.zip": zip_of({"a/b.tsv": comma_separated(texts, "\t")})},
    "zip of txt": lambda texts: {"a.zip": zip_of(as_texts(texts))},
    "tar of zip of txt": lambda texts: {"a.tar": tar_of({"a.zip": zip_of(as_texts(texts))})},
    "data set on the disk": saved_to_disk,
    "data set of splits on the disk": lambda texts: {
        "dataset_dict.json": b'{"splits": ["train", "test"]}',
        **saved_to_disk(texts, "train"),
        **saved_to_disk(["not this"] * 10, "test"),
    },
    "data set in the hub's files": lambda texts: {
        "data/train-00000-of-00002.parquet": parquet(texts[:50]),
        "data/train-00001-of-00002-0123456789abcdef.parquet": parquet(texts[50:]),
        "data/validation-00000-of-00001.parquet": parquet(["not this"] * 10),
    },
    "data set in the cache": lambda texts: {
        "dataset_info.json": b"{}",
        "corpus-train.arrow": arrow(texts, pyarrow.ipc.new_stream),
        "corpus-test.arrow": arrow(["not this"], pyarrow.ipc.new_stream),
    },
    "folder of texts": as_texts,
    "text with separators": lambda texts: {"a.txt": f"\n{SEPARATOR}\n".join(texts).encode()},
    "JSON lines": lambda texts: {"a.jsonl": json_lines(texts)},
    "JSON lines, gzip": lambda texts: {"a.jsonl.gz": gzip.compress(json_lines(texts))},
    "Parquet": lambda texts: {"a.parquet": parquet(texts)},
    "Arrow file": lambda texts: {"a.arrow": arrow(texts, pyarrow.ipc.new_file)},
    "Arrow stream": lambda texts: {"a.arrow": arrow(texts, pyarrow.ipc.new_stream)},
    "tar of xz of tar": lambda texts: {"owt.tar": tar_of(openwebtext(texts))},
    "tar.xz of xz of tar": lambda texts: {"owt.tar.xz": tar_of(openwebtext(texts), "w:xz")},
    "tar of xz of txt": lambda texts: {
        "owt.tar": tar_of({name + ".xz": lzma.compress(data) for name, data in as_texts(texts).items()})
    },
    "tar of txt": lambda texts: {"a.tar": tar_of(as_texts(texts))},
    "folder of xz": openwebtext,
}


def lay_out(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder if len(files) > 1 else folder / next(iter(files))


@pytest.fixture
def small_pieces(monkeypatch):
    """Sources so finely cut that a small one has many pieces and units, and none is read whole."""
    for module, name in ((sources, "PIECE_BYTES"), (sources, "WHOLE_BYTES"), (preparation, "UNIT_BYTES")):
        monkeypatch.setattr(module, name, 500)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The documents of each split by the definition: the hash of the text."""
    split = list(SplitRule(0.3).apply(map(Document, TEXTS)))
    return {name: {document.text for side, document in split if side == name} for name in ("train", "val")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_documents_on_the_same_sides(tmp_path, reference, layout):
    content = run(lay_out(tmp_path / "source", LAYOUTS[layout](TEXTS)), tmp_path / "out")
    assert {name: set(texts) for name, texts in prepared_documents(tmp_path / "out").items()} == reference
    assert content["documents"] == {name: len(texts) for name, texts in reference.items()}
    assert content["unreadable"] == 0


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "folder of texts"])
def test_documents_do_not_depend_on_the_piece_size(tmp_path, small_pieces, reference, layout):
    run(lay_out(tmp_path / "source", LAYOUTS[layout](TEXTS)), tmp_path / "out")
    assert {name: set(texts) for name, texts in prepared_documents(tmp_path / "out").items()} == reference


@given(texts=st.lists(DOCUMENT, min_size=5, unique=True), order=st.randoms())
def test_the_split_does_not_depend_on_the_order_of_documents(tmp_path_factory, texts, order):
    splits = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("order")
        (folder / "a.jsonl").write_bytes(json_lines(texts + texts[:2]))  # two documents come twice
        try:
            run(folder / "a.jsonl", folder / "out")
        except UserError as nothing:
            splits.append(str(nothing).partition(": ")[2])
        else:
            splits.append({name: set(found) for name, found in prepared_documents(folder / "out").items()})
            assert splits[-1]["train"] | splits[-1]["val"] == set(texts)
            assert not splits[-1]["train"] & splits[-1]["val"]
        order.shuffle(texts)
    assert splits[0] == splits[1]


def test_a_sample_is_a_subset_of_the_same_documents(tmp_path, reference):
    source = lay_out(tmp_path / "source", as_texts(TEXTS))
    content = run(source, tmp_path / "out", "--sample", 0.5)
    assert 40 < sum(content["documents"].values()) < 80
    for name, texts in prepared_documents(tmp_path / "out").items():
        assert set(texts) < reference[name]


BOOK = "\n\n".join(TEXTS)


@pytest.mark.parametrize("layout", ["text", "xz", "gz"])
@pytest.mark.parametrize("size", ["as it is", "in small pieces"])
def test_a_lone_text_is_split_at_nine_tenths_of_its_characters(tmp_path, request, layout, size):
    if size == "in small pieces":
        request.getfixturevalue("small_pieces")
    data = {"text": bytes, "xz": lzma.compress, "gz": gzip.compress}[layout](BOOK.encode())
    path = lay_out(tmp_path / "source", {f"book.{layout}": data})
    content = run(path, tmp_path / "out", "--val-share", 0)
    tokens, tokenizer = open_tokens(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    boundary = int(len(BOOK) * 0.9)
    assert tokenizer.decode(tokens.train) == BOOK[:boundary]
    assert tokenizer.decode(tokens.val) == BOOK[boundary:]
    assert tokenizer.characters == "".join(sorted(set(BOOK)))  # and no end of text, since nothing needs one
    assert content["text_bytes"] == len(BOOK.encode())
    assert content["documents"] == {"train": 1, "val": 1}


def test_each_text_of_a_small_folder_is_split_and_ends_with_the_end_of_text(tmp_path):
    books = {f"{i}.txt": "".join(TEXTS[i::3]) for i in range(3)}
    run(lay_out(tmp_path / "source", {name: text.encode() for name, text in books.items()}), tmp_path / "out")
    boundaries = {name: int(len(text) * (1 - 0.3)) for name, text in books.items()}
    assert prepared_documents(tmp_path / "out") == {
        "train": [text[: boundaries[name]] for name, text in books.items()],
        "val": [text[boundaries[name] :] for name, text in books.items()],
    }


def corrupt_archive():
    members = openwebtext(TEXTS)
    names = list(members)
    broken = bytearray(members[names[2]])
    broken[len(broken) // 2] ^= 0xFF
    members[names[2]] = bytes(broken)
    members[names[4]] = members[names[4]][:-30]
    members["owt/strange.xz"] = lzma.compress(tar_of({"good.txt": b"a good text", "bad.txt": b"ab\xffcd"}))
    return members, names


def test_unreadable_members_are_named_counted_and_skipped(tmp_path, capsys):
    members, names = corrupt_archive()
    content = run(lay_out(tmp_path / "source", {"owt.tar": tar_of(members)}), tmp_path / "out")
    assert content["unreadable"] == 3
    expected = (names[2], names[4], "strange.xz/bad.txt (byte 2")
    for named, text in zip(content["unreadable_names"], expected, strict=True):
        assert text in named
    assert sum(content["documents"].values()) == len(TEXTS) - 14 + 1
    assert f"skipped 3 unreadable: {content['unreadable_names'][0]}" in capsys.readouterr().err


def test_of_many_unreadable_files_the_rest_is_named_in_meta_json(tmp_path, capsys):
    bad = {f"bad{i}.txt": b"\xff" for i in range(7)}
    content = run(lay_out(tmp_path / "source", as_texts(TEXTS) | bad), tmp_path / "out")
    assert [name for name in bad if name not in "".join(content["unreadable_names"])] == []
    assert "bad4.txt (byte 0 is not UTF-8) and 2 more, named in meta.json" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_tar_is_not_taken_for_complete(tmp_path, keep):
    data = tar_of(as_texts(TEXTS))
    content = run(lay_out(tmp_path / "s", {"a.tar": data[: int(len(data) * keep)], "b.txt": b"x"}), tmp_path / "out")
    assert content["unreadable"] == 1
    assert "the rest of it is skipped" in content["unreadable_names"][0]


def test_a_corrupt_header_is_not_taken_for_the_end(tmp_path):
    data = bytearray(tar_of(as_texts(TEXTS)))
    data[data.index(b"0030.txt") + 3] ^= 1
    content = run(lay_out(tmp_path / "source", {"a.tar": bytes(data)}), tmp_path / "out")
    assert sum(content["documents"].values()) == 30
    assert content["unreadable"] == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.jsonl.gz", gzip.compress(json_lines(TEXTS))[:-20]),
        ("bad.parquet", b"PAR1" + b"x" * 100),
        ("bad.arrow", b"ARROW1" + b"x" * 100),
        ("bad.jsonl", b'{"text": "good"}\n{"text"\n'),
        ("bad.txt", b"\xff\xfe"),
    ],
)
@pytest.mark.parametrize("size", ["as it is", "in small pieces"])
def test_any_unreadable_file_is_skipped(tmp_path, request, name, data, size):
    if size == "in small pieces":
        request.getfixturevalue("small_pieces")
    source = lay_out(tmp_path / "source", {**as_texts(TEXTS), name: data})
    content = run(source, tmp_path / "out")
    assert content["unreadable"] == 1
    assert name in content["unreadable_names"][0]
    assert sum(content["documents"].values()) >= len(TEXTS)


def test_processes_give_the_same_bytes_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "UNIT_BYTES", 2000)
    source = lay_out(tmp_path / "source", as_texts(TEXTS))
    one = run(source, tmp_path / "one", "--tokenizer", "bpe", "--vocab-size", 300)
    two = run(source, tmp_path / "two", "--tokenizer", "bpe", "--vocab-size", 300, "--workers", 2)
    assert one == two


KILL = """
import os, sys
from gpt import prepare
from gpt.corpus import preparation, sources, token_files
sources.PIECE_BYTES = sources.WHOLE_BYTES = preparation.UNIT_BYTES = 500
token_files.SAVE_SECONDS = -1
append, save = token_files.TokenFiles.append, token_files.TokenFiles.save
def killed(self, *arguments):
    if self.state["units"] == int(sys.argv[1]):
        os.kill(os.getpid(), 9)
    (append if arguments else save)(self, *arguments)
setattr(token_files.TokenFiles, sys.argv[2], killed)
prepare.main(sys.argv[3:])
"""


@pytest.mark.parametrize("where", ["append", "save"])  # between units; with tokens on the disk that are not counted
def test_a_killed_preparation_resumes_to_the_same_bytes(tmp_path, small_pieces, capsys, where):
    pytest.importorskip("tokenizers")
    source = lay_out(tmp_path / "source", {"owt.tar": tar_of(corrupt_archive()[0])})
    flags = ("--tokenizer", "bpe", "--vocab-size", "300", "--val-share", "0.3", "--workers", "1")
    uninterrupted = run(source, tmp_path / "whole", *flags)
    argv = [str(source), "--out", str(tmp_path / "out"), *flags]
    end = subprocess.run([sys.executable, "-c", KILL, "5", where, *argv], cwd=ROOT, capture_output=True, check=False)
    assert end.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match=r"is not finished; give the same python -m gpt\.prepare command again"):
        is_prepared(tmp_path / "out")
    capsys.readouterr()
    assert run(source, tmp_path / "out", *flags) == uninterrupted
    assert "resuming after" in capsys.readouterr().out
    assert not (tmp_path / "out" / "state.json").exists()


def test_resuming_with_other_settings_is_refused(tmp_path, small_pieces, monkeypatch, capsys):
    source = lay_out(tmp_path / "source", as_texts(TEXTS))
    monkeypatch.setattr("gpt.corpus.token_files.TokenFiles.finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out")
    line = error(capsys, source, "--out", tmp_path / "out", "--tokenizer", "char", "--val-share", 0.3, "--sample", 0.5)
    assert line.endswith(
        "contains an unfinished preparation with sample 1.0, not 0.5; resume it with that setting, "
        "or choose another --out"
    )


def test_a_preparation_without_tokens_can_start_again_with_other_settings(tmp_path, monkeypatch):
    source = lay_out(tmp_path / "source", as_texts(TEXTS))
    with monkeypatch.context() as patch:
        patch.setattr("gpt.corpus.token_files.TokenFiles.__enter__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out", "--sample", 0.5)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert run(source, tmp_path / "out") == run(source, tmp_path / "new")


def interrupt(*_):
    raise KeyboardInterrupt


ERRORS = {
    "unknown source": (["/no/such"], "/no/such: no such file or folder, nor one of pydocs, stdlib, nor hf:NAME"),
    "source misspelt": (["pydoc"], "(did you mean pydocs?)"),
    "no out": (["SOURCE", "--out", ""], "--out: must be given"),
    "missing column": (
        ["LINES", "--text-column", "body"],
        "LINES: has no column body with texts, its columns are id, text: choose one with --text-column of python -m "
        "gpt.prepare",
    ),
    "missing column of a table": (["TABLE", "--text-column", "body"], "its columns are n, text"),
    "empty file": (["EMPTY"], "EMPTY: contains no text"),
    "empty file, learning": (["EMPTY", "--tokenizer", "bpe"], "EMPTY: contains no text"),
    "only unreadable": (
        ["CORRUPT"],
        "CORRUPT: contains no text; unreadable: CORRUPT (byte 0 is not UTF-8;",
    ),
    "no validation": (
        ["SOURCE", "--val-share", "1e-9"],
        "SOURCE: a validation share of 1e-09 leaves 120 documents for training and 0 for validation",
    ),
    "vocabulary too large": (
        ["SOURCE", "--tokenizer", "LARGE", "--dtype", "uint16"],
        "--dtype uint16: represents 65536 different tokens and the tokenizer has 70000; use uint32",
    ),
    "no end of text": (
        ["SOURCE", "--tokenizer", "ENDLESS"],
        "separates the documents of SOURCE: give a single text file",
    ),
    "unknown tokenizer": (["SOURCE", "--tokenizer", "bpee"], "--tokenizer bpee: not one of char, bpe, gpt2"),
    "vocabulary too small": (["SOURCE", "--vocab-size", "100"], "--vocab-size 100: must be at least 257"),
    "not empty": (["SOURCE", "--out", "FULL"], "exists and is not an empty directory"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_user_errors_are_one_sentence(tmp_path, capsys, case):
    places = {name: str(tmp_path / name.lower()) for name in ("SOURCE", "EMPTY", "CORRUPT", "LARGE", "ENDLESS", "FULL")}
    places |= {"LINES": str(tmp_path / "lines.jsonl"), "TABLE": str(tmp_path / "table.parquet")}
    lay_out(tmp_path, {"source/a.jsonl": json_lines(TEXTS), "empty": b"", "corrupt": b"\xff\xff", "full/x": b""})
    lay_out(tmp_path, {"lines.jsonl": json_lines(TEXTS), "table.parquet": parquet(TEXTS)})
    for name, characters in (("LARGE", map(chr, range(70000 + 0x800))), ("ENDLESS", "abc")):
        Path(places[name]).mkdir()
        CharTokenizer(c for c in characters if not 0xD800 <= ord(c) < 0xE000).save(places[name])
    argv, message = ERRORS[case]
    defaults = ["--out", str(tmp_path / "out"), "--tokenizer", "char"]
    source, *flags = [places.get(word, word) for word in argv]
    for name, place in places.items():
        message = message.replace(name, place)
    assert message in error(capsys, source, *defaults, *flags)
    if "out" in argv:
        assert not (tmp_path / "out" / "state.json").exists()


def test_a_tokenizer_that_loses_what_only_the_corpus_has_is_refused(tmp_path, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    BpeTokenizer.train(TEXTS, 300).save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    split, isolated = tokenizers.pre_tokenizers.Split, tokenizers.Regex("[^\u0298]+")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    steps = tokenizers.pre_tokenizers.Sequence([split(isolated, "removed", invert=True), byte_level])
    content["pre_tokenizer"] = json.loads(steps.__getstate__())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    source, flags = lay_out(tmp_path / "source", as_texts(TEXTS)), ("--tokenizer", tmp_path)
    assert run(source, tmp_path / "good", *flags)["documents"]
    lost = lay_out(tmp_path / "lost", as_texts([text + " \u0298" for text in TEXTS]))
    line = error(capsys, lost, "--out", tmp_path / "out", *flags)
    assert line.startswith("error: the tokenizer loses text of a document that begins with 'Document 0: na")
    assert run(lost, tmp_path / "out", "--val-share", 0.2)["documents"]  # another tokenizer, in the same directory


def test_a_full_disk_is_one_sentence_and_the_preparation_resumes(tmp_path, small_pieces, capsys):
    source = lay_out(tmp_path / "source", as_texts(TEXTS))
    command = [sys.executable, "-m", "gpt.prepare", str(source), "--out", str(tmp_path / "out"), "--tokenizer", "char"]
    command += ["--val-share", "0.3", "--workers", "1"]

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    end = subprocess.run(command, cwd=ROOT, preexec_fn=little_room, capture_output=True, text=True, check=False)
    assert end.returncode == 2
    message = "train.bin: cannot be written (File too large); free some space or choose another"
    assert message in end.stderr.splitlines()[-1]
    assert run(source, tmp_path / "out") == run(source, tmp_path / "again")


def test_an_unreachable_hub_says_what_to_do_instead(tmp_path, capsys, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="hf:NAME needs datasets")

    def fail(*_, **__):
        raise ConnectionError("Couldn't reach 'some/corpus' on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    line = error(capsys, "hf:some/corpus", "--out", tmp_path / "out")
    assert line.startswith("error: hf:some/corpus: cannot be downloaded from the Hugging Face hub (Couldn't reach")
    assert line.endswith("; download its files on another machine and give their folder instead")


@pytest.mark.parametrize("flags", [(), ("--streaming",)])
def test_a_hub_data_set_is_read_through_datasets(tmp_path, monkeypatch, reference, flags):
    pytest.importorskip("datasets", reason="hf:NAME needs datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lay_out(tmp_path, {"corpus/train.jsonl": json_lines(TEXTS)})
    argv = [f"hf:{tmp_path / 'corpus'}", "--out", str(tmp_path / "out"), "--tokenizer", "char", "--val-share", "0.3"]
    prepare.main([*argv, *flags, "--workers", "1"])
    assert {name: set(texts) for name, texts in prepared_documents(tmp_path / "out").items()} == reference


def test_training_uses_prepared_tokens_where_they_are(tmp_path, tiny):
    source = lay_out(tmp_path / "source", as_texts(TEXTS))
    run(source, tmp_path / "tokens")
    argv = [*tiny, "--data", str(tmp_path / "tokens"), "--steps", "4", "--out", str(tmp_path / "run")]
    assert train.main(argv) == 0
    assert not (tmp_path / "run" / "train.bin").exists()
    np.testing.assert_array_equal(open_tokens(tmp_path / "run").train, open_tokens(tmp_path / "tokens").train)
    assert load_tokenizer(tmp_path / "run").characters == load_tokenizer(tmp_path / "tokens").characters
    with pytest.raises(UserError, match="fewer than the 100001 of one window"):
        train.main([*argv[:-1], str(tmp_path / "other"), "--block-size", "100000"])
    meta = tmp_path / "tokens" / "meta.json"
    meta.write_text(meta.read_text().replace('"train": "', '"train": "0'))
    with pytest.raises(UserError, match="describes other tokens than those that the run was created with"):
        open_tokens(tmp_path / "run")


def test_token_files_larger_than_memory_are_read_from_end_to_end(tmp_path):
    """A file of a tebibyte, sparse, so that only the last page takes space."""
    count = 2**39
    for name, size in (("train", count), ("val", 100)):
        with open(tmp_path / f"{name}.bin", "wb") as file:
            file.truncate(2 * size)
            file.seek(2 * size - 2)
            file.write(b"\x07\x00")
    (tmp_path / "meta.json").write_text(json.dumps({"source": "", "dtype": "<u2", "train": count, "val": 100}))
    tokens = open_tokens(tmp_path)
    ids, targets = windows(tokens.train, np.array([0, count - 9]), 8)
    assert targets[1, -1] == 7
    assert ids.sum() == 0
    starts = np.concatenate([Batches(tokens.train, 8, seed=1).starts(step, 0, 64) for step in range(20)])
    assert starts.min() < 0.01 * count
    assert starts.max() > 0.99 * count
