"""Files that are not text, or that would take all memory: skipped and named, or refused in a sentence."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import tarfile
import zipfile

import pytest

from gpt.corpus import documents, sources
from gpt.corpus.documents import read_piece
from gpt.corpus.formats import archives
from gpt.corpus.formats.archives import compression
from gpt.corpus.pieces import Unreadable
from gpt.corpus.sources import open_source
from gpt.errors import UserError

BOMB = b"\x00" * (1 << 20)


def zstandard(data):
    arrow = pytest.importorskip("pyarrow")
    sink = arrow.BufferOutputStream()
    with arrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": zstandard}


@pytest.fixture
def low_limits(monkeypatch):
    """A mebibyte of zeros is as much as gigabytes are."""
    monkeypatch.setattr(archives, "MAX_WHOLE_BYTES", 1 << 18)
    monkeypatch.setattr(archives, "MIN_RATIO_BYTES", 1 << 18)


def items(path):
    """What is read from a source, in two lists: the documents' or passages' texts, and the Unreadables."""
    found = [item for piece in open_source(str(path)).pieces() for item in read_piece(piece, "text")]
    unreadable = [item for item in found if isinstance(item, Unreadable)]
    return [item.text for item in found if item not in unreadable], unreadable


def tar_of(*members):
    """The bytes of a tar archive of TarInfos and bytes; their sizes are as they claim."""
    data = b""
    for info, content in members:
        data += info.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % 512)
    return data + b"\0" * 1024


def member(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_compressed_file_that_grows_without_bound_is_skipped_and_named(tmp_path, low_limits, kind):
    (tmp_path / f"bomb.txt.{kind}").write_bytes(COMPRESS[kind](BOMB))
    (tmp_path / "good.txt").write_text("good")
    texts, (bomb,) = items(tmp_path)
    assert "".join(texts) == "good"
    assert bomb.name.endswith(f"bomb.txt.{kind}")
    assert "unpacks to more than 250 times its size" in bomb.reason
    (tmp_path / "good.txt").unlink()
    assert items(tmp_path)[0] == []


@pytest.mark.parametrize("kind", [*COMPRESS, "zip"])
def test_a_member_that_grows_without_bound_is_skipped_and_the_others_are_read(tmp_path, low_limits, kind):
    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", BOMB)
            archive.writestr("good", "in the zip")
        bomb = buffer.getvalue()
    else:
        bomb = COMPRESS[kind](BOMB)
    members = [(f"bomb.{kind}", bomb), ("good.txt", b"a good text")]
    (tmp_path / "a.tar").write_bytes(tar_of(*((member(name, len(data)), data) for name, data in members)))
    texts, (unreadable,) = items(tmp_path / "a.tar")
    assert texts == ["in the zip", "a good text"][kind != "zip" :]
    assert f"a.tar/bomb.{kind}" in unreadable.name
    assert "has more than" in unreadable.reason or "unpacks to more than" in unreadable.reason


@pytest.mark.parametrize("compressed", [False, True])
def test_a_sparse_member_that_claims_any_size_is_skipped_and_the_others_are_read(tmp_path, compressed):
    sparse = bytearray(member("sparse", 512, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    sparse[386:410] = b"%011o\0%011o\0" % (0, 512)  # one block of data at the beginning,
    sparse[483:495] = b"\x80" + (64 << 30).to_bytes(11, "big")  # of 64 GiB
    sparse[148:156] = b"%06o\0 " % (sum(sparse[:148]) + sum(sparse[156:512]) + 8 * 32)
    data = bytes(sparse) + b"x" * 512 + tar_of((member("good.txt", 11), b"a good text"))
    (tmp_path / "a.tar").write_bytes(gzip.compress(data) if compressed else data)
    texts, (unreadable,) = items(tmp_path / "a.tar")
    assert texts == ["a good text"]
    assert str(unreadable).endswith("a.tar/sparse (has more than 256 MiB, and it can only be read as a whole)")


def test_a_member_that_claims_more_than_there_is_ends_the_archive_at_once(tmp_path):
    data = tar_of((member("good.txt", 11), b"a good text"), (member("huge", 1 << 62), b"x"))
    (tmp_path / "a.tar").write_bytes(data)
    texts, (huge, rest) = items(tmp_path / "a.tar")
    assert texts == ["a good text"]
    assert huge.name.endswith("a.tar/huge")
    assert "the rest of it is skipped: unexpected end of data" in rest.reason


def test_archives_in_archives_have_an_end(tmp_path, monkeypatch):
    data = b"a text"
    for _ in range(12):
        data = gzip.compress(data)
    (tmp_path / "a.gz").write_bytes(data)
    texts, (unreadable,) = items(tmp_path / "a.gz")
    assert texts == []
    assert "is in more than 8 archives" in unreadable.reason
    monkeypatch.setattr(documents, "MAX_PIECE_CHARACTERS", 50)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(10):
            archive.writestr(f"{i}.txt", "ten bytes.")
    (tmp_path / "a.gz").unlink()
    (tmp_path / "a.tar").write_bytes(tar_of((member("a.zip", len(buffer.getvalue())), buffer.getvalue())))
    texts, (unreadable,) = items(tmp_path / "a.tar")
    assert texts == []
    assert "unpacks to more than 50 characters" in unreadable.reason


def test_an_endless_line_of_json_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_DOCUMENT_BYTES", 1000)
    for name, value in (("PIECE_BYTES", 100), ("WHOLE_BYTES", 100)):
        monkeypatch.setattr(sources, name, value)
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": "' + "x" * 5000)
    texts, (unreadable,) = items(tmp_path / "a.jsonl")
    assert texts == ["good"]
    assert "the line at byte 17 has more than" in unreadable.reason


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_device_is_refused(tmp_path, make):
    make(tmp_path / "source")
    with pytest.raises(UserError, match="source: is neither a file nor a folder, but a pipe or device"):
        open_source(str(tmp_path / "source"))


def test_an_encrypted_or_corrupt_member_of_a_zip_does_not_affect_the_others(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("bad", "good", "secret"):
            archive.writestr(name, f"the {name} text")
    data = (tmp_path / "a.zip").read_bytes().replace(b"the bad text", b"the BAD text")
    local, central = data.rindex(b"PK\x03\x04"), data.rindex(b"PK\x01\x02")
    flagged = bytearray(data)
    flagged[local + 6] |= 1
    flagged[central + 8] |= 1
    (tmp_path / "a.zip").write_bytes(flagged)
    texts, (bad, secret) = items(tmp_path / "a.zip")
    assert texts == ["the good text"]
    assert "Bad CRC" in bad.reason
    assert "password" in secret.reason
    (tmp_path / "a.zip").write_bytes(data[:-30])
    assert "zip" in items(tmp_path / "a.zip")[1][0].reason


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_files_one_after_the_other_are_one_file(tmp_path, kind):
    (tmp_path / f"a.json.{kind}").write_bytes(COMPRESS[kind](b'["one", ') + COMPRESS[kind](b'"two"]'))
    assert items(tmp_path / f"a.json.{kind}") == (["one", "two"], [])


def test_what_begins_like_a_compressed_file_and_is_a_text_is_a_text():
    assert compression(b"BZh9 is how bzip2 begins") is None
    assert compression(bz2.compress(b"")) == compression(bz2.compress(b"x")) == "bzip2"


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_truncated_file_is_not_taken_for_complete(tmp_path, kind):
    data = json.dumps([f"text {i * i}" for i in range(5000)]).encode()
    compressed = COMPRESS[kind](data)
    for suffix in ("json", "txt"):
        path = tmp_path / f"a.{suffix}.{kind}"
        path.write_bytes(compressed[: len(compressed) // 2])
        assert len(items(path)[1]) == 1
        broken = bytearray(compressed)
        broken[len(broken) // 2] ^= 0xFF
        path.write_bytes(broken)
        assert len(items(path)[1]) == 1


def test_without_pyarrow_zstandard_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(UserError, match=r"this needs pyarrow: pip install"):
        items(tmp_path / "a.jsonl.zst")


ROWS = {
    "a.json": (
        b'[{"text": "good"}, {"text": ["a"]}, {"id": 3}, 5, {"text": null}, {"text": {}}, "good"]',
        ["row 1 has a text of type list, not a text", "row 2 has no text, its keys are id", "row 3 has", "row 5 has"],
    ),
    "b.json": (b'{"version": 1}', ["row 0 has no text, its keys are version"]),
    "c.json": (b'[{"text": "bad"}, ', ["is not JSON"]),
    "d.json": (b"[" * 200_000, ["is not JSON: its brackets are nested too deeply"]),
    "a.jsonl": (b'{"text": 5}\n{"text": "good"}\n{"text": true}\n', ["byte 0 has a text of type int", "byte 29 has"]),
    "b.jsonl": (b'{"text": "good"}\n' + b"[" * 200_000, ["is not JSON: its brackets are nested too deeply"]),
    "a.csv": (b'text,id\ngood,1\n"good\nas ""well""",2\n,3\n', []),
    "b.csv": (b"id,text\n1,good\n2\n", ["the row that ends in line 3 has only 1 values"]),
    "c.csv": (b'text\ngood\n"never closed\n', ["the rest of it, from line 3 on, is skipped: unexpected end"]),
    "d.csv": (b"text\ngood\n\xff\ngood\n", ["the row that ends in line 3 is not UTF-8"]),
}


