"""What the commands share: flags made from dataclasses, one-sentence errors, exit codes, and process-wide settings.

argparse splits the command line; values are converted here, so that all messages read alike: the flag, its value, the
remedy.
"""

import argparse
import dataclasses
import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn

from threadpoolctl import threadpool_limits

import tinytensor as tt
from gpt.errors import UserError, did_you_mean
from gpt.options import TOO_LARGE, TYPE_NAMES, flag
from gpt.signals import Terminated, handled, interrupt
from kernels.cpu.memory import keep_freed_memory
from kernels.cpu.threads import set_num_threads
from tinytensor.parallel import available_cores

# What the system refuses, and the remedy where the reason does not tell it. Other errnos, such as that of a missing
# file where it should have been looked for, are mistakes of the program.
REMEDIES = dict.fromkeys(("NOSPC", "DQUOT", "FBIG", "ACCES", "PERM", "ROFS", "IO", "NAMETOOLONG"), "")
REMEDIES |= dict.fromkeys(("NOTDIR", "ISDIR", "LOOP", "NXIO", "STALE"), "")
REMEDIES |= dict.fromkeys(("MFILE", "NFILE"), "; raise the limit on open files (ulimit -n)")
REMEDIES["AGAIN"] = "; raise the limit on processes and threads (ulimit -u), or end other programs"
OS_ERRORS = {getattr(errno, f"E{name}"): remedy for name, remedy in REMEDIES.items() if hasattr(errno, f"E{name}")}
NO_THREAD = "can't start new thread"  # of Python, with a RuntimeError
NO_MAPPING = "failed to map segment"  # of the dynamic linker, with an ImportError, if it has no memory for a library
SMALLER_BATCH = "lower --batch-size (and raise --grad-accum-steps to compensate), or lower --block-size"
LONGEST_VALUE, LONGEST_MESSAGE = 200, 600  # characters shown in an error


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError for what argparse found wrong."""
        message = message.replace("ignored explicit argument", "takes no value, but was given")
        raise UserError(message.removeprefix("argument "))


def make_parser(
    prog: str, description: str, groups: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Parser:
    """A parser with a help group of flags for each of `groups` {title: dataclass}; the help shows `defaults`."""
    parser = Parser(prog=prog, usage=f"{prog} [flags]", description=description, allow_abbrev=False)
    for title, cls in groups.items():
        group = parser.add_argument_group(title)
        for field in dataclasses.fields(cls):
            add_flag(group, field, (defaults or {}).get(field.name, field.default))
    return parser


def add_flag(group: Any, field: dataclasses.Field, default: object) -> None:
    """Add a field's flag to an argument group; a flag that is not given leaves no entry in the result."""
    choices = field.metadata["choices"]
    notes = [", ".join(choices)] if choices else []
    if isinstance(default, bool):
        notes.append(f"default {'yes' if default else 'no'}")
    elif default not in ("", None):
        notes.append(f"default {default}")
    text = field.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")
    arguments: dict[str, Any] = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}
    if isinstance(field.default, bool):
        arguments["action"] = argparse.BooleanOptionalAction
    else:
        arguments["metavar"] = {int: "N", float: "X", str: "NAME" if choices else "TEXT"}[type(field.default)]
    group.add_argument(flag(field.name), **arguments)


