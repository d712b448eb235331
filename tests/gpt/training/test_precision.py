"""`--dtype` and `--matmul`: the loss curve of float32, exact resumption, and float16's loss scale."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tinytensor as tt
import train
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.planning.precision import require_precision
from gpt.training import trainer
from gpt.training.batches import Batches
from gpt.training.checkpoint import Progress
from gpt.training.optimizer import build_optimizer
from gpt.training.recipe import TrainConfig
from gpt.training.trainer import LossScaler, build_model, make_parallel, train_step, with_precision

SHAPE = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=16)
TOKENS = (np.arange(500) ** 2 % 11).astype(np.uint16)
TINY = ["--n-layer", 1, "--n-head", 2, "--n-embd", 8, "--block-size", 8, "--batch-size", 2, "--eval-batches", 1]


@pytest.fixture(scope="module")
def emulated():
    pytest.importorskip("ml_dtypes")
    try:
        return tt.device("emulated")
    except tt.DeviceError as error:
        pytest.skip(str(error))


def trained(device, dtype, steps, progress=None, **recipe):
    """Losses, the optimizer, the progress, and the bytes of the weights."""
    config = TrainConfig(batch_size=4, dtype=dtype, lr=2e-3, **recipe)
    model = build_model("gpt", SHAPE, 1, device)
    optimizer, parallel = build_optimizer(model, config), make_parallel(with_precision(model, config), device, config)
    progress = progress or Progress()
    scaler = LossScaler(parallel.model, progress) if dtype == "float16" else None
    batches = Batches(TOKENS, SHAPE.block_size, config.seed)
    read = [train_step(parallel, optimizer, batches, step, config, scaler=scaler) for step in range(steps)]
    weights = b"".join(tt.to_numpy(p.data).tobytes() for p in model.parameters())
    return np.array([float(loss) for loss, _ in read]), optimizer, progress, weights


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_loss_curve_is_float32s_within_a_hundredth(emulated, dtype):
    """40 steps here; docs/precision.md has 200 of the default model."""
    expected, *_ = trained(emulated, "float32", 40)
    losses, *_ = trained(emulated, dtype, 40)
    assert expected[-1] < 0.8 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=0.01)


def test_an_overflow_changes_nothing_but_the_scale(emulated):
    """A scale far too large is lowered until the gradients fit; from there on, it is as if it had been so before."""
    losses, optimizer, progress, weights = trained(emulated, "float16", 5, Progress(loss_scale=2.0**40))
    assert progress.loss_scale < 2.0**30
    assert set(optimizer.steps) == {5}  # AdamW saw no attempt that failed
    expected, _, after, same = trained(emulated, "float16", 5, Progress(loss_scale=progress.loss_scale))
    assert (weights, losses.tolist()) == (same, expected.tolist())
    assert after == progress


def test_a_scale_that_fits_is_raised(emulated, monkeypatch):
    monkeypatch.setattr(trainer, "GROWTH_STEPS", 2)
    monkeypatch.setattr(trainer, "LARGEST_SCALE", 2.0**9)
    *_, progress, _ = trained(emulated, "float16", 7, Progress(loss_scale=2.0**7))
    assert (progress.loss_scale, progress.scaled_steps) == (2.0**9, 1)


@pytest.mark.parametrize(
    ("loss", "scale", "what"), [(np.nan, 8.0, "training loss is nan"), (1.0, 1.0, "gradient norm")]
)
def test_what_no_scale_can_repair_ends_the_run(loss, scale, what):
    scaler = LossScaler(SimpleNamespace(), Progress(loss_scale=scale))
    with pytest.raises(UserError, match=what):
        scaler.accepts(loss, np.inf, 3, 0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_resumed_run_has_the_same_bits(emulated, text_file, tmp_path, dtype):
    flags = [*TINY, "--data", text_file, "--device", "emulated", "--dtype", dtype, "--steps", 4, "--dropout", 0.1]
    flags += ["--eval-interval", 4, "--sample-interval", 0, "--checkpoint-interval", 2, "--log-interval", 1]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(*flags, "--out", whole) == run(*flags, "--out", parts, "--stop-after", 2) == 0
    assert run("--resume", parts) == 0
    assert content(whole) == content(parts)
    state = json.loads((parts / "checkpoints/step-000004/state.json").read_text())
    assert (state["progress"]["scaled_steps"], state["progress"]["loss_scale"] > 1) == (4 * (dtype == "float16"), True)
    header = (parts / "checkpoints/step-000004/model.safetensors").read_bytes()[:2000]
    assert b'"F32"' in header  # weights are saved in float32
    assert b"F16" not in header
    assert run("--resume", parts, "--device", "cpu", "--dtype", "float32", "--steps", 5) == 0  # and fit any dtype


def run(*argv):
    return run_command(train.main, [str(word) for word in argv])


def content(directory):
    """The losses, and the bytes of the weights and the optimizer's state."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    losses = [(row["step"], row.get("train_loss"), row.get("val_loss")) for row in rows]
    last = directory / "checkpoints" / "step-000004"
    return losses, [(last / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer")]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--dtype", "bfloat16"],
            "--dtype bfloat16: needs a GPU, as a CPU would compute in float32 all the same, and round besides: use "
            "--device cuda, --device emulated, or --dtype float32",
        ),
        (
            ["--matmul", "tf32"],
            "--matmul tf32: needs a GPU: use --device cuda, --device emulated, or --matmul float32",
        ),
        (
            ["--dtype", "float16", "--matmul", "tf32"],
            "--matmul tf32: is of float32, and --dtype float16 has none",
        ),
        (
            ["--dtype", "bf16"],
            "--dtype bf16: must be one of float32, bfloat16, float16 (did you mean bfloat16?)",
        ),
    ],
)
def test_what_the_cpu_does_not_have_is_one_sentence(flags, sentence, tmp_path, capsys):
    assert run("--device", "cpu", "--out", tmp_path / "run", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: " + sentence)
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def gpu(version, capability):
    def device(index):
        return SimpleNamespace(compute_capability=capability)

    return SimpleNamespace(
        name="cuda:0", index=0, xp=SimpleNamespace(__version__=version, cuda=SimpleNamespace(Device=device))
    )


def test_gpus_and_libraries_without_bfloat16_are_one_sentence():
    pytest.importorskip("ml_dtypes")
    config = TrainConfig(dtype="bfloat16")
    with pytest.raises(UserError, match=r"needs CuPy 14 or newer, this is 13\.6\.0: upgrade it, or use float16"):
        require_precision(config, gpu("13.6.0", "90"))
    with pytest.raises(UserError, match=r"has compute capability 7\.5, and products of bfloat16 begin with 8\.0"):
        require_precision(config, gpu("14.0.0", "75"))
    require_precision(config, gpu("14.0.0", "80"))
    require_precision(dataclasses.replace(config, dtype="float16"), gpu("13.6.0", "61"))


def test_tf32_rounds_the_factors_of_products(emulated, monkeypatch):
    monkeypatch.setenv("CUPY_TF32", "0")  # restored at the end
    x = emulated.put(np.full((1, 1), 1 + 2**-9 + 2**-12, np.float32))
    exact = float((x @ x)[0, 0])
    with_precision(None, TrainConfig(matmul="tf32"))
    assert float((x @ x)[0, 0]) == (1 + 2**-9) ** 2 != exact
    assert float((x.reshape(1, 1, 1) @ x.reshape(1, 1, 1))[0, 0, 0]) == exact  # CuPy has it for two axes


@pytest.mark.gpu
def test_tf32_reaches_the_products_of_a_gpu():
    """In a process of its own: CuPy reads its setting at the first product, before which a GPU is tried."""
    if not tt.cuda.is_available():
        pytest.skip("no GPU")
    program = (
        "import numpy as np, tinytensor as tt\n"
        "from gpt.training.recipe import TrainConfig\n"
        "from gpt.training.trainer import with_precision\n"
        "device = tt.device('cuda'); with_precision(None, TrainConfig(matmul='tf32'))\n"
        "x = np.random.default_rng(0).standard_normal((256, 256), dtype=np.float32)\n"
        "y = tt.to_numpy(device.put(x) @ device.put(x))\n"
        "print(np.abs(y - x.astype(np.float64) @ x).max() / np.abs(y).max())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 1e-5 < float(done.stdout) < 1e-2
