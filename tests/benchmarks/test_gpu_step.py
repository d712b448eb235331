"""A step of GPT-2 (124M), counted from shapes: its launches, its bytes, and what the command prints of them."""

import pytest

from benchmarks import gpu_step
from kernels import emulator
from kernels.cuda.analysis import steps

BYTES = 164.3e9  # of a float32 step before there were 16 bits and fused kernels (docs/cuda.md), in 2,037 launches


@pytest.fixture(scope="module")
def rows():
    if not emulator.available():
        pytest.skip(emulator.MISSING)
    return steps.rows(gpu_step.record("float16", 16))


def total(rows, what):
    return sum(getattr(row, what) for row in rows)


def test_sixteen_bits_take_400_launches_and_little_more_than_a_third_of_the_bytes(rows):
    assert total(rows, "launches") <= 400
    assert total(rows, "bytes") <= BYTES / 2.8


def test_the_products_are_those_of_the_model(rows):
    """Three with each weight, 2 operations for each value and token; the vocabulary is padded."""
    (products,) = [row for row in rows if row.name == "cuBLAS products"]
    assert products.operations == 6 * (12 * 12 * 768**2 + 50304 * 768) * 16 * 1024
    attention = [row.operations for row in rows if row.name.startswith("`attention")]
    assert sum(attention) == 9 * 64 * 1024 * 1025 * 16 * 12 * 12  # nine products of a triangle for each head


def test_the_command_prints_the_table_and_the_model(capsys, monkeypatch, rows):
    monkeypatch.setattr(gpu_step, "record", lambda dtype, batch_size: [])
    monkeypatch.setattr(steps, "rows", lambda operations: rows)
    assert gpu_step.main(["--dtype", "float16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    gpus = " | ".join(f"{gpu.name}, ms" for gpu in steps.GPUS)
    assert lines[0] == f"| kernel | launches | MB | GFLOP | {gpus} |"
    assert lines[2].startswith("| cuBLAS products |")
    assert lines[-5].startswith("| **all** |")
    assert [line.rpartition(" ")[2] for line in lines[-4:]] == ["(modelled)"] * 4
