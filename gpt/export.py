"""A run's best model for others: `python -m gpt.export RUN OUT` makes a directory for Hugging Face's `transformers`.

A run's `best` already is such a directory if GPT-2 can express the model. Other models are written with the names and
in the layouts of the first family that can, or the error says why none can.
`AutoModelForCausalLM.from_pretrained(OUT)` reads the result.
If OUT ends in .gguf, it is one file for llama.cpp, and the model must be a GPT-2.
The adapters of a LoRA are merged into the weights, or with `--adapter` written alone, for Hugging Face's PEFT.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt.cli import accept_any_text, make_parser, parse, run_command
from gpt.directories import new_directory, require_free
from gpt.errors import UserError
from gpt.files import read_json, replace_file, writing
from gpt.model import MODELS
from gpt.options import build, check_options, option
from gpt.training.manifest import find_verified
from gpt.training.run import RUN_FILE
from gpt.weights.adapters import read_lora
from gpt.weights.directory import write_export
from gpt.weights.families.registry import export_format, why_not_gpt2
from gpt.weights.gguf import OUT_TYPES, why_not_gguf, write_gguf
from gpt.weights.load import fill_model, model_config, tokenizer_of, weights
from gpt.weights.peft import write_peft

GGUF = ".gguf"


@dataclass(frozen=True)
class GgufOptions:
    """How to write a file for llama.cpp."""

    outtype: str = option("f16", "how its matrices are stored", choices=OUT_TYPES)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class AdapterOptions:
    """What to write of a run with LoRA."""

    adapter: bool = option(False, "write the adapters alone, in the layout of Hugging Face's PEFT")

    def __post_init__(self) -> None:
        check_options(self)


def export(source: Path, out: Path) -> str:
    """Write the model in `source` to the new or empty directory `out`; returns transformers' class that reads it.

    Raises UserError if no family can express the model, or anything is missing.
    """
    kind, config = model_config(source)
    try:
        family = export_format(kind, config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    require_free(out, str(out))
    tokenizer = tokenizer_of(source, config)
    model = MODELS[kind](config)
    fill_model(model, source)
    with new_directory([out], out.name) as new, writing(out):
        write_export(new.path, family, model, tokenizer)
    return family.architecture


def export_adapter(source: Path, out: Path) -> str | None:
    """Write the adapters in the model directory `source` to the new or empty directory `out`. Raises UserError.

    Returns the model that they are for as transformers finds it; None for one that has to be exported first.
    """
    run = source.absolute().parent / RUN_FILE
    try:
        base = str(read_json(run)["train"]["init_from"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run}: does not say which model the adapters are for ({error})") from None
    require_free(out, str(out))
    with new_directory([out], out.name) as new, writing(out):
        return write_peft(new.path, source, base)


def export_gguf(source: Path, out: Path, outtype: str) -> None:
    """Write the model directory `source` to the new file `out`. UserError if llama.cpp's GPT-2 cannot express it."""
    kind, config = model_config(source)
    if read_lora(source):
        raise UserError(f"{source}: has adapters: export to a directory first, which merges them, and that to {out}")
    if reason := why_not_gpt2(kind, config):
        raise UserError(f"{source}: cannot be exported as a GPT-2: {reason}")
    if reason := why_not_gguf(config):
        raise UserError(f"{source}: cannot be exported for llama.cpp: {reason}")
    if out.exists():
        raise UserError(f"{out}: exists; choose another name")
    tokenizer, found = tokenizer_of(source, config), weights(source)
    replace_file(out, lambda path: write_gguf(path, config, tokenizer, found, outtype, out.stem))


def main(argv: Sequence[str] | None = None) -> int:
    """The command: export, and say how to load the result."""
    groups = {"a file for llama.cpp": GgufOptions, "adapters of a LoRA": AdapterOptions}
    about = "Copy a model for Hugging Face's transformers, or for llama.cpp."
    parser = make_parser("python -m gpt.export RUN OUT", about, groups)
    parser.add_argument("directory", metavar="RUN", help="a run, or a model directory")
    parser.add_argument("out", metavar="OUT", help="the directory to make, or for llama.cpp a file NAME.gguf")
    settings = parse(parser, groups, argv)
    options, out = build(GgufOptions, settings), Path(settings["out"])
    adapter = build(AdapterOptions, settings).adapter
    if out.suffix != GGUF and "outtype" in settings:
        raise UserError(f"--outtype {options.outtype}: is for files for llama.cpp, whose names end in {GGUF}")
    if out.suffix == GGUF and adapter:
        raise UserError(f"--adapter: writes a directory, and {out} names a file for llama.cpp: choose another name")
    accept_any_text()
    if adapter:
        base = export_adapter(find_verified(settings["directory"]), out)
        first = "" if base else "export the model of --init-from as well, to BASE; "
        print(f'written: {out}; {first}PEFT loads it with PeftModel.from_pretrained(BASE_MODEL, "{out}")')
        return 0
    if out.suffix == GGUF:
        export_gguf(find_verified(settings["directory"]), out, options.outtype)
        print(f"written: {out}; llama.cpp runs it: llama-completion -m {out} -p TEXT")
        return 0
    architecture = export(find_verified(settings["directory"]), out)
    print(f'written: {out}; load it with {architecture}.from_pretrained("{out}")')
    return 0


def console_script():
    """The exit code of the command `tinytensor-export`."""
    return run_command(main, to_save_memory="end other programs, or use a machine with more memory")


if __name__ == "__main__":
    sys.exit(console_script())
