"""A run's best model for others: `python -m gpt.export RUN OUT` makes a directory for Hugging Face's `transformers`.

A run's `best` already is such a directory if GPT-2 can express the model; this says why if it cannot, and copies only
complete files. `GPT2LMHeadModel.from_pretrained(OUT)` reads the result.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt.cli import accept_any_text, make_parser, parse, run_command
from gpt.directories import new_directory, require_free
from gpt.errors import UserError
from gpt.files import replace_file, writing
from gpt.training.manifest import find_verified
from gpt.weights.directory import WEIGHTS_FILE, create_model_directory
from gpt.weights.families import why_not_gpt2
from gpt.weights.load import model_config, tokenizer_of


def export(source: Path, out: Path) -> None:
    """Copy the model directory `source` to the new or empty directory `out`. UserError if GPT-2 cannot express it."""
    kind, config = model_config(source)
    weights = source / WEIGHTS_FILE
    if reason := why_not_gpt2(kind, config):
        raise UserError(f"{source}: cannot be exported as a GPT-2: {reason}")
    if not weights.exists():
        raise UserError(f"{weights}: missing; the first evaluation of a run writes it, so train for longer")
    require_free(out, str(out))
    tokenizer = tokenizer_of(source, config)
    with new_directory([out], out.name) as new, writing(out):
        create_model_directory(new.path, kind, config, tokenizer)
        replace_file(new.path / WEIGHTS_FILE, lambda temporary: shutil.copyfile(weights, temporary))


def main(argv: Sequence[str] | None = None) -> int:
    """The command: export, and say how to load the result."""
    parser = make_parser("python -m gpt.export RUN OUT", "Copy a model for Hugging Face's transformers.", {})
    parser.add_argument("directory", metavar="RUN", help="a run, or a model directory")
    parser.add_argument("out", metavar="OUT", help="the directory to make")
    settings = parse(parser, {}, argv)
    accept_any_text()
    export(find_verified(settings["directory"]), Path(settings["out"]))
    print(f'written: {settings["out"]}; load it with GPT2LMHeadModel.from_pretrained("{settings["out"]}")')
    return 0


def console_script():
    """The exit code of the command `tinytensor-export`."""
    return run_command(main, to_save_memory="end other programs, or use a machine with more memory")


if __name__ == "__main__":
    sys.exit(console_script())
