"""The split rule: documents by a hash of their text, texts at a fixed place, whatever pieces they come in."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.corpus import split
from gpt.corpus.documents import Document, Passage, Unreadable
from gpt.corpus.split import SplitRule, sections

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
DOCUMENTS = [Document(f"document {i}") for i in range(4000)]


def sides(rule, items):
    """{"train" and "val": the texts on that side}, and what was unreadable under None."""
    found = {"train": [], "val": [], None: []}
    for side, item in rule.apply(items):
        found[side].append(item)
    return found


@given(text=TEXT, cuts=st.lists(st.integers(0, 300)), val_share=st.floats(0.01, 0.99), size=st.integers(1, 50))
def test_a_text_is_split_at_one_place_without_loss(text, cuts, val_share, size):
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    passages = [Passage(text[a:b], a, len(text)) for a, b in pairwise(borders)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "SECTION", size)
        found = sides(SplitRule(val_share), passages)
    boundary = int(len(text) * (1 - val_share))
    assert "".join(document.text for document in found["train"]) == text[:boundary]
    assert "".join(document.text for document in found["val"]) == text[boundary:]
    for documents in (found["train"], found["val"]):  # each side ends once, like a document
        assert [document.ends for document in documents] == [False] * (len(documents) - 1) + [True] * bool(documents)


def test_documents_are_split_by_their_text_alone():
    found = sides(SplitRule(0.1), DOCUMENTS)
    again = sides(SplitRule(0.1), reversed(DOCUMENTS))
    assert {*found["train"], *found["val"]} == {*DOCUMENTS}
    assert {*found["val"]} == {*again["val"]}
    assert 0.08 < len(found["val"]) / len(DOCUMENTS) < 0.12


def test_a_sample_of_documents_keeps_their_sides():
    found, sampled = sides(SplitRule(0.1), DOCUMENTS), sides(SplitRule(0.1, sample=0.3), DOCUMENTS)
    for name in ("train", "val"):
        assert {*sampled[name]} < {*found[name]}
        assert 0.2 < len(sampled[name]) / len(found[name]) < 0.4


def test_unreadable_items_pass_through():
    assert [*SplitRule(0.1, sample=0.0).apply([Unreadable("x", "why")])] == [(None, Unreadable("x", "why"))]


@given(text=TEXT, size=st.integers(1, 50))
def test_joined_sections_are_the_text(text, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "SECTION", size)
        found = list(sections(text))
    assert "".join(found) == text
    assert all(0 < len(section) <= 2 * size + 2 for section in found)
