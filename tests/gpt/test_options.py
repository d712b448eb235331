"""Options refuse what cannot work, in one sentence, and every field can be set by a flag with a help text."""

import dataclasses

import pytest

from gpt.errors import UserError, did_you_mean
from gpt.model import GPTConfig
from gpt.options import build, field_names, flag
from gpt.training.recipe import PRESETS, TrainConfig


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_set_only_known_fields(name):
    build(GPTConfig, PRESETS[name])
    build(TrainConfig, PRESETS[name])
    assert set(PRESETS[name]) <= {*field_names(GPTConfig), *field_names(TrainConfig)}


def test_nanogpt_preset_is_the_published_recipe():
    model, train = (build(cls, PRESETS["nanogpt-cpu"]) for cls in (GPTConfig, TrainConfig))
    assert (model.n_layer, model.n_head, model.n_embd, model.block_size) == (4, 4, 128, 64)
    assert (model.dropout, model.bias, model.activation, model.norm, model.tied) == (0, False, "gelu", "pre", True)
    assert (train.batch_size, train.grad_accum_steps, train.steps, train.warmup_steps) == (12, 1, 2000, 100)
    assert (train.lr, train.min_lr, train.beta1, train.beta2) == (1e-3, 1e-4, 0.9, 0.99)
    assert (train.weight_decay, train.grad_clip) == (0.1, 1.0)
    assert train.eval_batches >= 200


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (GPTConfig, {"block_size": 0}, "--block-size 0: must be at least 1"),
        (GPTConfig, {"n_layer": -1}, "--n-layer -1: must be at least 1"),
        (GPTConfig, {"n_embd": 100, "n_head": 3}, "--n-embd 100: must be a multiple of --n-head 3"),
        (GPTConfig, {"dropout": 1.0}, "--dropout 1.0: must be below 1"),
        (
            GPTConfig,
            {"activation": "gleu"},
            "--activation gleu: must be one of gelu, gelu_erf, relu, swiglu (did you mean gelu?)",
        ),
        (TrainConfig, {"lr": 0.0}, "--lr 0.0: must be above 0"),
        (TrainConfig, {"lr": float("nan")}, "--lr nan: must be above 0"),
        (TrainConfig, {"lr": float("inf")}, "--lr inf: must be below inf"),
        (TrainConfig, {"lr": 1e-3, "min_lr": 1e-2}, "--min-lr 0.01: must be at most --lr 0.001"),
        (TrainConfig, {"batch_size": 0}, "--batch-size 0: must be at least 1"),
        (TrainConfig, {"steps": 0}, "--steps 0: must be at least 1"),
        (TrainConfig, {"beta2": 1.0}, "--beta2 1.0: must be below 1"),
    ],
)
def test_impossible_settings_name_flag_value_and_remedy(cls, settings, message):
    with pytest.raises(UserError) as error:
        cls(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("field", [*dataclasses.fields(GPTConfig), *dataclasses.fields(TrainConfig)])
def test_every_field_says_what_it_is(field):
    assert field.metadata["help"]
    assert flag(field.name) == "--" + field.name.replace("_", "-")


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().n_layer = 3


def test_a_hint_is_given_only_for_a_similar_name():
    assert did_you_mean("--n-layr", ["--n-layer", "--n-head"]) == " (did you mean --n-layer?)"
    assert did_you_mean("xyz", ["--n-layer"]) == ""
