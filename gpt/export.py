"""A run's best model for others: `python -m gpt.export RUN OUT` makes a directory for Hugging Face's `transformers`.

A run's `best` already is such a directory if GPT-2 can express the model. Other models are written with the names and
in the layouts of the first family that can, or the error says why none can.
`AutoModelForCausalLM.from_pretrained(OUT)` reads the result.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from gpt.cli import accept_any_text, make_parser, parse, run_command
from gpt.directories import new_directory, require_free
from gpt.errors import UserError
from gpt.files import writing
from gpt.model import MODELS
from gpt.training.manifest import find_verified
from gpt.weights.directory import write_export
from gpt.weights.families.registry import export_format
from gpt.weights.load import fill_model, model_config, tokenizer_of


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


def main(argv: Sequence[str] | None = None) -> int:
    """The command: export, and say how to load the result."""
    parser = make_parser("python -m gpt.export RUN OUT", "Copy a model for Hugging Face's transformers.", {})
    parser.add_argument("directory", metavar="RUN", help="a run, or a model directory")
    parser.add_argument("out", metavar="OUT", help="the directory to make")
    settings = parse(parser, {}, argv)
    accept_any_text()
    architecture = export(find_verified(settings["directory"]), Path(settings["out"]))
    print(f'written: {settings["out"]}; load it with {architecture}.from_pretrained("{settings["out"]}")')
    return 0


def console_script():
    """The exit code of the command `tinytensor-export`."""
    return run_command(main, to_save_memory="end other programs, or use a machine with more memory")


if __name__ == "__main__":
    sys.exit(console_script())
