"""`python -m tinytensor.gpu_check`: right kernels pass, planted wrong ones are reported."""

import dataclasses

import numpy as np
import pytest

import kernels.cpu
import kernels.cuda
import tinytensor as tt
from tinytensor import gpu_check


@pytest.fixture
def run(monkeypatch, capsys):
    """run() checks the emulated device on a few small sizes and returns (exit status, lines of the report)."""
    try:
        tt.device("emulated")
    except tt.DeviceError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(gpu_check, "ROW_SIZES", ((3, 7), (5, 300)))
    monkeypatch.setattr(gpu_check, "ATTENTION_SIZES", ((1, 33, 2, 16),))
    monkeypatch.setattr(gpu_check, "PRODUCT_SIZES", ((5, 8, 11),))
    monkeypatch.setattr(gpu_check, "TABLE_SIZES", ((20, 7, 33),))

    def run():
        status = gpu_check.main(["--device", "emulated"])
        return status, capsys.readouterr().out.splitlines()

    return run


def failed(lines):
    return {line.split()[0]: line for line in lines if "FAILED" in line}


def test_the_emulated_device_passes(run):
    status, lines = run()
    assert status == 0
    assert lines[0].startswith("device    emulated: emulated device, compute capability 8.6, ")
    assert f"NumPy {np.__version__}" in lines[1]
    assert lines[-1].startswith("OK: ")
    assert failed(lines) == {}
    kernels_run = {line.split()[0] for line in lines if line.endswith("  ok")}
    assert kernels_run == {*kernels.cuda.__all__, "training"}
    assert sum("dropout 0.2" in line for line in lines) == 2


def test_every_path_of_the_kernels_is_on_the_list():
    sizes = {case.kernel: [] for case in gpu_check.cases()}
    for case in gpu_check.cases():
        sizes[case.kernel].append(case.size)
    assert sizes.keys() == set(kernels.cuda.__all__)
    head_sizes = {size.rpartition(" D ")[2] for size in sizes["attention_backward"] if "dropout" not in size}
    assert {"16", "32", "64", "96", "127", "128"} <= head_sizes
    assert {1, 256, 300, 1025, 50257} <= {int(size.split()[2]) for size in sizes["dropout"]}


WRONG = {
    "values": (lambda right, x: right(x) * np.float32(1.0001), "error above bound"),
    "NaN": (lambda right, x: right(x) / np.float32(0) * np.float32(0), "error above bound"),
    "shape": (lambda right, x: right(x)[:1], r"a result has shape (1, "),
    "raises": (lambda right, x: right(x.astype(np.float64)), "KernelArgumentError: "),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_planted_wrong_kernel_is_reported(run, monkeypatch, fault):
    wrong, problem = WRONG[fault]
    right = kernels.cuda.gelu_forward
    monkeypatch.setattr(kernels.cuda, "gelu_forward", lambda x: wrong(right, x))
    status, lines = run()
    assert status == 1
    assert lines[-1].startswith("FAILED: ")
    faults = failed(lines[:-1])
    assert faults.keys() <= {"gelu_forward", "training"}
    assert f"FAILED: {problem}" in faults["gelu_forward"]


def test_results_that_do_not_repeat_are_reported(run, monkeypatch):
    right, calls = kernels.cuda.softmax_forward, []

    def unstable(x, *options):
        calls.append(x)
        return right(x, *options) * np.float32(1 + 1e-7 * (len(calls) % 2))

    monkeypatch.setattr(kernels.cuda, "softmax_forward", unstable)
    status, lines = run()
    assert status == 1
    assert "FAILED: two runs differ" in failed(lines)["softmax_forward"]


def test_a_wrong_optimizer_fails_the_training_step(run, monkeypatch):
    right = kernels.cuda.adamw_update

    def wrong(params, grads, ms, vs, options):
        right(params, grads, ms, vs, dataclasses.replace(options, lr=options.lr * 1.01))

    monkeypatch.setattr(kernels.cuda, "adamw_update", wrong)
    status, lines = run()
    assert status == 1
    problems = [line for line in lines if line.startswith("training step  ")]
    assert ["FAILED" in line for line in problems] == [False, False, True]  # loss, gradients, weights


def test_a_device_that_is_not_there_or_not_a_gpu(capsys):
    for name in ("cuda:99", "cpu", "gpu"):
        assert gpu_check.main(["--device", name]) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert sentence.startswith("error: ")


@pytest.mark.gpu
def test_the_gpu_passes(capsys):
    try:
        tt.device("cuda")
    except tt.DeviceError as error:
        pytest.skip(str(error))
    status = gpu_check.main([])
    assert status == 0, capsys.readouterr().out
