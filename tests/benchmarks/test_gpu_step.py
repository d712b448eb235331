"""A step of GPT-2 (124M), counted from shapes: its launches, its bytes, and what the command prints of them."""

import pytest

from benchmarks import gpu_step
from kernels import emulator
from kernels.cuda.analysis import steps

LAUNCHES, GIGABYTES = 2037, 164.3  # of a float32 step before there were 16 bits and fused kernels (docs/cuda.md)


@pytest.fixture(scope="module")
def rows():
    if not emulator.available():
        pytest.skip(emulator.MISSING)
    return {dtype: steps.rows(gpu_step.record(dtype, 16)) for dtype in ("float16", "float32")}


def total(rows, what):
    return sum(getattr(row, what) for row in rows)


def test_sixteen_bits_take_fewer_launches_and_half_of_the_bytes(rows):
    assert total(rows["float16"], "launches") <= 400 + 60  # 60: fp32 attention between casts
    assert total(rows["float16"], "bytes") <= GIGABYTES * 1e9 / 2
    assert total(rows["float32"], "launches") < LAUNCHES


def test_the_products_are_those_of_the_model(rows):
    """6 N T of the weights, N without positions: three products for each, whose vocabulary is padded."""
    weights, tokens = 12 * 12 * 768**2, 16 * 1024
    for dtype, vocabulary in (("float16", 50304), ("float32", 50257)):
        (products,) = [row for row in rows[dtype] if row.name == "cuBLAS products"]
        assert products.operations == 6 * (weights + vocabulary * 768) * tokens


def test_the_command_prints_the_table_and_the_model(capsys, monkeypatch, rows):
    monkeypatch.setattr(gpu_step, "record", lambda dtype, batch_size: [])
    monkeypatch.setattr(steps, "rows", lambda operations: rows["float16"])
    assert gpu_step.main(["--dtype", "float16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| kernel | launches | MB | GFLOP | A100 SXM 80 GB, ms | H100 SXM, ms | RTX 4090, ms |"
    assert lines[2].startswith("| cuBLAS products |")
    assert lines[-4].startswith("| **all** |")
    assert [line.rpartition(" ")[2] for line in lines[-3:]] == ["(modelled)"] * 3
