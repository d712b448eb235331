"""Refuses what would not fit into memory, before it is begun, in a sentence with the flag that would help most."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import tinytensor as tt
from gpt.corpus.preparation import PrepareOptions
from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.options import build, flag
from gpt.planning.limits import Limit, device_limit, host_limit, process_limit
from gpt.planning.memory import Prediction, generation_memory, preparation_memory, serving_memory, training_memory
from gpt.planning.precision import require_precision
from gpt.tokenizers.bpe import MIN_VOCAB_SIZE
from gpt.training.recipe import TrainConfig
from tinytensor.parallel import ONE_RANK, Communicator, available_cores

WARN_PERCENT = 80  # of what there is: a prediction is right within about a tenth

T = TypeVar("T")
Predict = Callable[[Mapping[str, int]], list[Prediction]]  # what a change of some settings would need


@dataclass(frozen=True)
class Limits:
    """What the processes of a command may use together, each of them alone, and on the GPU; None where unlimited."""

    host: Limit | None
    process: Limit | None
    device: Limit | None

    def tightest(self, predictions: list[Prediction]) -> tuple[int, int, Limit | None]:
        """Of these limits the one that a prediction comes closest to: percent of it, bytes needed, and the limit."""
        host, on_device = predictions[0], predictions[1:]
        needs = [(host.total, self.host), (host.process, self.process)]
        needs += [(prediction.total, self.device) for prediction in on_device]
        used = [(need * 100 // max(1, limit.bytes), need, limit) for need, limit in needs if limit]
        return max(used, key=lambda use: use[0], default=(0, 0, None))


@dataclass(frozen=True)
class Setting:
    """A flag that memory depends on: its value, the default, the least one, and what all must be a multiple of."""

    name: str
    value: int
    default: int = 1
    least: int = 1
    unit: int = 1


def find_limits(device: tt.Device) -> Limits:
    """The limits of this process, its forks, and its arrays on a device."""
    return Limits(host_limit(), process_limit(), device_limit(device))


def check_training(
    model: GPTConfig,
    train: TrainConfig,
    given: Mapping[str, Any],
    resumed: bool = False,
    quiet: bool = False,
    ranks: Communicator = ONE_RANK,
) -> None:
    """Raise UserError if the device cannot do a training, or not in its memory; a warning on stderr if it hardly can.

    given: the flags that were given, which are the first that advice is about. quiet: no warnings. ranks: those that
    share this machine's memory.
    """
    device = tt.device(train.device)
    require_precision(train, device)

    def predict(changes: Mapping[str, int]) -> list[Prediction]:
        changed = _changed(model, changes), _changed(train, changes)
        return training_memory(train.model, *changed, device.name, resumed, ranks)

    _require(predict, _training_settings(model, train, given, resumed), find_limits(device), quiet)


def _changed(config: T, changes: Mapping[str, int]) -> T:
    """A dataclass instance with those of the changes that it has fields for."""
    return build(cast(type[T], type(config)), {**vars(config), **changes})


def _training_settings(model: GPTConfig, train: TrainConfig, given: Mapping[str, Any], resumed: bool) -> list[Setting]:
    """The flags that could be changed, best first: those that were given, the farthest from its default before others.

    After them, those come first that change the result least: micro-batches make up for a smaller batch.
    """
    names = ["processes"]
    if not resumed:
        names = ["batch_size", "processes", "block_size", "grad_accum_steps", "eval_batches"]
        if not train.init_from:
            names += ["n_embd", "n_layer"] if train.model == "gpt" else []
            names += ["vocab_size"] if given.get("vocab_size") else []
        names += ["lora_rank"] if train.lora_rank else []
    values = {**vars(model), **vars(train), "processes": train.processes or available_cores()}
    defaults = {**vars(GPTConfig()), **vars(TrainConfig()), "processes": available_cores()}
    units = {"n_embd": model.n_head * (2 if model.positions == "rotary" else 1)}
    least = {"batch_size": -(-train.shares // train.grad_accum_steps)}  # a window for each share
    least["grad_accum_steps"] = -(-train.shares // train.batch_size)
    settings = [
        Setting(
            name, values[name], max(1, defaults[name]), max(1, units.get(name, least.get(name, 1))), units.get(name, 1)
        )
        for name in names
    ]
    return _farthest_first(s for s in settings if s.name in given) + [s for s in settings if s.name not in given]


def _farthest_first(settings: Iterable[Setting]) -> list[Setting]:
    """The settings that are many times their defaults before others."""
    return sorted(settings, key=lambda s: s.value // s.default, reverse=True)


def check_generation(kind: str, model: GPTConfig, device: tt.Device, samples: int, prompt: int, tokens: int) -> None:
    """Raise UserError if a generation would not fit: `samples` texts of `prompt` tokens and `tokens` more."""

    def predict(changes: Mapping[str, int]) -> list[Prediction]:
        counts = {"samples": samples, "tokens": tokens} | dict(changes)
        return generation_memory(kind, model, device.name, counts["samples"], prompt, counts["tokens"])

    settings = _farthest_first([Setting("samples", samples), Setting("tokens", tokens, 200)])
    _require(predict, settings, find_limits(device))


def check_serving(model: GPTConfig, device: tt.Device, max_batch: int, context: int) -> None:
    """Raise UserError if a server would not fit: `max_batch` texts of `context` tokens, and one that is read."""

    def predict(changes: Mapping[str, int]) -> list[Prediction]:
        sizes = {"max_batch": max_batch, "context": context} | dict(changes)
        return serving_memory(model, device.name, sizes["max_batch"], sizes["context"])

    settings = _farthest_first([Setting("max_batch", max_batch, 8), Setting("context", context, 4096)])
    _require(predict, settings, find_limits(device))


def check_preparation(options: PrepareOptions, source_bytes: int | None) -> None:
    """Raise UserError if a preparation from a source of that size, None if unknown, would not fit."""

    def predict(changes: Mapping[str, int]) -> list[Prediction]:
        return [preparation_memory(_changed(options, changes), source_bytes)]

    vocabulary = Setting("vocab_size", options.vocab_size, 8192, MIN_VOCAB_SIZE)
    workers = Setting("workers", options.workers or available_cores(), available_cores())
    _require(predict, _farthest_first([vocabulary, workers]), find_limits(tt.device("cpu")))


def _require(predict: Predict, settings: list[Setting], limits: Limits, quiet: bool = False) -> None:
    """Raise UserError beyond a limit, or print a warning close to it."""
    percent, needed, limit = limits.tightest(predict({}))
    if limit is None or percent < WARN_PERCENT:
        return
    setting, advice = _advice(predict, settings, limits)
    name = f"{flag(setting.name)} {setting.value}: " if setting else "this "
    needs, has = format_bytes(needed), format_bytes(limit.bytes)
    if percent >= 100:
        raise UserError(f"{name}needs about {needs}, {limit.name} has {has}; {advice}")
    if not quiet:
        print(f"warning: {name}needs about {needs} of the {has} that {limit.name} has; {advice}", file=sys.stderr)


def _advice(predict: Predict, settings: list[Setting], limits: Limits) -> tuple[Setting | None, str]:
    """The flag to change, if there is one, and what to do."""
    for setting in settings:
        value = _largest_fitting(predict, setting, limits)
        if value is not None:
            more = ", and more --grad-accum-steps make up for it" if setting.name == "batch_size" else ""
            return setting, f"{flag(setting.name)} {value} would fit{more}"
    now, _, limit = limits.tightest(predict({}))
    alone = limit is limits.process  # other programs and other machines make no difference to it
    more = "raise that limit" if alone else "use a machine with more memory"
    least = [(limits.tightest(predict({s.name: s.least}))[0], s) for s in settings if s.value > s.least]
    helpful = [s for percent, s in sorted(least, key=lambda pair: pair[0]) if percent * 10 < now * 9][:2]
    if not helpful:
        return None, more if alone else f"end other programs, or {more}"
    return helpful[0], f"lower {' and '.join(flag(s.name) for s in helpful)}, or {more}"


def _largest_fitting(predict: Predict, setting: Setting, limits: Limits) -> int | None:
    """The largest smaller value of a flag, rounded down, that would not even give a warning; None if there is none."""
    unit = setting.unit

    def fits(units: int) -> bool:
        return limits.tightest(predict({setting.name: units * unit}))[0] < WARN_PERCENT

    low, high = setting.least // unit, setting.value // unit
    if high <= low or not fits(low):
        return None
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    value = low * unit
    rounded = value - value % 10 ** max(0, len(str(value)) - 2)
    return max(setting.least, rounded - rounded % unit)


def format_bytes(count: int) -> str:
    """Bytes as a person reads them."""
    if count < 1 << 30:
        return f"{count >> 20} MiB"
    if count < 100 << 30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count >> 30:,} GiB" if count < 1 << 80 else "2^80 bytes or more"
