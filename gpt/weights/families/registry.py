"""Which family a model directory belongs to, and in which family's format a model is exported.

Our own directories have a section `tinytensor` in `config.json`, which says all about the model, and our names of
parameters, which are GPT-2's. If the model is a GPT-2, Hugging Face's keys are there as well.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpt.errors import UserError
from gpt.files import read_json
from gpt.model import MODELS, GPTConfig
from gpt.tokenizers.load import Tokenizer
from gpt.weights.families import gpt2, llama, neox
from gpt.weights.families.common import CONFIG_FILE, EMBEDDING, HEAD, MAX_SHOWN, PEFT_CONFIG_FILE, Stored

BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".inv_freq")


@dataclass(frozen=True)
class Family:
    """What files of one model_type contain. Of `parse`, ..., `stored`: see the package."""

    model_type: str
    parse: Callable[[Mapping[str, Any]], GPTConfig]
    describe: Callable[[GPTConfig], dict[str, Any]]
    why_not: Callable[[GPTConfig], str | None]
    stored: Callable[[GPTConfig, Mapping[str, np.ndarray]], dict[str, Stored]]
    architecture: str  # transformers' class
    head: str = HEAD  # its names for two parameters
    embedding: str = EMBEDDING

    @property
    def ours(self) -> bool:
        """Whether its names and layouts are ours, too."""
        return self.model_type == "gpt2"

    def normalized_names(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The same values by the family's full names, without buffers that old versions saved: masks, frequencies."""
        found = gpt2.normalized_names(found) if self.ours else found
        return {name: value for name, value in found.items() if not name.endswith(BUFFERS)}


def like_llama(name: str) -> Family:
    """Llama or one of its relatives."""
    functions = llama.parse, partial(llama.describe, model_type=name), partial(llama.why_not, model_type=name)
    return Family(
        name, *functions, llama.stored, llama.KINDS[name].architecture, HEAD, embedding=llama.OUTSIDE[EMBEDDING]
    )


FAMILIES = {
    "gpt2": Family("gpt2", gpt2.parse, gpt2.describe, gpt2.why_not, gpt2.stored, "GPT2LMHeadModel"),
    **{name: like_llama(name) for name in llama.KINDS},
    "gpt_neox": Family(
        "gpt_neox",
        *(neox.parse, neox.describe, neox.why_not, neox.stored, "GPTNeoXForCausalLM"),
        head=neox.OUTSIDE[HEAD],
        embedding=neox.OUTSIDE[EMBEDDING],
    ),
}


def read_config(directory: Path) -> tuple[str, GPTConfig]:
    """Kind ("gpt" or "bigram") and GPTConfig of a model directory, ours or one of a family of Hugging Face's."""
    path = directory / CONFIG_FILE
    try:
        return parse_config(read_json(path))
    except FileNotFoundError:
        if (directory / PEFT_CONFIG_FILE).exists():
            raise UserError(
                f"{directory}: contains adapters alone, for PEFT; give the run that they come from, or export that "
                "without --adapter"
            ) from None
        raise UserError(f"{directory}: contains no model (no {CONFIG_FILE}); give the directory of a run") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: is not the configuration of a model ({error})") from None


def family_of(directory: Path) -> Family:
    """The family whose names and layouts the weights of a model directory have; `read_config` has accepted it."""
    content = read_json(directory / CONFIG_FILE)
    return FAMILIES["gpt2"] if "tinytensor" in content else FAMILIES[content["model_type"]]


def transformers_type(directory: Path) -> str | None:
    """The model_type by which transformers reads a model directory; None for one that only we read."""
    return read_json(directory / CONFIG_FILE).get("model_type")


def parse_config(content: Mapping[str, Any]) -> tuple[str, GPTConfig]:
    """Kind and GPTConfig of a parsed `config.json`. Raises UserError, or ValueError for values of the wrong type."""
    ours, model_type = content.get("tinytensor"), content.get("model_type")
    if ours is None:
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise UserError(
                f"is neither a model of tinytensor nor one of {', '.join(FAMILIES)} (model_type "
                f"{model_type!s:.{MAX_SHOWN}})"
            )
        require_plain(content)
        return "gpt", FAMILIES[model_type].parse(content)
    kind, config = from_section(ours)
    if model_type != "gpt2":
        return kind, config
    if reason := why_not_gpt2(kind, config):
        raise UserError(f"describes a GPT-2, and in its section tinytensor a model that is none ({reason})")
    return kind, dataclasses.replace(gpt2.parse(content), bias=config.bias)


def require_plain(content: Mapping[str, Any]) -> None:
    """Raise UserError for weights that are not stored as floating-point numbers."""
    if content.get("quantization_config") is not None:
        raise UserError("quantization_config is set, here weights can only be floating-point numbers")


def from_section(section: Any) -> tuple[str, GPTConfig]:
    """Kind and GPTConfig of our section of a `config.json`; UserError or ValueError if it has impossible values."""
    if not isinstance(section, dict) or section.get("model") not in list(MODELS):
        raise ValueError(f"its section tinytensor is not a model: one of {', '.join(MODELS)}")
    fields = [field.name for field in dataclasses.fields(GPTConfig)]
    return section["model"], GPTConfig(**{name: section[name] for name in fields if name in section})


def describe(kind: str, config: GPTConfig, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """The content of our `config.json`: our own section, and GPT-2's keys or the reason why it is not a GPT-2."""
    ours = {"tinytensor": {"model": kind, **asdict(config)}}
    if reason := why_not_gpt2(kind, config):
        return {"not_gpt2": reason, **ours}
    return gpt2.describe(config) | special_ids(tokenizer) | ours


def special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The tokens that begin and end a text, and the dtype of what we write."""
    end_of_text = tokenizer.end_of_text if tokenizer else None
    return {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "torch_dtype": "float32"}


def why_not_gpt2(kind: str, config: GPTConfig) -> str | None:
    """The reason why GPT-2 cannot express a model, or None if it can."""
    return gpt2.why_not(config) if kind == "gpt" else f"--model {kind}: is not a transformer"


def export_format(kind: str, config: GPTConfig) -> Family:
    """The first family that can express a model. Raises UserError with the reason why GPT-2, or none, can."""
    if kind == "gpt":
        for family in FAMILIES.values():
            if not family.why_not(config):
                return family
    nearest = FAMILIES["gpt2" if kind != "gpt" or config.like_gpt2 else "llama"]
    reason = why_not_gpt2(kind, config) if nearest.ours else nearest.why_not(config)
    raise UserError(f"cannot be exported as any of {', '.join(FAMILIES)}: {reason}")
