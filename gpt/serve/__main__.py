"""The command: `python -m gpt.serve DIR`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tinytensor as tt
from gpt.cli import accept_any_text, configure_process, make_parser, parse, run_command
from gpt.errors import UserError, requires
from gpt.files import require_regular
from gpt.generation.packed import WEIGHTS, WEIGHTS_HELP, pack_weights
from gpt.options import DEVICE_HELP, HUB, build, check_options, option
from gpt.planning.check import check_serving
from gpt.serve.app import App
from gpt.serve.engine import Engine
from gpt.serve.listener import LOOPBACK, bind, resolve, url
from gpt.serve.parameters import MAX_TEXTS, Served, find_template
from gpt.training.manifest import find_verified
from gpt.weights.directory import BEST
from gpt.weights.load import load_model, model_config


@dataclass(frozen=True)
class ServeOptions:
    """Where to serve, and how much."""

    host: str = option("127.0.0.1", "address to listen on; others than this machine's own need --api-key-file")
    port: int = option(8000, "port to listen on; 0 lets the system choose one", at_least=0, at_most=65535)
    api_key_file: str = option("", "file with the keys that clients may have, one in each line")
    name: str = option("", "what clients call the model; otherwise the name of its directory")
    max_batch: int = option(8, "texts that are written at the same time", at_least=1, at_most=1024)
    max_queue: int = option(64, "further texts that may wait; more are refused", at_least=0)
    context: int = option(4096, "the most tokens of a prompt and its answer together", at_least=2)
    max_tokens: int = option(1024, "the most tokens of an answer", at_least=1)
    timeout: float = option(300.0, "seconds after which a request is ended", above=0, below=float("inf"))
    device: str = option("auto", DEVICE_HELP)
    weights: str = option("float32", WEIGHTS_HELP, choices=WEIGHTS)

    def __post_init__(self) -> None:
        check_options(self)
        if self.host in LOOPBACK:
            return
        resolve(self.host, self.port)
        if not self.api_key_file:
            raise UserError(
                f"--host {self.host}: everyone who reaches this machine could use the model: set --api-key-file, too"
            )


def read_keys(path: str) -> list[str]:
    """The keys in a file, none without one. UserError if there is none in it."""
    if not path:
        return []
    try:
        require_regular(path)
        keys = [line.strip() for line in Path(path).read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"--api-key-file {path}: cannot be read ({error})") from None
    if not any(keys):
        raise UserError(f"--api-key-file {path}: has no key: write one into each line, of letters and digits")
    return [key for key in keys if key]


def model_name(directory: str) -> str:
    """What a model is called after where it is: the run's name, the directory's, or that on the hub."""
    if directory.startswith(HUB):
        return directory.removeprefix(HUB).partition("@")[0]
    path = Path(directory).resolve()
    return path.parent.name if path.name == BEST else path.name


def make_app(directory: str, options: ServeOptions) -> App:
    """Load a model and make the application that serves it. Raises UserError."""
    keys = read_keys(options.api_key_file)
    device = tt.device(options.device)
    configure_process(device)
    path = find_verified(directory)
    kind, config = model_config(path)
    if kind != "gpt":
        raise UserError(f"{directory}: is a {kind} model: only a GPT can be served")
    context = min(config.block_size, options.context)
    check_serving(config, device, options.max_batch, context)
    model, tokenizer = load_model(path, device)
    pack_weights(model, options.weights)
    name = options.name or model_name(directory)
    served = Served(
        name,
        tokenizer,
        context,
        max_tokens=min(options.max_tokens, context - 1),  # a prompt has a token at least
        max_texts=min(MAX_TEXTS, options.max_batch + options.max_queue),
        is_limited=context < config.block_size,
        template=find_template(tokenizer),
    )
    engine = Engine(model, tokenizer, device, options.max_batch, options.max_queue, context)
    return App(engine, served, options.timeout, keys, LOOPBACK if options.host in LOOPBACK else ())


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a model until a signal ends it."""
    groups = {"where, and how much": ServeOptions}
    parser = make_parser("python -m gpt.serve DIR", "Serve a model to programs that use OpenAI's interface.", groups)
    parser.add_argument("directory", metavar="DIR", help="a run, or a model directory: RUN/best, or GPT-2's")
    settings = parse(parser, groups, argv)
    options = build(ServeOptions, settings)
    accept_any_text()
    with requires("uvicorn", "serve"):
        from gpt.serve.server import Server
    app = make_app(settings["directory"], options)
    listener = bind(options.host, options.port)
    print(f"{app.served.name} at {url(options.host, listener)}/v1, Ctrl-C ends it", flush=True)
    Server(app).run([listener])
    return 0


def console_script():
    """The exit code of the command `tinytensor-serve`."""
    return run_command(main, to_save_memory="lower --max-batch or --context, or use a smaller model")


if __name__ == "__main__":
    sys.exit(console_script())
