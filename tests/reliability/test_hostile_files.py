"""Archives and models made to do harm: refused or skipped, nothing written elsewhere, and memory stays bounded.

`tests/gpt/corpus/test_archives.py` and `tests/gpt/weights` have the known attacks one by one; here hypothesis combines
members, types, sizes and changed bytes, 300 times of each kind with `--thorough`.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import tarfile
import zipfile

import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from gpt import export, generate, prepare
from tests.reliability.conftest import examples
from tests.reliability.forks import forked

TYPES = [tarfile.REGTYPE] * 4 + [
    tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE,
    tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE,
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"Z",
]  # fmt: skip
MEMBERS = st.sampled_from(
    [
        "a.txt",
        "b.jsonl",
        "c.csv",
        "d.zip",
        "../evil",
        "/evil",
        "a/../../evil",
        "",
        "new/meta.json",
        "x" * 90,
        "é",
        "\udcff",
    ]
)
LINKS = st.sampled_from(["", "a.txt", "../evil", "/etc/passwd", "/dev/zero"])
SIZES = st.none() | st.sampled_from([0, 1, 511, 2**33, 2**62])  # that a member claims; None: what it has
BOMB = gzip.compress(bytes(80 << 20))  # more than any text is compressed
CONTENTS = st.sampled_from([b"a good text", b'{"text": "good"}\n', b"text\ngood\n", b"\0" * 600, BOMB]) | st.binary()
COMPRESS = st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress])
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3)
PREPARED = {
    "meta.json",
    "state.json",
    "train.bin",
    "val.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    ".verified.json",
}


def changed(data, changes):
    """The bytes with some of them replaced, at places that are shares of their length."""
    data = bytearray(data)
    for place, value in changes:
        data[int(place * len(data))] = value
    return bytes(data)


@st.composite
def tars(draw):
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        info, content = tarfile.TarInfo(draw(MEMBERS)), draw(CONTENTS)
        info.type, info.linkname = draw(st.sampled_from(TYPES)), draw(LINKS)
        size = draw(SIZES)
        info.size = len(content) if size is None else size
        header = info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")
        parts.append(header + content + b"\0" * (-len(content) % 512))
    data = b"".join(parts) + b"\0" * draw(st.sampled_from([0, 512, 1024]))
    return draw(COMPRESS)(changed(data, draw(CHANGES)))


@st.composite
def zips(draw):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for i in range(draw(st.integers(0, 3))):
            info = zipfile.ZipInfo(draw(MEMBERS).replace("\udcff", "ÿ") or "empty")
            info.external_attr = draw(st.sampled_from([0, 0o120777 << 16, 0o040755 << 16, 0o010644 << 16]))
            archive.writestr(info, draw(CONTENTS), compress_type=archive.compression)
            archive.comment = b"x" * i
    return changed(buffer.getvalue(), draw(CHANGES))


def check_preparation(data, name, place):
    """Prepare from an archive, and look for what must not be there."""
    shutil.rmtree(place.parent, ignore_errors=True)
    place.mkdir(parents=True)
    (place / name).write_bytes(data)
    end = forked(prepare.main, [name, "--out", "new", "--tokenizer", "char"], place)
    assert end.code in (0, 2), end
    assert "Traceback" not in end.errors, end
    if end.code == 2:
        end.error()
    assert set(os.listdir(place)) <= {name, "new"}
    assert set(os.listdir(place.parent)) <= {place.name, "stdin", "stdout", "stderr"}
    new = place / "new"
    if end.code == 0:
        assert set(os.listdir(new)) == PREPARED - {"state.json"}
        assert json.loads((new / "meta.json").read_text())["text_bytes"]
    elif new.exists():
        assert set(os.listdir(new)) <= PREPARED


def test_tar_archives(tmp_path):
    @examples(12, 300)
    @given(tars())
    def trial(data):
        check_preparation(data, "a.tar", tmp_path / "beside" / "place")

    trial()


def test_zip_archives(tmp_path):
    @examples(12, 300)
    @given(zips())
    def trial(data):
        check_preparation(data, "a.zip", tmp_path / "beside" / "place")

    trial()


NUMBERS = st.sampled_from([-1, 0, 1, 8, 2**31, 2**62, 2**63, 2**64 - 1, 2**200, 1.5, True, None, "8"])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
DTYPES = st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "I8", "BOOL", "F8_E4M3", "", "f32"])


@st.composite
def headers(draw, header):
    """The text of a safetensors header, changed in one or two places."""
    header = json.loads(json.dumps(header))
    names = sorted(header.keys() - {"__metadata__"})
    text = None
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(names))
        kind = draw(st.sampled_from(["dtype", "shape", "data_offsets", "entry", "key", "metadata", "twice", "whole"]))
        if kind == "entry":
            header[name] = draw(JSON)
        elif kind == "metadata":
            header["__metadata__"] = draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
        elif kind == "whole":
            text = json.dumps(draw(JSON)) if draw(st.booleans()) else "[" * 100_000
        elif kind == "twice":  # Python's parser takes the last of two
            text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(draw(JSON))}}}"
        elif isinstance(header.get(name), dict):
            value = {"dtype": DTYPES, "key": JSON}.get(kind, st.lists(NUMBERS, max_size=4) | JSON)
            header[name][kind] = draw(value)
            if draw(st.booleans()) and kind == "shape":  # a shape that is as large as it claims
                header[name][kind] = [0, 2**40]
    return text or json.dumps(header)


@pytest.fixture(scope="module")
def model(uninterrupted, tmp_path_factory):
    """A model directory; read-only."""
    directory = tmp_path_factory.mktemp("hostile") / "model"
    assert export.main([str(uninterrupted), str(directory)]) == 0
    return directory


def test_headers_of_models(model, tmp_path):
    content = (model / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    place = tmp_path / "place"
    shutil.copytree(model, place / "model")

    @examples(15, 300)
    @given(headers(json.loads(content[8 : 8 + length])), st.none() | st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1]))
    def trial(header, claimed):
        claimed = len(header.encode()) if claimed is None else claimed
        data = claimed.to_bytes(8, "little") + header.encode() + content[8 + length :]
        (place / "model/model.safetensors").write_bytes(data)
        end = forked(generate.main, ["model", "--tokens", 2, "--device", "cpu"], place)
        assert end.code in (0, 2), end
        assert "Traceback" not in end.errors, end
        if end.code == 2:
            end.error()
        else:  # the format's own library reads it, too
            safetensors.numpy.load(data)

    trial()
