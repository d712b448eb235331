"""The benchmark compares results before it times, finds the crossover, and says what is missing."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest

import tinytensor as tt
from benchmarks import cpu_vs_gpu, operations, timing
from benchmarks.cpu_vs_gpu import ResultMismatch, Row, crossover

FAST = tuple(o for o in operations.OPERATIONS if o.name not in ("attention", "training step"))


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-6)


def row(device, size, seconds, operation="matmul", variant=""):
    return Row(operation, size, device, variant, seconds, 0.0, 3, 1.0, 1.0)


def test_the_smallest_sizes_of_all_operations_on_the_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tt, "device", _without_cuda(tt.device))
    assert cpu_vs_gpu.main(["--limit", "1", "--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]) == 0
    output = capsys.readouterr().out
    assert "only the CPU was measured: device 'cuda': not here" in output
    assert "peak of cpu: " in output
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["missing"] == "device 'cuda': not here"
    assert content["machine"]["numpy"] == np.__version__
    assert content["peaks"]["cpu"]["gflops"] > 0
    assert {r["operation"] for r in content["rows"]} == {o.name for o in operations.OPERATIONS} - {"transfer"}
    for fields in content["rows"]:
        assert fields.keys() == {field.name for field in dataclasses.fields(Row)}
        assert fields["seconds"] > 0
        assert fields["samples"] >= 3
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def _without_cuda(device):
    def find(name="cpu"):
        if name == "cuda":
            raise tt.DeviceError("device 'cuda': not here")
        return device(name)

    return find


def test_a_second_device_gets_columns_and_crossovers(tmp_path, capsys, monkeypatch):
    # the emulated device stands in for a GPU: its times mean nothing, but the path is the GPU's
    monkeypatch.setattr(cpu_vs_gpu, "OPERATIONS", FAST)
    try:
        tt.device("emulated")
    except tt.DeviceError as error:
        pytest.skip(str(error))
    assert cpu_vs_gpu.main(["--device", "emulated", "--limit", "1", "--json", str(tmp_path / "a.json")]) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    columns = {(r["operation"], r["device"], r["variant"]) for r in content["rows"]}
    assert ("softmax", "emulated", "fused") in columns
    assert ("softmax", "emulated", "composed") in columns
    assert ("transfer", "emulated", "to the host") in columns
    assert ("transfer", "cpu", "to the host") not in columns
    assert content["missing"] is None
    assert content["crossovers"].keys() == {o.name for o in FAST} - {"transfer"}
    assert "faster than the CPU" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["attention", "training step"])
def test_the_large_operations_agree_on_every_device(device, name):
    operation = next(o for o in operations.OPERATIONS if o.name == name)
    rows = cpu_vs_gpu.run((operation,), list({"cpu": tt.device("cpu"), device.name: device}.values()), limit=1)
    assert {r.variant for r in rows} == operation.variants.keys()


def test_different_results_are_not_timed(monkeypatch, capsys):
    wrong = operations.placed(lambda x: x.sum() + 1)
    reduction = next(o for o in FAST if o.name == "reduction")
    broken = dataclasses.replace(reduction, variants={**reduction.variants, "wrong": wrong})
    with pytest.raises(ResultMismatch, match=r"reduction of size 1024 on cpu wrong is off by .*nothing was timed"):
        cpu_vs_gpu.run((broken,), [tt.device("cpu")], limit=1)


def test_crossover_is_the_size_from_which_the_gpu_always_wins():
    cpu = [row("cpu", size, seconds) for size, seconds in ((1, 1), (2, 2), (4, 4), (8, 8))]
    gpu = [row("cuda:0", size, seconds) for size, seconds in ((1, 0.5), (2, 3), (4, 3), (8, 3))]
    assert crossover(cpu + gpu, "matmul", "cpu", "cuda:0") == 4
    assert crossover([*cpu, row("cuda:0", 8, 9)], "matmul", "cpu", "cuda:0") is None


def test_flops_of_a_training_step_count_every_weight():
    model = operations.GPT(operations.MODEL)
    weights = sum(p.data.size for p in model.parameters() if p.ndim == 2)
    weights -= model.transformer.wpe.weight.data.size  # positions are added, not multiplied
    tokens = operations.MODEL.block_size
    attention = operations.MODEL.n_layer * tokens * operations.MODEL.n_embd
    assert operations.step_flops(1) == 6 * (weights + attention) * tokens


def test_timed_prints_and_keeps_the_seconds(capsys):
    with timing.timed("a nap") as t:
        time.sleep(0.01)
    assert 0.01 <= t.seconds < 10
    assert capsys.readouterr().out == f"a nap: {timing.milliseconds(t.seconds)} ms\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.234567e-6, "0.00123"), (0.0123456, "12.3"), (0.9994, "999"), (12.3456, "12346")]
)
def test_milliseconds_have_three_digits_and_no_exponent(seconds, text):
    assert timing.milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "--limit 0: must be at least 1"),
        (["--json", "/nowhere/a.json"], "--json /nowhere/a.json: there is no directory /nowhere"),
    ],
)
def test_a_wrong_argument_stops_before_measuring(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cpu_vs_gpu.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_device_asked_for_by_name_must_be_there(capsys):
    assert cpu_vs_gpu.main(["--device", "tpu"]) == 2
    assert capsys.readouterr().err == "error: device 'tpu': must be auto, cpu, cuda, cuda:N or emulated\n"
