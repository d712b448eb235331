"""Compressed files and archives, of which none can take all memory or fill the disk.

A few kilobytes can unpack to gigabytes, by accident or on purpose. So what is unpacked as a whole has a limit, and a
stream may not grow beyond any text's ratio of compression.
"""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from gpt.corpus.pieces import Unreadable
from gpt.errors import requires

MAX_WHOLE_BYTES = 1 << 28  # of what is unpacked as a whole: a member of an archive, or a .json
TOO_LARGE = f"has more than {MAX_WHOLE_BYTES >> 20} MiB, and it can only be read as a whole"
# a text repeated ten times over compresses to less than a hundredth
MAX_RATIO, MIN_RATIO_BYTES = 250, 1 << 26
STREAM_BYTES = 1 << 17  # decompressed at once
READ_ERRORS = (lzma.LZMAError, zlib.error, EOFError, OSError, tarfile.TarError, zipfile.BadZipFile)
# of `zipfile`: a password or a newer version is needed, or the numbers in the file are impossible
ZIP_ERRORS = (RuntimeError, ValueError, struct.error)
# tarfile's own names for these are not in its type stubs
CORRUPT_HEADER: Any = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError)  # type: ignore


class UnpacksTooFar(OSError):
    """A compressed file grows beyond what any text does."""


@dataclass(frozen=True)
class Member:
    """A file in an archive, and how many of the archive's bytes it takes."""

    name: str
    data: bytes
    stored: int


def open_zstd(raw: Any) -> Any:
    """The decompressed stream of a Zstandard file, by pyarrow, which reads tables too."""
    with requires("pyarrow"):
        import pyarrow
    return pyarrow.CompressedInputStream(raw, "zstd")


OPENERS: dict[str, Any] = {"xz": lzma.open, "gzip": gzip.open, "bzip2": bz2.open, "zstd": open_zstd}


def compression(data: bytes) -> str | None:
    """The compression (a key of OPENERS) by the first bytes of a file, or None. None of them can begin a text."""
    if data.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if data.startswith(b"\x1f\x8b"):
        return "gzip"
    if data.startswith(b"BZh") and data[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):  # the digits of pi, or of its root
        return "bzip2"
    return "zstd" if data.startswith(b"\x28\xb5\x2f\xfd") else None


class Decompressed(io.RawIOBase):
    """A decompressed stream; UnpacksTooFar when it has grown far beyond its compressed size."""

    def __init__(self, raw: Any, kind: str):
        self.raw, self.file, self.count = raw, OPENERS[kind](raw), 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as there are bytes; returns their number."""
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        if self.count > max(MIN_RATIO_BYTES, MAX_RATIO * self.raw.tell()):
            raise UnpacksTooFar(f"unpacks to more than {MAX_RATIO} times its size")
        return len(data)


def decompressed(raw: Any) -> io.BufferedReader:
    """A buffered file, or the decompressed stream of one that is compressed."""
    kind = compression(raw.peek(10))
    return io.BufferedReader(Decompressed(raw, kind), STREAM_BYTES) if kind else raw


def read_whole(file: Any) -> bytes | None:
    """The bytes of a stream, or None if they are too many."""
    blocks: list[bytes] = []
    count = 0
    while count <= MAX_WHOLE_BYTES:
        if not (block := file.read(STREAM_BYTES)):
            return b"".join(blocks)
        blocks.append(block)
        count += len(block)
    return None


def is_tar(data: bytes) -> bool:
    """Whether bytes begin with the header of a tar archive."""
    return data[257:262] == b"ustar"


def is_zip(name: str, data: bytes) -> bool:
    """Whether a file is a zip archive, and not one of the formats that only consist of one, such as .docx."""
    return name.endswith(".zip") and data.startswith((b"PK\x03\x04", b"PK\x05\x06"))


class StrictTarInfo(tarfile.TarInfo):
    """`tarfile` takes a corrupt or missing header for the end of the archive; this makes it an error."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "StrictTarInfo":
        """The next member's header."""
        try:
            return super().fromtarfile(tarfile_)
        except CORRUPT_HEADER as error:
            raise tarfile.SubsequentHeaderError(str(error)) from None  # type: ignore[attr-defined]


def tar_members(name: str, file: Any) -> Iterator[Member | Unreadable]:
    """Yield the files in an uncompressed tar archive, read from front to back."""
    with tarfile.open(fileobj=file, mode="r|", tarinfo=StrictTarInfo) as tar:
        while member := tar.next():
            if member.isreg() and member.size > MAX_WHOLE_BYTES:  # sparse ones claim any size
                yield Unreadable(f"{name}/{member.name}", TOO_LARGE)
                skip(tar)
            elif content := tar.extractfile(member):  # None for a directory or link
                yield Member(f"{name}/{member.name}", content.read(), member.size)
            tar.members.clear()  # type: ignore[attr-defined]  # otherwise it remembers all of them


def skip(tar: Any) -> None:
    """Read up to the next header of a tar stream, or to its end if that comes first: `tarfile` would go on reading."""
    while (missing := tar.offset - 1 - tar.fileobj.tell()) > 0:
        if not tar.fileobj.read(min(missing, 1 << 20)):
            raise tarfile.ReadError("unexpected end of data")


def zip_members(name: str, file: BinaryIO) -> Iterator[Member | Unreadable]:
    """Yield the files in a zip archive. As each can be read without the others, an unreadable one ends nothing."""
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise zipfile.BadZipFile(str(error)) from None
    for info in archive.infolist():
        if info.filename.endswith("/"):  # `is_dir` fails for an empty name
            continue
        where = f"{name}/{info.filename}"
        try:
            with archive.open(info) as content:
                data = read_whole(content)
        except (*READ_ERRORS, *ZIP_ERRORS) as error:
            yield Unreadable(where, str(error) or type(error).__name__)
        else:
            yield Unreadable(where, TOO_LARGE) if data is None else Member(where, data, info.compress_size)
