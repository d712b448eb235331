"""The formulas of the peak memory, compared with models, optimizers and allocations as they are."""

import dataclasses
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import tinytensor as tt
from gpt.corpus.preparation import PrepareOptions
from gpt.model import GPTConfig
from gpt.model.cache import Cache
from gpt.model.config import parameter_count
from gpt.planning import memory
from gpt.planning.memory import (
    FLOAT,
    generation_memory,
    optimizer_values,
    preparation_memory,
    training_memory,
)
from gpt.planning.trained import trained_part
from gpt.training.batches import Batches
from gpt.training.optimizer import build_optimizer, choose_trained
from gpt.training.recipe import TrainConfig
from gpt.training.trainer import build_model, make_parallel, train_step, with_precision
from kernels.cpu.threads import set_num_threads
from kernels.emulator import available as has_compiler
from kernels.emulator.cuda_like import track_peak
from tinytensor.parallel import ONE_RANK
from tinytensor.parallel.ranks import OneRank

ROOT = Path(__file__).resolve().parents[3]
MODEL = GPTConfig(vocab_size=300, block_size=32, n_layer=3, n_head=4, n_embd=64)
VARIANTS = [
    {},
    {"bias": False},
    {"tied": False},
    {"norm": "post"},
    {"dropout": 0.1},
    {"activation": "relu"},
    {"positions": "rotary"},
    {"activation": "gelu_erf", "n_inner": 100},
    {"activation": "swiglu", "norm_layer": "rms", "positions": "rotary", "bias": False, "n_kv_head": 2},
    {"n_kv_head": 1, "head_dim": 24, "qkv_bias": True, "bias": False, "qk_norm": "head"},
    {"qk_norm": "full", "norm": "output", "norm_layer": "rms"},
    {"parallel": True, "rotary_fraction": 0.25, "positions": "rotary", "n_inner": 300, "activation": "relu"},
]
CPU = tt.device("cpu")


@pytest.fixture(autouse=True)
def _steady(monkeypatch):
    """What this process holds does not change between two predictions."""
    monkeypatch.setattr(memory, "resident", lambda: 100 << 20)


def variants(changes):
    return dataclasses.replace(MODEL, **changes)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", ["gpt", "bigram"])
def test_parameters_and_state_are_counted_exactly(kind, changes):
    model = build_model(kind, variants(changes), 1, CPU)
    assert parameter_count(kind, variants(changes)) == model.num_parameters()
    for optimizer in ["adamw"] if kind == "bigram" else ["adamw", "muon"]:
        state = build_optimizer(model, TrainConfig(optimizer=optimizer)).state_dict()
        values = sum(array.size for name, array in state.items() if not name.endswith("step"))
        trains = trained_part(kind, variants(changes), TrainConfig(optimizer=optimizer))
        assert optimizer_values(trains, optimizer) == values


def trained(kind, config, train, device):
    """A function that trains for a step, with everything that it needs allocated before."""
    model = build_model(kind, config, 1, device)
    choose_trained(model, train)
    optimizer, parallel = build_optimizer(model, train), make_parallel(with_precision(model, train), device, train)
    batches = Batches(np.arange(5000, dtype=np.uint16) % 300, config.block_size, 1)
    return lambda: train_step(parallel, optimizer, batches, 0, train)


def allocated(kind, config, train):
    """The most that a step on the CPU has allocated at once."""
    set_num_threads(1)
    step = trained(kind, config, train, CPU)
    step()
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", ["gpt", "bigram"])
def test_gradients_and_activations_are_those_that_a_step_on_the_cpu_allocates(kind, changes):
    train = TrainConfig(batch_size=40, processes=1)  # of 1280 tokens, in two parts
    (predicted,) = training_memory(kind, variants(changes), train, "cpu", resumed=False)
    expected = next(item for item in predicted.items if item.name.startswith("gradients")).bytes
    assert allocated(kind, variants(changes), train) == pytest.approx(expected, rel=0.1)


LORA = {"lora_rank": 4, "init_from": "a model"}
PARTS = [
    LORA | {"lora_targets": "attn.c_attn,attn.c_proj,mlp.c_fc,mlp.c_proj"},
    LORA | {"lora_targets": "attn.c_attn"},
    {"freeze": "transformer.wte,transformer.h.0,transformer.h.1"},
    {"freeze": "transformer.wte"},
    {"freeze": "transformer.h.*.mlp,lm_head"},
    {"freeze": "transformer.h"},
]


