"""The command: `python -m gpt.web [DIR]`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tinytensor as tt
from gpt.cli import accept_any_text, configure_process, make_parser, parse, run_command
from gpt.errors import requires
from gpt.options import DEVICE_HELP, build, check_options, option
from gpt.serve.listener import LOOPBACK, bind, url
from gpt.web.folder import Folder
from gpt.web.models import Models


@dataclass(frozen=True)
class WebOptions:
    """Where to serve the page."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 lets every machine that reaches yours use the page")
    port: int = option(7860, "port to listen on; 0 lets the system choose one", at_least=0, at_most=65535)
    device: str = option("auto", DEVICE_HELP)

    def __post_init__(self) -> None:
        check_options(self)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until a signal ends it."""
    groups = {"where": WebOptions}
    parser = make_parser("python -m gpt.web [DIR]", "Open runs and models in the browser.", groups)
    parser.add_argument("directory", metavar="DIR", nargs="?", default="runs", help="a folder of runs (default runs)")
    settings = parse(parser, groups, argv)
    options = build(WebOptions, settings)
    folder = Folder(Path(settings["directory"]))
    entries = folder.entries()
    device = tt.device(options.device)
    configure_process(device)
    accept_any_text()
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read when it is imported
    with requires("gradio", "web"):
        from gpt.web.page import Page
        from gpt.web.server import make_app, make_server
    listener = bind(options.host, options.port)
    app = make_app(Page(folder, Models(folder, device)), options.host)
    if options.host not in LOOPBACK:
        print(
            f"warning: --host {options.host}: everyone who reaches this machine can read the runs in {folder.root} and "
            "use its processor; there is no password and no encryption",
            file=sys.stderr,
        )
    print(f"{len(entries)} in {folder.root}; open {url(options.host, listener)} in a browser, Ctrl-C ends it")
    sys.stdout.flush()
    make_server(app).run([listener])
    return 0


def console_script():
    """The exit code of the command `tinytensor-web`."""
    return run_command(main, to_save_memory="open a folder with smaller models")


if __name__ == "__main__":
    sys.exit(console_script())
