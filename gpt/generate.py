"""Text from a trained model: `python -m gpt.generate DIR --prompt "..."`."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import tinytensor as tt
from gpt.cli import accept_any_text, configure_process, make_parser, parse, run_command, show
from gpt.generation.packed import WEIGHTS, WEIGHTS_HELP, pack_weights
from gpt.generation.sampling import Sampling
from gpt.generation.stream import stream
from gpt.options import DEVICE_HELP, build, check_options, option
from gpt.planning.check import check_generation
from gpt.training.manifest import find_verified
from gpt.weights.load import load_model, model_config


@dataclass(frozen=True)
class Request:
    """What to continue, and where."""

    prompt: str = option("", "text to continue; without one, the text begins with a new line or document")
    special_tokens: bool = option(False, "what looks like a special token in the prompt, such as <|im_end|>, is one")
    samples: int = option(1, "continuations to write, in one batch", at_least=1)
    device: str = option("auto", DEVICE_HELP)
    weights: str = option("float32", WEIGHTS_HELP, choices=WEIGHTS)

    def __post_init__(self) -> None:
        check_options(self)


def show_all(prompt: str, samples: int, pieces: Iterable[tuple[int, str]]) -> None:
    """Show one text as it comes, or several once they are complete."""
    if samples == 1:
        show(prompt)
        try:
            for _, piece in pieces:
                show(piece)
        finally:
            show("\n")  # before an error, too
        return
    texts = [prompt] * samples
    for i, piece in pieces:
        texts[i] += piece
    for i, text in enumerate(texts):
        show(f"--- {i + 1} ---\n{text}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command: write the prompt and its continuation to stdout as they come."""
    groups = {"what to write": Request, "how to choose tokens": Sampling}
    parser = make_parser("python -m gpt.generate DIR", "Continue a text with a trained model.", groups)
    parser.add_argument("directory", metavar="DIR", help="a run, or a model directory: RUN/best, or GPT-2's")
    settings = parse(parser, groups, argv)
    request, sampling = build(Request, settings), build(Sampling, settings)
    device = tt.device(request.device)
    configure_process(device)
    accept_any_text()
    directory = find_verified(settings["directory"])
    check_generation(*model_config(directory), device, request.samples, len(request.prompt), sampling.tokens)
    model, tokenizer = load_model(directory, device)
    pack_weights(model, request.weights)
    pieces = stream(model, tokenizer, request.prompt, sampling, request.samples, request.special_tokens)
    show_all(request.prompt, request.samples, pieces)
    return 0


def console_script():
    """The exit code of the command `tinytensor-generate`."""
    return run_command(main, to_save_memory="lower --samples, or use a smaller model")


if __name__ == "__main__":
    sys.exit(console_script())
