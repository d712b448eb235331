"""Training by several ranks has the bits of one, divides the optimizer's state, and sends what the formula says."""

import dataclasses
import hashlib

import numpy as np
import pytest

import tinytensor as tt
from gpt.model import GPTConfig
from gpt.training.batches import Batches, EvalWindows
from gpt.training.optimizer import build_optimizer
from gpt.training.recipe import TrainConfig
from gpt.training.trainer import build_model, evaluate, make_parallel, train_step
from tests.parallel.threads import run
from tinytensor.optim import clipping
from tinytensor.parallel import ONE_RANK, sharded

SHAPE = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.2)
RECIPE = TrainConfig(batch_size=4, grad_accum_steps=2, shares=8, grad_clip=0.5, lr=0.01)
TOKENS = (np.arange(500) ** 2 % 11).astype(np.uint16)
CPU = tt.device("cpu")


def digest(arrays) -> str:
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(name.encode() + np.ascontiguousarray(tt.to_numpy(arrays[name])).tobytes())
    return whole.hexdigest()


def trained(ranks, steps=40, shape=SHAPE, device=CPU, start=None, first=0, **recipe):
    """Hash of weights and state, loss and norm of each step, and an evaluation; `start` is what rank 0 has saved."""
    config = dataclasses.replace(RECIPE, **recipe)
    model = build_model("gpt", shape, 1, device)
    parallel = make_parallel(model, device, config, ranks)
    optimizer = build_optimizer(model, config, ranks)
    if start and ranks.rank == 0:
        model.load_state_dict(start[0])
        optimizer.load_state_dict(start[1])
    if ranks.size > 1:
        optimizer.synchronize()
    batches = Batches(TOKENS, shape.block_size, config.seed)
    read = []
    for step in range(first, first + steps):
        read.append([float(x) for x in train_step(parallel, optimizer, batches, step, config, ranks)])
        optimizer.lr = config.lr / (step + 1)
    read.append(evaluate(model, EvalWindows(TOKENS, 8, 2, 5), ranks))
    weights, state = model.state_dict(), optimizer.state_dict()
    weights = {name: tt.to_numpy(array).copy() for name, array in weights.items()}
    state = {name: tt.to_numpy(array).copy() for name, array in state.items()}
    return (digest(weights), read), (weights, state)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_any_number_of_ranks_has_the_same_bits(optimizer, monkeypatch):
    monkeypatch.setattr(sharded, "BUCKET", 500)  # several, which end within parameters
    monkeypatch.setattr(sharded, "NORM_CHUNK", 50)
    monkeypatch.setattr(clipping, "NORM_CHUNK", 50)
    expected, (_, state) = trained(ONE_RANK, optimizer=optimizer)
    for size in (2, 4, 8):
        results = run(size, lambda ranks: trained(ranks, optimizer=optimizer))
        assert [result for result, _ in results] == [expected] * size
        states = [found for _, (_, found) in results]
        assert digest(states[0]) == digest(state)
        assert states[1:] == [{}] * (size - 1)