@pytest.mark.parametrize("layout", ["file", "zip"])
@pytest.mark.parametrize("name", ROWS)
def test_rows_without_a_text_are_named(tmp_path, name, layout):
    data, reasons = ROWS[name]
    path = tmp_path / name
    if layout == "zip":
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, data)
    else:
        path.write_bytes(data)
    texts, unreadable = items(path)
    assert all(text.startswith("good") for text in texts)
    assert len(texts) == data.count(b"good")
    assert len(unreadable) == len(reasons)
    for item, reason in zip(unreadable, reasons, strict=True):
        assert item.name.endswith(name)
        assert reason in item.reason


def test_a_csv_without_the_column_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("id;text\n1;a\n")
    with pytest.raises(UserError, match=r"a\.csv: has no column text with texts, its columns are id;text"):
        items(tmp_path / "a.csv")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize(("values", "kind"), [([b"\x89PNG", None], "bytes"), ([["a"]], "list"), ([1.5], "float")])
def test_a_column_that_is_not_text_is_refused(tmp_path, suffix, values, kind):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table, path = arrow.table({"text": values}), tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        parquet.write_table(table, path)
    else:
        with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, table.schema) as out:
            out.write_table(table)
    with pytest.raises(UserError, match=f": its column text has values of type {kind}, not texts"):
        items(path)