@pytest.mark.parametrize("changes", [{"tied": False, "positions": "rotary"}, VARIANTS[8]], ids=str)
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_what_is_frozen_is_neither_saved_for_nor_has_gradients(changes, part):
    if "lm_head" in part.get("freeze", "") and changes.get("tied", True):
        part = {"freeze": "transformer.h.*.mlp"}
    train = TrainConfig(batch_size=20, grad_accum_steps=2, processes=1, **part)
    (predicted,) = training_memory("gpt", variants(changes), train, "cpu", resumed=False)
    expected = next(item for item in predicted.items if item.name.startswith("gradients")).bytes
    assert allocated("gpt", variants(changes), train) == pytest.approx(expected, rel=0.1)
    model = build_model("gpt", variants(changes), 1, CPU)
    choose_trained(model, train)
    state = build_optimizer(model, train).state_dict()
    values = sum(array.size for name, array in state.items() if not name.endswith("step"))
    assert optimizer_values(trained_part("gpt", variants(changes), train), "adamw") == values
    assert parameter_count("gpt", variants(changes)) + trained_part("gpt", variants(changes), train).adapters == (
        model.num_parameters()
    )


def test_muons_update_allocates_what_is_predicted():
    config = variants({"n_embd": 512, "n_layer": 1})
    train = TrainConfig(batch_size=1, processes=1, optimizer="muon")
    (predicted,) = training_memory("gpt", config, train, "cpu", resumed=False)
    expected = next(item for item in predicted.items if item.name.startswith("gradients, update")).bytes
    assert allocated("gpt", config, train) == pytest.approx(expected, rel=0.1)


@pytest.mark.skipif(not has_compiler(), reason="the emulated device needs a compiler")
@pytest.mark.parametrize("changes", [{}, {"bias": False, "tied": False}, {"norm": "post", "dropout": 0.1}], ids=str)
@pytest.mark.parametrize(
    ("accum", "batch", "optimizer"), [(1, 4, "adamw"), (2, 4, "adamw"), (1, 4, "muon"), (1, 1, "muon")]
)
def test_the_arrays_on_a_gpu_are_those_that_the_emulated_one_counts(changes, batch, accum, optimizer):
    device = tt.device("emulated")
    train = TrainConfig(batch_size=batch, grad_accum_steps=accum, optimizer=optimizer)
    *_, on_gpu = training_memory("gpt", variants(changes), train, "cuda:0", resumed=False)
    arrays = sum(item.bytes for item in on_gpu.items[1:])
    with track_peak() as peak:
        before = peak()
        trained("gpt", variants(changes), train, device)()
        assert peak() - before == pytest.approx(arrays, rel=0.1)


@pytest.mark.skipif(not has_compiler(), reason="the emulated device needs a compiler")
@pytest.mark.parametrize("part", PARTS[:4], ids=str)
def test_what_is_frozen_takes_no_memory_of_a_gpu(part):
    device, train = tt.device("emulated"), TrainConfig(batch_size=4, **part)
    *_, on_gpu = training_memory("gpt", MODEL, train, "cuda:0", resumed=False)
    arrays = sum(item.bytes for item in on_gpu.items[1:])
    with track_peak() as peak:
        before = peak()
        trained("gpt", MODEL, train, device)()
        assert peak() - before == pytest.approx(arrays, rel=0.1)


@pytest.mark.skipif(not has_compiler(), reason="the emulated device needs a compiler")
@pytest.mark.parametrize("changes", [{}, {"vocab_size": 2000, "n_layer": 1}, VARIANTS[8]], ids=str)
@pytest.mark.parametrize(("accum", "batch"), [(1, 4), (2, 8)])
def test_arrays_of_16_bits_are_those_that_the_emulated_device_counts(changes, accum, batch):
    device = tt.device("emulated")
    train = TrainConfig(batch_size=batch, grad_accum_steps=accum, dtype="float16")
    *_, on_gpu = training_memory("gpt", variants(changes), train, "cuda:0", resumed=False)
    arrays = sum(item.bytes for item in on_gpu.items[1:])
    with track_peak() as peak:
        before = peak()
        trained("gpt", variants(changes), train, device)()
        assert peak() - before == pytest.approx(arrays, rel=0.1)
    full = training_memory("gpt", variants(changes), dataclasses.replace(train, dtype="float32"), "cuda:0", False)[-1]
    assert arrays < sum(item.bytes for item in full.items[1:])


