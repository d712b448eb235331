"""Corpora: what is read is what is there, in pieces of any size, and what cannot be read is named."""

import sysconfig

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.corpus import embedded as corpora
from gpt.corpus.embedded import open_corpus, read_pieces
from gpt.errors import UserError


def content(corpus):
    return "".join(corpus.pieces())


def test_pydocs_is_the_language_reference_and_reads_the_same_twice():
    corpus = open_corpus("pydocs")
    assert len(content(corpus)) > 100_000
    assert 'The "if" statement' in content(corpus)
    assert content(corpus) == content(corpus)


def test_stdlib_holds_sources_sorted_without_packages_tests_and_undecodable_files(tmp_path, monkeypatch):
    for name in ("b.py", "a.py", "json/x.py", "site-packages/no.py", "test/no.py", "json/tests/no.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}")
    (tmp_path / "bad.py").write_bytes(b"\xff")
    (tmp_path / "data.txt").write_text("no")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    corpus = open_corpus("stdlib")
    assert content(corpus) == "# a.py\n# b.py\n# json/x.py\n"
    assert corpus.note == "(3 files, 1 skipped because they are not UTF-8)"


def test_the_real_stdlib_is_found():
    assert sum(len(piece) for _, piece in zip(range(20), open_corpus("stdlib").pieces(), strict=False)) > 1000


@given(text=st.text(st.characters(exclude_categories=("Cs",))), size=st.integers(1, 5))
def test_characters_cut_by_a_block_are_put_together(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("corpus") / "text"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "PIECE_BYTES", size)
        assert "".join(read_pieces(path)) == text


@given(
    before=st.text(st.characters(exclude_categories=("Cs",))),
    bad=st.sampled_from([b"\xff", b"\xe2\x82 ", b"\xc3", b"\xf0\x9f\x98"]),
    size=st.integers(1, 5),
)
def test_the_first_undecodable_byte_is_named(tmp_path_factory, before, bad, size):
    path = tmp_path_factory.mktemp("corpus") / "text"
    path.write_bytes(before.encode() + bad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "PIECE_BYTES", size)
        with pytest.raises(UserError, match=f"byte {len(before.encode())} is not UTF-8"):
            list(read_pieces(path))


def test_a_folder_is_read_in_order_with_hidden_files_left_out(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/b.md", ".hidden", ".git/config"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    corpus = open_corpus(str(tmp_path))
    assert content(corpus) == "a/b.md\na/z.txt\nb.txt\n"
    assert corpus.note == "(3 files)"


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no files"):
        open_corpus(str(tmp_path))


def test_a_missing_file_is_an_error_that_offers_the_nearest_corpus():
    with pytest.raises(UserError, match=r"--data pydoc: no such file or folder \(did you mean pydocs\?\)"):
        open_corpus("pydoc")
    with pytest.raises(UserError, match=r"nor one of pydocs, stdlib"):
        open_corpus("/no/such/file")


def test_a_file_that_vanishes_is_an_error(tmp_path):
    path = tmp_path / "text"
    path.write_text("here today")
    corpus = open_corpus(str(path))
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        content(corpus)
