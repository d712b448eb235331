"""The parts of the loop: accumulation equals one big batch, evaluation changes nothing."""

import dataclasses

import numpy as np
import pytest

import tinytensor as tt
from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.training.batches import Batches, EvalWindows
from gpt.training.optimizer import build_optimizer
from gpt.training.recipe import TrainConfig
from gpt.training.trainer import (
    Throughput,
    build_model,
    due,
    evaluate,
    make_parallel,
    require_finite,
    train_step,
)

SHAPE = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8)
TOKENS = (np.arange(500) ** 2 % 11).astype(np.uint16)
CPU = tt.device("cpu")


def trained(steps, batch_size, accum_steps, shape=SHAPE, device=CPU, **recipe):
    config = TrainConfig(batch_size=batch_size, grad_accum_steps=accum_steps, **recipe)
    model = build_model("gpt", shape, 1, device)
    optimizer = build_optimizer(model, config)
    batches = Batches(TOKENS, shape.block_size, config.seed)
    parallel = make_parallel(model, device, config)
    read = [train_step(parallel, optimizer, batches, step, config) for step in range(steps)]
    assert all(p.grad is None for p in model.parameters())  # an evaluation has their memory
    return model, np.array([[float(loss), float(norm)] for loss, norm in read])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("grad_clip", [0.0, 0.1])
def test_accumulated_micro_batches_train_as_one_big_batch(grad_clip, dropout):
    shape = dataclasses.replace(SHAPE, dropout=dropout)
    whole, expected = trained(5, 12, 1, shape, grad_clip=grad_clip)
    split, losses = trained(5, 3, 4, shape, grad_clip=grad_clip)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-5)


def test_dropout_depends_on_seed_and_step_alone():
    shape = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.5)
    _, first = trained(3, 2, 2, shape)
    tt.manual_seed(99)
    _, again = trained(3, 2, 2, shape)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(("optimizer", "positions"), [("adamw", "learned"), ("muon", "rotary")])
def test_every_device_trains_as_the_cpu_does(device, optimizer, positions):
    shape = dataclasses.replace(SHAPE, dropout=0.3, positions=positions)
    model, losses = trained(3, 2, 2, shape, device=device, optimizer=optimizer)
    assert all(tt.array_module(p.data) is device.xp for p in model.parameters())
    np.testing.assert_allclose(losses, trained(3, 2, 2, shape, optimizer=optimizer)[1], rtol=1e-4)
    eval_windows = EvalWindows(TOKENS, 8, 2, 2)
    on_cpu = build_model("gpt", shape, 1, CPU)
    on_cpu.load_state_dict({name: tt.to_numpy(array) for name, array in model.state_dict().items()})
    assert evaluate(model, eval_windows) == pytest.approx(evaluate(on_cpu, eval_windows), rel=1e-5)


def test_weights_are_a_function_of_the_seed():
    one, same, other = (build_model("gpt", SHAPE, seed, CPU).transformer.wte.weight.numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_vectors_have_no_weight_decay():
    model = build_model("gpt", SHAPE, 1, CPU)
    optimizer = build_optimizer(model, TrainConfig(weight_decay=0.3))
    for group in optimizer.param_groups:
        assert group["params"]
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.3) for p in group["params"])


def test_muon_updates_the_hidden_matrices_and_adamw_the_rest():
    model = build_model("gpt", SHAPE, 1, CPU)
    optimizers = build_optimizer(model, TrainConfig(optimizer="muon", lr=0.01, muon_lr=0.3)).optimizers
    names = {id(p): name for name, p in model.named_parameters()}
    hidden = [names[id(p)] for p in optimizers["muon"].parameters()]
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert hidden == [f"transformer.h.0.{layer}.weight" for layer in layers]
    assert {id(p) for o in optimizers.values() for p in o.parameters()} == names.keys()
    assert [optimizers[name].lr for name in ("adamw", "muon")] == [0.01, 0.3]
    assert [group["blocks"] for group in optimizers["muon"].param_groups] == [(1, 6), (2, 1), (1, 1), (1, 1)]


def test_muon_is_refused_for_a_model_without_hidden_matrices():
    model = build_model("bigram", SHAPE, 1, CPU)
    with pytest.raises(UserError, match="--optimizer muon: --model bigram has no hidden matrices; use --optimizer"):
        build_optimizer(model, TrainConfig(model="bigram", optimizer="muon"))


def test_heads_too_large_for_a_gpu_are_refused():
    shape = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=258)
    emulated = tt.device("emulated")
    with pytest.raises(UserError, match=r"--n-embd 258: makes heads of 129 values, and on a GPU .* at most 128: raise"):
        build_model("gpt", shape, 1, emulated)
    assert build_model("gpt", shape, 1, CPU)
    assert build_model("gpt", dataclasses.replace(shape, n_head=3), 1, emulated)
    assert build_model("bigram", shape, 1, emulated)


def test_evaluation_uses_no_dropout_and_restores_training_mode():
    shape = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.5)
    model = build_model("gpt", shape, 1, CPU)
    eval_windows = EvalWindows(TOKENS, 8, 4, 6)
    loss = evaluate(model, eval_windows)
    assert loss == evaluate(model, eval_windows)
    assert loss == pytest.approx(np.log(11), abs=0.1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_that_is_not_finite_stops_the_run():
    assert require_finite("loss", np.float32(1.5), 3, 0.1) == 1.5
    for bad in (float("nan"), float("inf")):
        sentence = f"the loss is {bad} at step 30 with learning rate 0.5: lower --lr .or Muon's --muon-lr"
        with pytest.raises(UserError, match=sentence):
            require_finite("loss", bad, 30, 0.5)


def test_due_at_multiples_and_at_the_last_step():
    assert [step for step in range(1, 26) if due(step, 10, 25)] == [10, 20, 25]


def test_throughput_counts_the_tokens_of_timed_steps(monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 11.0, 20.0, 21.0])
    monkeypatch.setattr("gpt.training.trainer.time.perf_counter", lambda: next(clock))
    throughput = Throughput(30)
    for _ in range(2):
        with throughput:
            pass
    assert throughput.read() == 20  # 60 tokens in 3 seconds
    with throughput:
        pass
    assert throughput.read() == 30