def total(kind="gpt", device="cpu", resumed=False, **changes):
    """The bytes of all places together."""
    model = {name: value for name, value in changes.items() if hasattr(MODEL, name)}
    train = {name: value for name, value in changes.items() if name not in model}
    config = TrainConfig(**{"batch_size": 8, "processes": 1, **train})
    return sum(p.total for p in training_memory(kind, variants(model), config, device, resumed))


@pytest.mark.parametrize("name", ["n_layer", "n_embd", "block_size", "vocab_size", "batch_size", "grad_accum_steps"])
@pytest.mark.parametrize("device", ["cpu", "cuda:0", "emulated"])
def test_more_of_anything_needs_more(device, name):
    base = {**dataclasses.asdict(MODEL), "batch_size": 8, "grad_accum_steps": 1}[name]
    needs = [total(device=device, **{name: base * factor}) for factor in (1, 1000, 10**6, 10**15)]
    assert needs == sorted(needs)
    assert needs[-1] > 10**15


def test_each_further_process_has_gradients_and_activations():
    one, two, three = (total(processes=count, n_embd=512) for count in (1, 2, 3))
    size = FLOAT * parameter_count("gpt", variants({"n_embd": 512}))
    assert two - one > 2 * size
    assert three - two == pytest.approx(two - one, rel=0.2)
    assert total(processes=1000) == total(processes=8)  # there are eight windows to divide


def test_resuming_holds_a_checkpoint_besides():
    assert total(resumed=True, n_embd=1024) > total(n_embd=1024)


def test_a_cache_has_keys_and_values_for_all_positions_of_each_text():
    cache = Cache(build_model("gpt", MODEL, 1, CPU), 3)
    (predicted,) = generation_memory("gpt", MODEL, "cpu", 3, 1, 10)
    expected = next(item.bytes for item in predicted.items if item.name == "keys and values")
    assert sum(array.nbytes for layer in cache.layers for array in layer) == expected


def test_a_preparation_has_no_more_workers_than_work():
    few, many = PrepareOptions(out="x", workers=2), PrepareOptions(out="x", workers=50)
    assert preparation_memory(many, 1000).total == preparation_memory(few, 1000).total
    assert preparation_memory(many, 1 << 40).total > 5 * preparation_memory(few, 1 << 40).total / 2


MEASURED = """
import sys, train
from gpt.cli import run_command
code = run_command(train.main, sys.argv[1:])
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024 if not code else code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_a_small_run_is_as_planned(text_file, tmp_path):
    flags = ["--n-layer", 2, "--n-embd", 512, "--block-size", 64, "--batch-size", 16, "--steps", 2, "--eval-batches", 1]
    flags += ["--device", "cpu", "--processes", 1, "--data", text_file, "--out", tmp_path / "run"]
    command = [sys.executable, "-c", MEASURED, *map(str, flags)]
    # without compiled loops, which would be compiled first on a new machine
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    outputs = [
        subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=True).stdout
        for more in ([], ["--plan"])
    ]
    measured = int(outputs[0].split()[-1])
    planned = int(next(line for line in outputs[1].splitlines() if line.startswith("peak")).split()[1])
    assert planned == pytest.approx(measured, rel=0.15)


def test_ranks_divide_the_state_and_share_the_machine():
    class TwoRanks(OneRank):
        size = local_size = 2

    train = TrainConfig(batch_size=8, shares=4, processes=1, optimizer="muon")
    (alone,), (both,) = (training_memory("gpt", MODEL, train, "cpu", False, r) for r in (ONE_RANK, TwoRanks()))
    state = FLOAT * optimizer_values(trained_part("gpt", MODEL, train), "muon")
    assert [item.bytes for item in alone.items if item.name == "optimizer state"] == [state]
    assert [item.bytes for item in both.items if "part of the optimizer state" in item.name] == [state // 2]
    another = both.items[-1]
    assert (another.bytes, another.processes) == (both.process, 1)
    assert both.total == 2 * both.process
