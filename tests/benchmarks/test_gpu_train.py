"""The training step of GPT-2 measured on a GPU: what can be tested without one."""

import argparse

import pytest

import tinytensor as tt
from benchmarks import gpu_train
from gpt.training.recipe import PRESETS


def test_our_side_trains_on_the_device(monkeypatch):
    """On the emulated one, a small model."""
    find = tt.device
    try:
        emulated = find("emulated")
    except tt.DeviceError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(tt, "device", lambda name: emulated if name == "cuda" else find(name))
    small = {"vocab_size": 300, "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8}
    monkeypatch.setitem(PRESETS, "gpt2", PRESETS["gpt2"] | small)
    options = argparse.Namespace(batch_size=2, rounds=2, steps=1, kernels=False)
    row = gpu_train.train_as("float16", options)
    assert len(row["seconds"]) == 2
    assert min(row["seconds"]) > 0
    assert len(row["losses"]) == gpu_train.WARM_UP + 1
    assert row["losses"][0] == pytest.approx(5.7, abs=0.2)  # log 300
    assert "kernels" not in row


def test_a_line_for_each_side_and_kernel():
    kernels = {"sum_rows": (36, 0.75e-3), "attention": (12, 1e-3)}
    row = {"side": "bfloat16", "seconds": [0.3, 0.1, 0.2], "losses": [11.0, 10.5], "gib": 5.8, "kernels": kernels}
    lines = gpu_train.report(row, 16).splitlines()
    assert lines[0].split()[:5] == ["bfloat16", "200.0", "ms/step", "81,920", "tokens/s"]  # the median
    assert lines[0].endswith("5.80 GiB, losses 11.0000 10.5000")
    assert [line.split() for line in lines[1:]] == [
        ["sum_rows", "36", "0.750", "ms"],
        ["attention", "12", "1.000", "ms"],
        ["all", "48", "1.750", "ms"],
    ]


def test_names_of_kernels_lose_their_templates_and_arguments():
    assert gpu_train.short("void at::native::reduce<512, float>(int)") == "at::native::reduce"
    assert gpu_train.short("sum_rows") == "sum_rows"


def test_what_cannot_be_measured_is_said(capsys):
    if not tt.cuda.is_available():
        assert gpu_train.main([]) == 2
        assert capsys.readouterr().err.startswith("error: device 'cuda': ")
    with pytest.raises(SystemExit, match="2"):
        gpu_train.main(["--sides", "bfloat16,float8"])
    assert "'float8': must be of float32, tf32," in capsys.readouterr().err