def parse(
    parser: Parser, groups: Mapping[str, Any], argv: Sequence[str] | None, renamed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The settings on a command line, {name: converted value}. UserError for unknown flags and bad values.

    renamed: {former name of a field: its name now}, for the error's "did you mean".
    """
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        raise unknown_flag(parser, unknown[0].partition("=")[0], renamed or {})
    settings = vars(namespace)
    for name, value in settings.items():
        if value in ("", []):  # argparse's value of `--flag=--`
            raise UserError(f"{spelling(parser, name)}: must be given a value, not an empty one")
    for cls in groups.values():
        for field in dataclasses.fields(cls):
            if field.name in settings:
                settings[field.name] = convert(field, settings[field.name])
    return settings


def spelling(parser: Parser, name: str) -> str:
    """How a setting is written on the command line: `--n-embd`, or `DIR` for an argument without a flag."""
    action = next(action for action in parser._actions if action.dest == name)
    return flag(name) if action.option_strings else str(action.metavar)


def unknown_flag(parser: Parser, name: str, renamed: Mapping[str, str]) -> UserError:
    """The error for a flag or argument that the parser does not have."""
    now = {flag(old): flag(new) for old, new in renamed.items()}.get(name)
    known = [option for action in parser._actions for option in action.option_strings]
    hint = f" (did you mean {now}?)" if now else did_you_mean(name, known)
    return UserError(f"{name}: unknown {'flag' if name.startswith('-') else 'argument'}{hint}")


def convert(field: dataclasses.Field, value: Any) -> Any:
    """A flag's text as the type of its field's default."""
    kind: Any = type(field.default)
    try:
        return value if kind is bool else kind(value)
    except ValueError:  # of int, too, for more than 4300 digits
        wanted = TOO_LARGE if kind is int and value.lstrip("+-").isdecimal() else f"be {TYPE_NAMES[kind]}"
        raise UserError(f"{flag(field.name)} {value}: must {wanted}") from None


def configure_process(device: tt.Device, processes: int = 0, splits: int | None = None) -> None:
    """Everything that a command sets for its whole process.

    A GPU becomes the current one. On the CPU, freed memory is kept for the next step instead of returned to the system,
    and the kernels use `processes` cores (0: all that are available), as threads, or as processes in
    `tinytensor.parallel`; `splits` is into how many parts they divide their work. BLAS has one thread in each, as its
    own would take more cores than these.
    """
    device.use()
    if device.name == "cpu":
        keep_freed_memory()
        cores = processes or available_cores()
        set_num_threads(cores, splits)
        if cores == 1:  # with more, that has limited BLAS
            threadpool_limits(limits=1, user_api="blas")


def accept_any_text() -> None:
    """Make the standard streams replace what their encoding cannot represent, instead of failing."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def show(text: str) -> None:
    """Write to stdout without buffering."""
    sys.stdout.write(text)
    sys.stdout.flush()


def open_missing_streams() -> None:
    """Open the null device for each standard stream that was closed before Python started, for which it has None.

    Otherwise the next file opened would get the stream's descriptor, and whatever a library prints there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def require_working_directory() -> None:
    """Raise UserError if the current directory was deleted, where relative paths and many libraries fail."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current directory cannot be used ({error.strerror}): change to another (cd)") from None


class LossyStream:
    """A text stream that drops what it cannot write, so that a reader who leaves does not end the work."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it; returns its length."""
        with self._lossy():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        with self._lossy():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _lossy(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            drop_output(self._stream)


@contextmanager
def lossy_output() -> Iterator[None]:
    """Within it, stdout and stderr drop what they cannot write: for commands whose result is in files."""
    accept_any_text()
    with redirect_stdout(LossyStream(sys.stdout)), redirect_stderr(LossyStream(sys.stderr)):  # type: ignore[type-var]
        try:
            yield
        finally:
            sys.stdout.flush()


def drop_output(stream: Any) -> None:
    """Send all further output of a stream, and what it still holds, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def shortened(text: str) -> str:
    """A message on one line, any value of more than 200 characters cut in its middle; so is the whole if very long."""
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    text = re.sub(rf"\S{{{LONGEST_VALUE + 1},}}", lambda found: cut(found.group(), LONGEST_VALUE), text)
    return cut(text, LONGEST_MESSAGE)


def cut(text: str, length: int) -> str:
    """A text of at most `length` characters: of a longer one the beginning and the end."""
    half = (length - 5) // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


def run_command(
    main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None, to_save_memory: str = SMALLER_BATCH
) -> int:
    """The exit code of `main(argv)`; an error that the user can put right becomes one line on stderr and code 2.

    to_save_memory: what to change if there is too little.
    """
    open_missing_streams()
    try:
        require_working_directory()
        with handled(interrupt), warnings.catch_warnings():
            # Numbers that overflow are looked for where they matter, and reported in a sentence.
            warnings.simplefilter("ignore", RuntimeWarning)
            return main(argv)
    except (KeyboardInterrupt, Terminated):
        print("interrupted", file=LossyStream(sys.stderr))
        return 130
    except BrokenPipeError:  # the reader of our output has exited, as `| head` does
        drop_output(sys.stdout)
        return 0
    except Exception as error:
        message = error_message(error, to_save_memory)
        if message is None:
            raise
    print(f"error: {shortened(message)}", file=LossyStream(sys.stderr))
    return 2


def error_message(error: Exception, to_save_memory: str) -> str | None:
    """The sentence about an error that comes from the input or the environment; None for a mistake of the program."""
    code = error.errno if isinstance(error, OSError) else None
    no_mapping = isinstance(error, ImportError) and NO_MAPPING in str(error)
    if isinstance(error, (UserError, tt.DeviceError)):
        return str(error)
    if isinstance(error, MemoryError) or no_mapping or code == errno.ENOMEM:
        return f"out of memory: {to_save_memory}"
    if isinstance(error, ChildProcessError):
        return f"{error}, perhaps for lack of memory: lower --processes or --batch-size"
    if isinstance(error, RuntimeError) and NO_THREAD in str(error):
        return f"no thread can be started{OS_ERRORS[errno.EAGAIN]}"
    if isinstance(error, OSError) and code in OS_ERRORS:
        what = error.filename or ("a process cannot be started" if code == errno.EAGAIN else "output")
        return f"{what}: {error.strerror}{OS_ERRORS[code]}"
    return None
