"""Sources: the corpora inside Python, files in order, and texts that are cut anywhere but within a character."""

import sysconfig

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.corpus import sources
from gpt.corpus.documents import SEPARATOR, Document, Passage, Unreadable, read_piece
from gpt.corpus.folders import files
from gpt.corpus.sources import last_break, open_source, text_length
from gpt.errors import UserError

TEXT = st.text(st.characters(exclude_categories=("Cs",)))


def items(source):
    return [item for piece in source.pieces() for item in read_piece(piece, "text")]


def test_pydocs_is_one_text_the_language_reference():
    source = open_source("pydocs")
    (passage,) = items(source)
    assert source.is_text
    assert passage.length == len(passage.text) > 100_000
    assert 'The "if" statement' in passage.text
    assert items(source) == [passage]


def test_stdlib_is_the_librarys_sources_sorted_without_packages_and_tests(tmp_path, monkeypatch):
    for name in ("b.py", "a.py", "json/x.py", "site-packages/no.py", "test/no.py", "json/tests/no.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}")
    (tmp_path / "bad.py").write_bytes(b"\xff")
    (tmp_path / "data.txt").write_text("no")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    monkeypatch.setattr(sources, "MIN_FILES", 4)  # the real one has far more
    a, b, bad, x = items(open_source("stdlib"))
    assert [a, b, x] == [Document("# a.py"), Document("# b.py"), Document("# json/x.py")]
    assert bad == Unreadable(str(tmp_path / "bad.py"), "byte 0 is not UTF-8")


def test_the_real_stdlib_consists_of_documents():
    source = open_source("stdlib")
    assert not source.is_text
    assert source.size > 1_000_000
    assert isinstance(next(read_piece(next(source.pieces()), "text")), Document)


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/b.md", ".hidden", ".git/config"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert [str(path.relative_to(tmp_path)) for path in files(tmp_path)] == ["a/b.md", "a/z.txt", "b.txt"]


def test_a_missing_file_or_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="the name of the source is empty"):
        open_source("")
    with pytest.raises(UserError, match=r"^pydoc: no such file or folder \(did you mean pydocs\?\)"):
        open_source("pydoc")
    with pytest.raises(UserError, match=r"nor one of pydocs, stdlib, nor hf:NAME"):
        open_source("/no/such/file")
    with pytest.raises(UserError, match="the folder contains no files"):
        open_source(str(tmp_path))


@given(text=TEXT.filter(lambda text: SEPARATOR not in text), size=st.integers(1, 50))
def test_the_pieces_of_a_text_are_the_text_wherever_it_is_cut(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("source") / "text"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PIECE_BYTES", size)
        passages = items(open_source(str(path)))
    position = 0
    for passage in passages:
        assert passage == Passage(passage.text, position, len(text))
        position += len(passage.text)
    assert "".join(passage.text for passage in passages) == text


@given(
    before=TEXT.filter(lambda text: SEPARATOR not in text),
    bad=st.sampled_from([b"\xff", b"\xe2\x82 ", b"\xc3", b"\xf0\x9f\x98"]),
    size=st.integers(1, 5),
)
def test_the_first_undecodable_byte_is_named(tmp_path_factory, before, bad, size):
    path = tmp_path_factory.mktemp("source") / "text"
    path.write_bytes(before.encode() + bad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PIECE_BYTES", size)
        (unreadable,) = [item for item in items(open_source(str(path))) if isinstance(item, Unreadable)]
    assert unreadable.reason.startswith(f"byte {len(before.encode())} is not UTF-8")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_text_with_a_separator_anywhere_consists_of_documents(tmp_path, monkeypatch, size):
    path = tmp_path / "stories.txt"
    path.write_text("one" * 50 + SEPARATOR + "two")
    monkeypatch.setattr(sources, "PIECE_BYTES", size)
    assert text_length(path) is None
    source = open_source(str(path))
    assert not source.is_text
    assert items(source) == [Document("one" * 50), Document("two")]


@given(TEXT.filter(bool), st.integers(0, 3))
def test_blocks_end_between_characters(text, cut):
    data = text.encode()
    data = data[: max(1, len(data) - cut)]
    data[: last_break(data, json_lines=False, is_text=True)].decode("utf-8")
