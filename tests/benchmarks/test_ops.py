"""The benchmark of the fused operations compares what the sides compute before it times them."""

from __future__ import annotations

import dataclasses
import json

import pytest

import tinytensor as tt
from benchmarks import ops
from tinytensor.ops import composed

SMALL = ops.Primitive("gelu", "3 x 4", lambda: (ops.normal(3, 4),), tt.gelu, composed.gelu, lambda F, x: x)


@pytest.fixture(autouse=True)
def only_a_small_one(monkeypatch):
    monkeypatch.setattr(ops, "HAS_TORCH", False)
    monkeypatch.setattr(ops, "SAMPLE_SECONDS", 1e-6)
    monkeypatch.setattr(ops, "keep_freed_memory", lambda: True)  # both would outlast the test
    monkeypatch.setattr(ops, "set_num_threads", lambda count: None)
    monkeypatch.setattr(ops, "PRIMITIVES", (SMALL,))


def test_a_row_for_each_operation(tmp_path, capsys):
    ops.main(["--rounds", "2", "--json", str(tmp_path / "ops.json")])
    (row,) = json.loads((tmp_path / "ops.json").read_text())
    assert (row["operation"], row["size"], row.keys() - {"operation", "size"}) == (
        "gelu",
        "3 x 4",
        {"fused", "composed"},
    )
    assert all(seconds > 0 for side in ("fused", "composed") for seconds in row[side])
    header, _, line = capsys.readouterr().out.strip().splitlines()
    assert header.count("|") == line.count("|") == 6
    assert "torch" not in header


@pytest.mark.parametrize("wrong", [lambda x: composed.gelu(x) * 1.01, lambda x: composed.gelu(x) + 0.01 * x.detach()])
def test_sides_that_disagree_are_not_timed(monkeypatch, wrong):
    monkeypatch.setattr(ops, "PRIMITIVES", (dataclasses.replace(SMALL, composed=wrong),))
    with pytest.raises(AssertionError, match="gelu: fused and composed"):
        ops.main([])


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        ops.main(["--only", "fft"])
    assert "must name some of gelu" in capsys.readouterr().err
