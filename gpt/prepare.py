"""From a corpus of any size to token files: `python -m gpt.prepare SOURCE --out DIR --tokenizer bpe`.

The same command resumes after an interruption, to the same bytes. `docs/data.md` is the guide; `train.py --data DIR`
trains on the result. The work is done by `gpt.corpus.preparation`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt.cli import lossy_output, make_parser, parse, run_command
from gpt.corpus.preparation import PrepareOptions
from gpt.corpus.sources import open_source
from gpt.corpus.split import SPLITS
from gpt.corpus.tokens import META_FILE
from gpt.dialogs.preparation import make_preparation
from gpt.directories import locked
from gpt.options import build
from gpt.planning.check import check_preparation

NAMES_SHOWN = 5


def report(content: dict[str, Any], directory: str) -> None:
    """Print what was made, and on stderr what could not be read."""
    unreadable, names = content["unreadable"], content["unreadable_names"]
    if unreadable:
        more = f" and {unreadable - NAMES_SHOWN} more, named in {META_FILE}" if unreadable > NAMES_SHOWN else ""
        print(f"skipped {unreadable} unreadable: {'; '.join(names[:NAMES_SHOWN])}{more}", file=sys.stderr)
    for split in SPLITS:
        print(f"{split}: {content[split]:,} tokens of {content['documents'][split]:,} documents")
    print(f"from {content['text_bytes']:,} bytes of text, with a vocabulary of {content['vocab_size']:,}")
    print(f"to train: python train.py --data {directory}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command: prepare, or resume an unfinished preparation."""
    groups = {"how to prepare": PrepareOptions}
    parser = make_parser("python -m gpt.prepare SOURCE --out DIR", "Turn a corpus into token files.", groups)
    parser.add_argument("source", metavar="SOURCE", help="a file, folder, archive, table, hf:NAME, pydocs or stdlib")
    given = parse(parser, groups, argv)
    options = build(PrepareOptions, given)
    source = open_source(given["source"], options.text_column, options.streaming)
    check_preparation(options, source.size)
    with lossy_output(), locked(Path(options.out)):
        preparation = make_preparation(source, options)
        if preparation.files.is_resumed:
            print(f"resuming after {preparation.files.state['source_bytes']:,} bytes of {source.name}", flush=True)
        report(preparation.run(), options.out)
    return 0


def console_script():
    """The exit code of the command `tinytensor-prepare`."""
    return run_command(main, to_save_memory="lower --workers or --vocab-size")


if __name__ == "__main__":
    sys.exit(console_script())
