"""Adapters in the layout of PEFT, Hugging Face's library for them: `adapter_config.json`, `adapter_model.safetensors`.

PEFT calls the A of a layer `base_model.model.NAME.lora_A.weight`, its B `...lora_B.weight`, in PyTorch's layouts
(r, in) and (out, r), and NAME is that of transformers. Where that has several layers for one of ours (q_proj, k_proj
and v_proj for c_attn), each gets the same A and its rows of B, which adds the same to its weight.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from gpt.errors import UserError
from gpt.files import replace_file, replace_json
from gpt.model.lora import adapter_pairs
from gpt.options import HUB, split_revision
from gpt.weights.adapters import LoRA, base_of, read_adapters, read_lora
from gpt.weights.directory import BEST
from gpt.weights.families.common import PEFT_CONFIG_FILE
from gpt.weights.families.registry import FAMILIES, Family, export_format, read_config, transformers_type
from gpt.weights.safetensors import write

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."


def write_peft(directory: Path, source: Path, base: str) -> str | None:
    """Fill `directory` with the adapters of the model directory `source`; base: the model that they are for.

    Returns that as transformers finds it; None if it has to be exported first. UserError if the directory has no
    adapters, or no family can express the model.
    """
    lora = read_lora(source)
    if lora is None:
        raise UserError(f"{source}: has no adapters but a whole model; leave out --adapter")
    kind, config = read_config(source)
    base_type = transformers_type(base_of(source))
    family = FAMILIES[base_type] if base_type else export_format(kind, config)
    arrays = {}
    for name, a, b in adapter_pairs(read_adapters(source, config, lora)):
        for weight, place in family.stored(config, {name: b}).items():
            if not weight.endswith(".weight"):
                continue  # a bias, which a family always has
            layer = PREFIX + weight.removesuffix(".weight")
            rows = np.asarray(place.view, order="C").reshape(place.shape)
            arrays[f"{layer}.lora_A.weight"] = np.ascontiguousarray(a.T)
            arrays[f"{layer}.lora_B.weight"] = np.ascontiguousarray(rows.T) if family.ours else rows
    base_name = base
    if not base.startswith(HUB):
        base_name = os.path.abspath(os.path.join(base, BEST) if Path(base, BEST).exists() else base)
    found = base_name if base_type or base.startswith(HUB) else None
    replace_json(directory / PEFT_CONFIG_FILE, describe_peft(family, lora, list(arrays), found))
    replace_file(directory / WEIGHTS_FILE, lambda path: write(path, arrays, {"format": "pt"}))
    return found


def describe_peft(family: Family, lora: LoRA, names: list[str], base_name: str | None) -> dict[str, Any]:
    """The content of `adapter_config.json` for adapters with these names of PEFT's."""
    revision = None
    if base_name and base_name.startswith(HUB):
        base_name, revision = split_revision(base_name.removeprefix(HUB))
    # layers by their names within a block: "attn.c_proj" rather than "c_proj", which is also a layer of the MLP
    layers = {".".join(name.removesuffix(".lora_A.weight").split(".")[-2:]) for name in names if "lora_A" in name}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "revision": revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": sorted(layers),
        "fan_in_fan_out": family.ours,  # GPT-2's layers hold (in, out)
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": None,
        "inference_mode": True,
    }
