"""What of a corpus is used, and what of that is for validation: one rule for every way to prepare data.

A *document* (a row of a table, a member of an archive, the text between two separators, a file of a large folder) is on
one side as a whole, and a hash of its text decides which. So the split depends neither on the order nor on the format
of the files, and the copies of a document are all on the same side.

A *text* that does not consist of documents (a book, say) gives its last part to validation: characters from
int(length * (1 - val_share)) on, as in nanoGPT.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpt.corpus.pieces import Document, Item, Passage, Unreadable

SPLITS = ("train", "val")
SECTION = 1 << 14  # characters of a long text that are encoded at once


@dataclass(frozen=True)
class SplitRule:
    """The share of the text for validation, and the share that is used at all; both in [0, 1]."""

    val_share: float
    sample: float = 1.0

    def apply(self, items: Iterable[Item]) -> Iterator[tuple[str | None, Document | Unreadable]]:
        """Yield ("train" or "val", Document) for what is used, and (None, Unreadable) for what cannot be."""
        for item in items:
            if isinstance(item, Unreadable):
                yield None, item
            elif isinstance(item, Passage):
                yield from self._split_passage(item)
            else:
                place, chance = self._draw(item.text)
                if chance < self.sample:
                    yield "val" if place < self.val_share else "train", item

    def _split_passage(self, passage: Passage) -> Iterator[tuple[str, Document]]:
        """The two sides of a passage, in sections; a side of the text ends like a document."""
        boundary = int(passage.length * (1 - self.val_share))
        cut = min(max(boundary - passage.position, 0), len(passage.text))
        sides = [
            ("train", passage.text[:cut], passage.position, boundary),
            ("val", passage.text[cut:], passage.position + cut, passage.length),
        ]
        for split, text, position, end in sides:
            for section in sections(text):
                position += len(section)
                if self._draw(section)[1] < self.sample:
                    yield split, Document(section, ends=position == end)

    @staticmethod
    def _draw(text: str) -> tuple[float, float]:
        """Two independent numbers, uniform in [0, 1), that follow from a text alone."""
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        place, chance = (int.from_bytes(half, "little") / 2**64 for half in (digest[:8], digest[8:]))
        return place, chance


def sections(text: str) -> Iterator[str]:
    """Cut a long text into parts of about SECTION characters, which are the text when joined."""
    start = 0
    while start < len(text):
        stop = section_end(text, start + SECTION)
        yield text[start:stop]
        start = stop


def section_end(text: str, position: int) -> int:
    """A place to cut at or soon after `position`: after a blank line if there is one, or a line, or a word."""
    if position >= len(text):
        return len(text)
    for mark in ("\n\n", "\n", " "):
        found = text.find(mark, position, position + SECTION)
        if found >= 0:
            return found + len(mark)
    return min(position + SECTION, len(text))