def test_a_column_of_bytes_that_claims_to_be_text_is_skipped_and_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    lie = arrow.StringArray.from_buffers(
        1, arrow.array([0, 2], arrow.int32()).buffers()[1], arrow.py_buffer(b"\xff\xff")
    )
    parquet.write_table(arrow.table({"text": lie}), tmp_path / "a.parquet")
    texts, (unreadable,) = items(tmp_path / "a.parquet")
    assert texts == []
    assert "Invalid UTF8" in unreadable.reason


def test_a_saved_data_set_without_a_training_split_is_refused(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="is a data set without a split named train; give the folder of another split"):
        open_source(str(tmp_path))


def test_what_datasets_saves_is_read_as_it_reads_it(tmp_path):
    """Optional: needs datasets."""
    datasets = pytest.importorskip("datasets")
    texts = [f"text {i}" for i in range(50)]
    splits = {
        "train": datasets.Dataset.from_dict({"text": texts}),
        "test": datasets.Dataset.from_dict({"text": ["no"]}),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both", num_shards={"train": 3, "test": 1})
    splits["train"].select(range(10)).save_to_disk(tmp_path / "one")
    assert items(tmp_path / "both") == (texts, [])
    assert items(tmp_path / "one") == (texts[:10], [])


@pytest.mark.parametrize("change", [(6, 148), (28, 0)], ids=["version 14.8", "no name"])
def test_impossible_values_in_the_directory_of_a_zip_are_one_sentence(tmp_path, change):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", "a text")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    place, value = change
    data[data.index(b"PK\x01\x02") + place] = value
    (tmp_path / "a.zip").write_bytes(data)
    texts, (unreadable,) = items(tmp_path / "a.zip")
    assert texts == []
    assert "a.zip" in unreadable.name


def test_corrupt_offsets_in_an_arrow_file_are_not_followed(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    texts = arrow.array(["one", "two"]).buffers()[2]
    offsets = arrow.array([0, 2**30, 6], arrow.int32()).buffers()[1]
    table = arrow.table({"text": arrow.StringArray.from_buffers(2, offsets, texts)})
    with arrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file, arrow.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    found, (unreadable,) = items(tmp_path / "a.arrow")
    assert found == []
    assert "offset" in unreadable.reason.lower()
