"""Training by several ranks has the bits of one, divides the optimizer's state, and sends what the formula says."""

import dataclasses
import hashlib

import numpy as np
import pytest

import tinytensor as tt
from gpt.distributed.run import start_together
from gpt.model import GPTConfig
from gpt.model.config import parameter_count
from gpt.model.lora import base_state
from gpt.training.batches import Batches, EvalWindows
from gpt.training.checkpoint import Progress
from gpt.training.optimizer import build_optimizer, choose_trained
from gpt.training.recipe import TrainConfig
from gpt.training.trainer import build_model, evaluate, make_parallel, train_step
from tests.parallel.test_communicators import needs_compiler, with_nccl
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
    choose_trained(model, config)
    if config.lora_rank and ranks.rank == 0:  # the frozen weights, which rank 0 alone has read
        for name in base_state(model):
            model.state_dict()[name][...] *= 1.5
    parallel = make_parallel(model, device, config, ranks)
    optimizer = build_optimizer(model, config, ranks)
    if start and ranks.rank == 0:
        model.load_state_dict(start[0])
        optimizer.load_state_dict(start[1])
    start_together(ranks, Progress(), model, optimizer)
    batches = Batches(TOKENS, shape.block_size, config.seed)
    read = []
    for step in range(first, first + steps):
        optimizer.lr = config.lr / (step + 1)
        read.append([float(x) for x in train_step(parallel, optimizer, batches, step, config, ranks)])
    read.append(evaluate(model, EvalWindows(TOKENS, 8, 2, 5), ranks))
    weights, state = model.state_dict(), optimizer.state_dict()
    weights = {name: tt.to_numpy(array).copy() for name, array in weights.items()}
    state = {name: tt.to_numpy(array).copy() for name, array in state.items()}
    return (digest(weights), read), (weights, state)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_any_number_of_ranks_has_the_same_bits(optimizer, monkeypatch):
    monkeypatch.setattr(sharded, "BUCKET", 500)  # several, which end within parameters
    monkeypatch.setattr(sharded, "MESSAGE", 1)
    monkeypatch.setattr(sharded, "NORM_CHUNK", 50)
    monkeypatch.setattr(clipping, "NORM_CHUNK", 50)
    expected, (_, state) = trained(ONE_RANK, optimizer=optimizer)
    for size in (2, 4, 8):
        results = run(size, lambda ranks: trained(ranks, optimizer=optimizer))
        assert [result for result, _ in results] == [expected] * size
        states = [found for _, (_, found) in results]
        assert digest(states[0]) == digest(state)
        assert states[1:] == [{}] * (size - 1)


PARTS = [
    {"lora_rank": 2, "lora_targets": "attn.c_attn,mlp.c_proj", "init_from": "a model"},
    {"freeze": "transformer.wte,transformer.h.0.ln_1"},
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: next(iter(part)))
def test_what_is_frozen_is_the_same_in_all_ranks(part):
    expected, (weights, state) = trained(ONE_RANK, steps=5, **part)
    results = run(2, lambda ranks: trained(ranks, steps=5, **part))
    assert [result for result, _ in results] == [expected] * 2
    assert digest(results[0][1][1]) == digest(state)
    assert len(state["step"]) < len(weights)


@needs_compiler
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ranks_with_a_gpu_each_have_the_same_bits(optimizer):
    device = tt.device("emulated")
    expected, _ = trained(ONE_RANK, 5, device=device, optimizer=optimizer)
    for size in (2, 4):
        results, _ = with_nccl(size, lambda ranks: trained(ranks, 5, device=device, optimizer=optimizer))
        assert [result for result, _ in results] == [expected] * size


@pytest.mark.parametrize("sizes", [(1, 4), (4, 2), (2, 1)])
def test_another_number_of_ranks_continues_to_the_same_bits(sizes):
    def on(size, *args, **options):
        """What the first of so many ranks returns."""
        if size == 1:
            return trained(ONE_RANK, *args, optimizer="muon", **options)
        return run(size, lambda ranks: trained(ranks, *args, optimizer="muon", **options))[0]

    expected, _ = on(1, 9)
    _, saved = on(sizes[0], 4)
    (weights, losses), _ = on(sizes[1], 5, start=saved, first=4)
    assert weights == expected[0]
    assert losses == expected[1][4:]


def test_a_share_without_targets_adds_nothing():
    """As in one process, to the bit, also where a rank has no targets at all."""
    ids, targets = np.random.default_rng(1).integers(0, 11, (2, 8, 8))
    targets[2:4] = -100

    class Fixed:
        def rows(self, step, rows):
            return ids[rows], targets[rows]

    def step(ranks):
        model = build_model("gpt", SHAPE, 1, CPU)
        parallel, optimizer = make_parallel(model, CPU, RECIPE, ranks), build_optimizer(model, RECIPE, ranks)
        result = [float(x) for x in train_step(parallel, optimizer, Fixed(), 0, RECIPE, ranks)]
        return result, digest(model.state_dict())

    assert run(4, step) == [step(ONE_RANK)] * 4
    targets[...] = -100
    with pytest.raises(ValueError, match="no targets in the batch"):
        run(2, step)


def test_a_parameter_without_a_gradient_is_refused():
    def step(ranks):
        model = build_model("gpt", SHAPE, 1, CPU)
        optimizer = build_optimizer(model, RECIPE, ranks)
        loss = model(np.zeros((1, 8), np.int64), np.zeros((1, 8), np.int64))
        loss.backward()
        model.transformer.wte.weight.grad = None
        optimizer.reduce(loss.data, [True, True])

    with pytest.raises(ValueError, match="takes no part in the loss"):
        run(2, step)


SMALL = GPTConfig(vocab_size=65, block_size=16, n_layer=4, n_head=4, n_embd=64)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_rank_has_its_part_of_the_state_and_sends_what_the_formula_says(size, optimizer):
    """State: (2 A + M) / N values, of A parameters by AdamW and M by Muon; bytes of a step: 8 P (N - 1) / N."""
    config = dataclasses.replace(RECIPE, optimizer=optimizer)

    def step(ranks):
        model = build_model("gpt", SMALL, 1, CPU)
        parallel, sharded = make_parallel(model, CPU, config, ranks), build_optimizer(model, config, ranks)
        train_step(parallel, sharded, Batches(TOKENS, 16, 1), 0, config, ranks)
        state = sum(a.size for o in sharded._optimizers.values() for arrays in o.state.values() for a in arrays)
        return state, ranks.bytes_sent

    states, sent = zip(*run(size, step), strict=True)
    by_muon = 12 * SMALL.n_layer * SMALL.n_embd**2 if optimizer == "muon" else 0
    count = parameter_count("gpt", SMALL)
    assert sum(states) == 2 * (count - by_muon) + by_muon
    for state in states:
        assert state == pytest.approx(sum(states) / size, rel=0.05)
    assert np.mean(sent) == pytest.approx(8 * count * (size - 1) / size, rel=0.01)


def test_what_does_not_fit_is_refused():
    def load(ranks):
        optimizer = build_optimizer(build_model("gpt", SHAPE, 1, CPU), RECIPE, ranks)
        optimizer.load_state_dict({"step": np.zeros(3, np.int64)})

    with pytest.raises(ValueError, match=r"optimizer state does not fit: missing, unexpected or misshaped m\.0"):
        run(2, load)
