"""The tree of shares is the same one however contiguous blocks of them are dealt out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinytensor.parallel.shares import TreeSum, all_shares, shares_of_rank


def formula(count: int, workers: int) -> str:
    """How the values of the shares are added when so many workers first add their own."""
    whole = TreeSum(count, "({}+{})".format)
    for block in all_shares(count).split(workers):
        own = TreeSum(count, "({}+{})".format)
        for share in range(block.first, block.stop):
            own.add(share, share + 1, str(share))
        assert [(first, stop) for first, stop, _ in own.nodes] == block.nodes()
        for node in own.nodes:
            whole.add(*node)
    ((first, stop, value),) = whole.nodes
    assert (first, stop) == (0, count)
    return value


def test_the_tree_adds_neighbours_in_pairs():
    assert formula(7, 1) == "(((0+1)+(2+3))+((4+5)+6))"
    assert formula(3, 1) == "((0+1)+2)"


@given(count=st.integers(1, 40), data=st.data())
def test_the_order_of_additions_does_not_depend_on_the_workers(count, data):
    assert formula(count, data.draw(st.integers(1, count))) == formula(count, 1)


def test_what_is_absent_is_not_added():
    total = TreeSum(4, "({}+{})".format)
    for share, value in enumerate((None, "1", None, None)):
        total.add(share, share + 1, value)
    assert total.nodes == [(0, 4, "1")]


@given(count=st.integers(1, 40), batch=st.integers(1, 100))
def test_shares_cover_the_rows_of_a_batch_once(count, batch):
    rows = [share.rows(batch) for share in all_shares(count).split(count)]
    assert [row for part in rows for row in range(part.start, part.stop)] == list(range(batch))
    sizes = {part.stop - part.start for part in rows}
    assert max(sizes) - min(sizes) <= 1


def test_ranks_take_subtrees_of_equal_size():
    assert [len(shares_of_rank(8, 0, size)) for size in (1, 2, 4, 8)] == [8, 4, 2, 1]
    assert [(s.first, s.stop) for s in (shares_of_rank(6, rank, 3) for rank in range(3))] == [(0, 2), (2, 4), (4, 6)]
    for size in (3, 5, 16):
        with pytest.raises(ValueError, match=f"8 shares cannot be divided among {size} ranks, but among 1, 2, 4 or 8"):
            shares_of_rank(8, 0, size)
    with pytest.raises(ValueError, match="6 shares cannot be divided among 2 ranks, but among 1, 3 or 6"):
        shares_of_rank(6, 0, 2)
