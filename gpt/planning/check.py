"""Refuses what would not fit into memory, before it is begun, in a sentence with the flag that would help most."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tinytensor as tt
from gpt.corpus.preparation import PrepareOptions
from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.options import flag
from gpt.planning.limits import Limit, device_limit, host_limit, process_limit
from gpt.planning.memory import Prediction, generation_memory, preparation_memory, training_memory
from gpt.training.recipe import TrainConfig
from tinytensor.parallel import available_cores

WARN_PERCENT = 80  # of what there is: a prediction is right within about a tenth
MORE_MEMORY = "end other programs, or use a machine with more memory"

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
    """A flag that memory depends on: its value, the default, and what the value must be a multiple of."""

    name: str
    value: int
    default: int = 1
    multiple: int = 1


def find_limits(device: tt.Device) -> Limits:
    """The limits of this process, its forks, and its arrays on a device."""
    return Limits(host_limit(), process_limit(), device_limit(device))


def check_training(
    model: GPTConfig, train: TrainConfig, given: Mapping[str, Any], resumed: bool = False, quiet: bool = False
) -> None:
    """Raise UserError if a training would not fit into memory; a warning on stderr if it would hardly.

    given: the flags that were given, which are the first that advice is about. quiet: no warnings.
    """
    device = tt.device(train.device)

    def predict(changes: Mapping[str, int]) -> list[Prediction]:
        changed = [
            dataclasses.replace(config, **{name: changes[name] for name in changes if hasattr(config, name)})
            for config in (model, train)
        ]
        return training_memory(train.model, *changed, device.name, resumed)

    _require(predict, _training_settings(model, train, given, resumed), find_limits(device), quiet)


def _training_settings(model: GPTConfig, train: TrainConfig, given: Mapping[str, Any], resumed: bool) -> list[Setting]:
    """The flags that could be changed, best first: those that were given, the farthest from its default before others.

    After them, those come first that change the result least: micro-batches make up for a smaller batch.
    """
    defaults = {field.name: field.default for field in (*dataclasses.fields(model), *dataclasses.fields(train))}
    names = ["processes"]
    if not resumed:
        names = ["batch_size", "processes", "block_size", "grad_accum_steps", "eval_batches"]
        if not train.init_from:
            names += ["n_embd", "n_layer"] if train.model == "gpt" else []
            names += ["vocab_size"] if given.get("vocab_size") else []
    values = dataclasses.asdict(model) | dataclasses.asdict(train)
    values["processes"] = train.processes or available_cores()
    defaults["processes"] = available_cores()
    settings = [
        Setting(name, values[name], max(1, defaults[name]), model.n_head if name == "n_embd" else 1) for name in names
    ]
    return sorted(settings, key=lambda s: s.value // s.default if s.name in given else 0, reverse=True)


def check_generation(
    kind: str, model: GPTConfig, device: tt.Device, samples: int, prompt: int, tokens: int, quiet: bool = False
) -> None:
    """Raise UserError if a generation would not fit: `samples` texts of `prompt` tokens and `tokens` more."""

    def predict(changes: Mapping[str, int]) -> list[Prediction]:
        counts = {"samples": samples, "tokens": tokens} | dict(changes)
        return generation_memory(kind, model, device.name, counts["samples"], prompt, counts["tokens"])

    settings = [Setting("samples", samples), Setting("tokens", tokens, 200)]
    settings.sort(key=lambda s: s.value // s.default, reverse=True)
    _require(predict, settings, find_limits(device), quiet)


def check_preparation(options: PrepareOptions, source_bytes: int | None) -> None:
    """Raise UserError if a preparation from a source of that size, None if unknown, would not fit."""

    def predict(changes: Mapping[str, int]) -> list[Prediction]:
        return [preparation_memory(dataclasses.replace(options, **changes), source_bytes)]

    settings = [Setting("vocab_size", options.vocab_size, 8192)]
    settings.append(Setting("workers", options.workers or available_cores(), available_cores()))
    settings.sort(key=lambda s: s.value // s.default, reverse=True)
    _require(predict, settings, find_limits(tt.device("cpu")), quiet=False)


def _require(predict: Predict, settings: list[Setting], limits: Limits, quiet: bool) -> None:
    """Raise UserError beyond a limit, or print a warning close to it."""
    percent, needed, limit = limits.tightest(predict({}))
    if limit is None or percent < WARN_PERCENT:
        return
    setting, advice = _advice(predict, settings, limits)
    name = f"{flag(setting.name)} {setting.value}: " if setting else ""
    if percent >= 100:
        raise UserError(f"{name}needs about {size(needed)}, {limit.name} has {size(limit.bytes)}; {advice}")
    if not quiet:
        use = f"needs about {size(needed)} of the {size(limit.bytes)} that {limit.name} has"
        print(f"warning: {name}{use}; {advice}", file=sys.stderr)


def _advice(predict: Predict, settings: list[Setting], limits: Limits) -> tuple[Setting | None, str]:
    """The flag to change, if there is one, and what to do."""
    for setting in settings:
        value = _largest_fitting(predict, setting, limits)
        if value is not None:
            more = ", and more --grad-accum-steps make up for it" if setting.name == "batch_size" else ""
            return setting, f"{flag(setting.name)} {value} would fit{more}"
    helpful = [setting for setting in settings if setting.value > setting.multiple]
    if not helpful:
        return None, MORE_MEMORY
    helpful.sort(key=lambda s: limits.tightest(predict({s.name: s.multiple}))[0])
    lower = " and ".join(flag(setting.name) for setting in helpful[:2])
    return helpful[0], f"lower {lower}, or use a machine with more memory"


def _largest_fitting(predict: Predict, setting: Setting, limits: Limits) -> int | None:
    """The largest value of a flag, rounded down, with which there would not even be a warning; None if there is none."""

    def fits(multiples: int) -> bool:
        return limits.tightest(predict({setting.name: multiples * setting.multiple}))[0] < WARN_PERCENT

    low, high = 1, setting.value // setting.multiple
    if high <= low or not fits(low):
        return None
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    value = low * setting.multiple
    rounded = value - value % 10 ** max(0, len(str(value)) - 2)
    return rounded - rounded % setting.multiple or value


def size(count: int) -> str:
    """Bytes as a person reads them."""
    if count < 1 << 30:
        return f"{count >> 20} MiB"
    if count < 100 << 30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count >> 30:,} GiB" if count < 1 << 80 else "more than 2^80 bytes"
