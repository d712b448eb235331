"""The whole engine on each device: same results as on the CPU, no hidden waits, memory linear in the block size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinytensor as tt
from gpt.model import GPTConfig
from gpt.training.batches import Batches
from gpt.training.optimizer import build_optimizer
from gpt.training.recipe import TrainConfig
from gpt.training.trainer import build_model, make_parallel, train_step
from kernels.emulator import available
from kernels.emulator.arrays import no_synchronization
from kernels.emulator.checks import checked
from kernels.emulator.cuda_like import track_peak
from tests.engine.cases import CASES

SHAPE = GPTConfig(vocab_size=17, block_size=16, n_layer=2, n_head=2, n_embd=16)
TOKENS = (np.arange(4000) ** 2 % 17).astype(np.uint16)
needs_compiler = pytest.mark.skipif(not available(), reason="the emulator needs a C++ compiler")


# ---- operations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=settings.default.max_examples // 3, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_operation_gives_the_cpus_result_and_gradients(device, case, data):
    call = data.draw(case.calls)
    expected = _forward_and_gradients(case.fn, call, tt.device("cpu"), np.float64)
    results = _forward_and_gradients(case.fn, call, device, np.float32)
    for result, reference in zip(results, expected, strict=True):
        # float32 rounds to 6e-8; the operations here chain a few dozen roundings of the largest value at most
        bound = 1e-5 * (1 + np.abs(reference).max(initial=0))
        np.testing.assert_allclose(result, reference, rtol=0, atol=bound)


def _forward_and_gradients(fn, call, device, dtype):
    """y and each dL/dx as NumPy arrays, of a call with its floats in `dtype` on `device`."""
    arrays = [np.ascontiguousarray(a, dtype if a.dtype == np.float64 else a.dtype) for a in call.arrays]
    tensors = [
        tt.tensor(a.reshape(o.shape), None, a.dtype == dtype, device) for a, o in zip(arrays, call.arrays, strict=True)
    ]
    y = fn(*tensors, **call.options)
    g = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(device.put(g))
    return [y.numpy(), *(x.grad if x.grad is None else tt.to_numpy(x.grad) for x in tensors if x.requires_grad)]


def test_comparisons_and_selections_stay_on_the_device(device):
    x = tt.tensor([[3.0, -1.0], [0.5, 2.0]], device=device)
    for y in (x > 0, x == x, x.argmax(axis=1), x.argsort(), (x > 0).all(), x[0], x[:, 1], -x, abs(x)):
        assert tt.array_module(y.data) is device.xp
    assert x[x > 0].tolist() == [3.0, 0.5, 2.0]
    assert x.argmax(axis=1).tolist() == [0, 1]
    x[0] = 7.0
    assert x.tolist() == [[7.0, 7.0], [0.5, 2.0]]
    assert repr(x).startswith("tensor([[7. , 7. ]")


def test_creation_is_the_same_on_every_device(device):
    with tt.seeded(3):
        expected = tt.randn(3, 4).numpy()
    with tt.seeded(3):
        x = tt.randn(3, 4, device=device)
    assert x.device == device.name
    np.testing.assert_array_equal(x.numpy(), expected)
    assert tt.zeros_like(x).device == device.name
    assert x.to("cpu").device == "cpu"


def test_a_tensor_from_elsewhere_does_not_mix_in():
    pytest.importorskip("kernels.emulator.cupy_like")
    x, elsewhere = tt.ones(3, 3), tt.ones(3, 3, device="emulated")
    words = "inputs are on different devices, emulated and cpu: move one with x.to"
    for operation in (lambda: elsewhere + x, lambda: tt.layer_norm(elsewhere, x[0]), lambda: tt.concat([elsewhere, x])):
        with pytest.raises(ValueError, match=words):
            operation()
    second = tt.ones(3, 3, device="emulated:1")
    with pytest.raises(tt.DeviceError, match="'emulated:1' while 'emulated' is this thread's current device"):
        elsewhere + second
    layer = tt.nn.Linear(3, 3)
    optimizer = tt.optim.AdamW(layer.parameters())
    layer.to("emulated")(elsewhere).sum().backward()
    with pytest.raises(ValueError, match="moved after its optimizer was made"):
        optimizer.step()


# ---- optimizers and state -------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda params: tt.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda params: tt.optim.AdamW(params, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_take_the_cpus_steps(device, optimizer):
    ours, reference = (_regression(optimizer, where) for where in (device, tt.device("cpu")))
    np.testing.assert_allclose(ours, reference, rtol=2e-5, atol=2e-6)


def _regression(name, device):
    """The weights (3, 2) after each of ten clipped steps of a linear regression."""
    rng = np.random.default_rng(5)
    x, y = (tt.tensor(rng.standard_normal((8, n)).astype(np.float32), device=device) for n in (3, 2))
    w = tt.nn.Parameter(tt.zeros(3, 2, device=device))
    optimizer, weights = OPTIMIZERS[name]([w]), []
    for _ in range(10):
        optimizer.zero_grad()
        ((x @ w - y) ** 2).mean().backward()
        optimizer.step(tt.clip_scale(tt.grad_norm([w]), 0.5))
        weights.append(w.numpy().copy())
    return weights


def test_state_moves_between_devices_and_training_goes_on(device):
    cpu = tt.device("cpu")
    model, optimizer = _start(cpu)
    _train(model, optimizer, range(3), cpu)
    moved, moved_optimizer = _start(device, seed=2)
    moved.load_state_dict(model.state_dict())
    moved_optimizer.load_state_dict(optimizer.state_dict())
    for name, array in moved.state_dict().items():
        assert tt.array_module(array) is device.xp
        np.testing.assert_array_equal(tt.to_numpy(array), model.state_dict()[name])
    expected = _train(model, optimizer, range(3, 6), cpu)
    np.testing.assert_allclose(_train(moved, moved_optimizer, range(3, 6), device), expected, rtol=1e-5)
    model.load_state_dict(moved.state_dict())  # and back
    assert all(isinstance(array, np.ndarray) for array in model.state_dict().values())


# ---- training -------------------------------------------------------------------------------------------------------


def _start(device, shape=SHAPE, seed=1):
    model = build_model("gpt", shape, seed, device)
    return model, build_optimizer(model, TrainConfig())


def _train(model, optimizer, steps, device, batch_size=4):
    """The loss of each step."""
    batches = Batches(TOKENS, model.config.block_size, 1)
    config = TrainConfig(batch_size=batch_size)
    parallel = make_parallel(model, device, config)
    return [float(train_step(parallel, optimizer, batches, step, config)[0]) for step in steps]


def test_twenty_steps_of_training_follow_the_cpu(device):
    expected = _train(*_start(tt.device("cpu")), range(20), tt.device("cpu"))
    losses = _train(*_start(device), range(20), device)
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


DROPOUT = GPTConfig(vocab_size=17, block_size=16, n_layer=1, n_head=2, n_embd=16, dropout=0.3)


def test_training_with_dropout_repeats_to_the_bit(device):
    first, again = (_train(*_start(device, DROPOUT), range(6), device) for _ in range(2))
    assert first == again


def test_dropout_draws_the_same_masks_on_every_device(device):
    expected, result = (_dropped(where) for where in (tt.device("cpu"), device))
    for one, other in zip(result, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # another mask would change the loss in its third digit


def _dropped(device):
    """The loss of a model with dropout, and all its gradients."""
    model, _ = _start(device, DROPOUT)
    ids, targets = (device.put(array) for array in Batches(TOKENS, DROPOUT.block_size, 1).rows(0, slice(0, 4)))
    with tt.seeded("dropout", 7):
        loss = model(ids, targets)
    loss.backward()
    return [loss.numpy(), *(tt.to_numpy(p.grad) for p in model.parameters())]


@needs_compiler
def test_a_training_step_never_waits_for_the_device():
    device = tt.device("emulated")
    model, optimizer = _start(device)
    batches, config = Batches(TOKENS, SHAPE.block_size, 1), TrainConfig(batch_size=4, grad_accum_steps=2, shares=2)
    with no_synchronization():
        loss, norm = train_step(make_parallel(model, device, config), optimizer, batches, 0, config)
    assert float(loss) > 0
    assert float(norm) > 0


@needs_compiler
def test_a_training_step_is_sound_in_the_checked_build():
    shape = GPTConfig(vocab_size=17, block_size=5, n_layer=1, n_head=2, n_embd=6, dropout=0.3)
    device = tt.device("emulated")
    model, optimizer = _start(device, shape)
    with checked(seed=4) as launches:  # raises for a read of unwritten memory, an address out of bounds, a race
        losses = _train(model, optimizer, range(2), device, batch_size=2)
    assert losses == _train(*_start(device, shape), range(2), device, batch_size=2)
    assert {"attention_backward_keys", "adamw_update_scaled_on_device"} <= {launch.kernel for launch in launches}


@needs_compiler
def test_peak_memory_of_a_step_is_linear_in_the_block_size():
    peaks = [_peak_bytes(block_size) for block_size in (128, 256, 512)]
    slopes = np.diff(peaks) / [128, 256]  # bytes per token
    assert slopes[1] == pytest.approx(slopes[0], rel=0.02)
    assert peaks[2] < 12e6  # a matrix of 512 x 512 floats per head and layer alone would be 4 MB


def _peak_bytes(block_size):
    device = tt.device("emulated")
    shape = GPTConfig(vocab_size=17, block_size=block_size, n_layer=2, n_head=2, n_embd=16)
    with track_peak() as peak:
        _train(*_start(device, shape), range(1), device, batch_size=1)
    return peak()


# ---- devices --------------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_says_what_is_missing():
    with pytest.raises(tt.DeviceError, match=r"^device 'tpu': must be auto, cpu, cuda, cuda:N or emulated$"):
        tt.device("tpu")
    with pytest.raises(tt.DeviceError, match=r"^device 'cuda(:99)?': [^\n]+$"):
        tt.device("cuda:99")


def test_the_emulated_device_needs_a_compiler(monkeypatch):
    monkeypatch.setattr("kernels.emulator.available", lambda: False)
    with pytest.raises(tt.DeviceError, match=r"^device 'emulated': the emulator needs a C\+\+ compiler: install g\+\+"):
        tt.device("emulated")


def test_a_device_reports_its_memory(device):
    x = tt.ones(3, device=device)
    device.synchronize()
    assert tt.device(device) is device
    assert x.numpy().sum() == 3
    if device.name == "cpu":
        assert device.memory() is None
    else:
        used, total = device.memory()
        assert 12 <= used < total


@needs_compiler
@pytest.mark.parametrize("operation", [lambda x: x + 1, lambda x: x @ x, lambda x: tt.softmax(x), lambda x: x.sum()])
def test_an_operation_on_a_gpu_that_is_not_current_is_refused(operation):
    first, second = tt.device("emulated"), tt.device("emulated:1")
    x = tt.ones(3, 3, device=second)
    with pytest.raises(
        tt.DeviceError, match=r"is on 'emulated:1' while 'emulated' .*call tt.device\('emulated:1'\).use"
    ):
        operation(x)
    second.use()
    try:
        assert operation(x).device == "emulated:1"
    finally:
        first.use()
