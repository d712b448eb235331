"""The command: `python -m gpt.explain RUN --prompt "..."`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tinytensor as tt
from gpt.cli import accept_any_text, configure_process, make_parser, parse, run_command
from gpt.corpus.tokens import open_tokens
from gpt.errors import UserError
from gpt.explain.content import explain, prompt_limit, render
from gpt.explain.curve import loss_curve
from gpt.files import replace_text
from gpt.generation.conversation import known_part
from gpt.generation.sampling import Sampling
from gpt.generation.stream import first_ids
from gpt.options import DEVICE_HELP, build, check_options, option
from gpt.planning.check import check_generation
from gpt.tokenizers.load import Tokenizer
from gpt.training.manifest import find_verified
from gpt.training.metrics import Metrics
from gpt.weights.directory import BEST
from gpt.weights.load import load_model, model_config

DEFAULT_TOKENS = 64  # of the validation text


@dataclass(frozen=True)
class Request:
    """What to explain, and where to write it."""

    prompt: str = option("", "text to walk through; without one, the beginning of the run's validation text")
    out: str = option("explain.html", "the file to write; one that exists is replaced")
    tokens: int = option(40, "tokens to write after the prompt", at_least=1, at_most=500)
    temperature: float = option(Sampling.temperature, "of the continuation; 0 is greedy decoding", at_least=0)
    seed: int = option(1, "the same seed gives the same continuation", at_least=0)
    device: str = option("auto", DEVICE_HELP)

    def __post_init__(self) -> None:
        check_options(self)
        path = Path(self.out)
        if path.suffix.lower() not in (".html", ".htm"):  # so that a slip does not replace a model
            raise UserError(f"--out {self.out}: must end in .html, by which a browser knows it")
        if not path.parent.is_dir():
            raise UserError(f"--out {self.out}: there is no directory {path.parent}; make it, or choose another")


def choose_ids(prompt: str, tokenizer: Tokenizer, run: Path, limit: int) -> tuple[np.ndarray, list[str]]:
    """The tokens (T,) to walk through, at most `limit`, and sentences about what is not as the user asked for."""
    if not prompt:
        return default_ids(tokenizer, run, limit)
    text, unseen = known_part(tokenizer, prompt)
    notes = []
    if unseen:
        left_out = " ".join(map(repr, unseen))
        if not text:
            raise UserError(f"--prompt {prompt}: the model knows none of its characters; use those that it trained on")
        notes.append(f"Unknown to the model and left out of the prompt: {left_out}")
    ids = np.asarray(tokenizer.encode(text), dtype=np.int64)
    if len(ids) > limit:
        notes.append(
            f"The prompt has {len(ids)} tokens, and the model's context or this page has room for {limit}: "
            f"its last {limit} are shown."
        )
    return ids[-limit:], notes


def default_ids(tokenizer: Tokenizer, run: Path, limit: int) -> tuple[np.ndarray, list[str]]:
    """The beginning of the validation text, if the run has it and it is valid, else the token that begins a text."""
    try:
        ids = np.asarray(open_tokens(run).val[: min(limit, DEFAULT_TOKENS)], dtype=np.int64)
        if len(ids) and ids.max() < tokenizer.vocab_size:
            return ids, ["No --prompt was given: the text is the beginning of the run's validation text."]
        reason = f"{run}: its token ids are not the model's"
    except UserError as error:  # a model directory, or a run that was moved away from its corpus
        reason = str(error)
    begin = "The prompt is one token, a line break or the one between documents"
    return np.asarray(first_ids(tokenizer, ""), dtype=np.int64), [
        f"{begin}, as no --prompt was given and there is no validation text ({reason})"
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and say where it is."""
    groups = {"what to explain": Request}
    parser = make_parser("python -m gpt.explain RUN", "Explain a model on a prompt, in one HTML file.", groups)
    parser.add_argument("directory", metavar="RUN", help="a run, or a model directory: RUN/best, or GPT-2's")
    settings = parse(parser, groups, argv)
    request, name = build(Request, settings), settings["directory"]
    device = tt.device(request.device)
    configure_process(device)
    accept_any_text()
    directory = find_verified(name)
    check_generation(*model_config(directory), device, 1, len(request.prompt), request.tokens)
    model, tokenizer = load_model(directory, device)
    place = directory.absolute()  # "." may be one, too
    run = place.parent if place.name == BEST else place
    ids, notes = choose_ids(request.prompt, tokenizer, run, prompt_limit(model))
    sampling = build(Sampling, vars(request))
    content: dict[str, Any] = explain(model, tokenizer, ids, sampling)
    rows, invalid = Metrics(run / "metrics.jsonl").read()
    notes += invalid
    content |= {"run": name, "notes": notes, "curve": loss_curve(rows, tokenizer.vocab_size)}
    page = render(content)
    replace_text(Path(request.out), page)
    for note in notes:
        print(note)
    print(f"written: {request.out} ({len(page) / 1e3:,.0f} kB); open it in a browser")
    return 0


def console_script():
    """The exit code of the command `tinytensor-explain`."""
    return run_command(main, to_save_memory="use a shorter --prompt or a smaller model")


if __name__ == "__main__":
    sys.exit(console_script())
