"""Command lines made from dataclasses: every field is a flag, and every mistake is one sentence.

Floor 5, above `config`. argparse splits the line; values are converted here, so that all messages read alike:
the flag, its value, the remedy. `run_command` is how each entry point ends. Read `train.py` and
`gpt.generate` next.
"""

import argparse
import dataclasses
import errno
import os
import sys
import warnings

import tinytensor as tt
from gpt.errors import UserError
from gpt.options import flag, nearest

KIND_NAMES = {int: "a whole number", float: "a number"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of printing its usage and leaving."""

    def error(self, message):
        raise UserError(message.removeprefix("argument "))


def make_parser(prog, description, groups, defaults=None):
    """A parser with a help group of flags for each of `groups` {title: dataclass}; the help shows `defaults`."""
    parser = Parser(prog=prog, usage=f"{prog} [flags]", description=description, allow_abbrev=False)
    for title, cls in groups.items():
        group = parser.add_argument_group(title)
        for field in dataclasses.fields(cls):
            add_flag(group, field, (defaults or {}).get(field.name, field.default))
    return parser


def add_flag(group, field, default):
    """Add a field's flag; a flag that is not given leaves no trace in the result."""
    choices = field.metadata["choices"]
    notes = [", ".join(choices)] if choices else []
    if default not in ("", None):
        shown = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
        notes.append(f"default {shown}")
    text = field.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")
    arguments = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}
    if isinstance(field.default, bool):
        arguments["action"] = argparse.BooleanOptionalAction
    else:
        arguments["metavar"] = {int: "N", float: "X", str: "NAME" if choices else "TEXT"}[type(field.default)]
    group.add_argument(flag(field.name), **arguments)


def parse(parser, groups, argv):
    """The settings on a command line, {name: converted value}. UserError for unknown flags and bad values."""
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].partition("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        raise UserError(f"{name}: unknown {'flag' if name.startswith('-') else 'argument'}{nearest(name, known)}")
    settings = vars(namespace)
    for cls in groups.values():
        for field in dataclasses.fields(cls):
            if field.name in settings:
                settings[field.name] = convert(field, settings[field.name])
    return settings


def convert(field, value):
    """A flag's text as the type of its field's default."""
    kind = type(field.default)
    try:
        return value if kind is bool else kind(value)
    except ValueError:
        raise UserError(f"{flag(field.name)} {value}: must be {KIND_NAMES[kind]}") from None


def run_command(main, argv=None):
    """The exit code of `main(argv)`; what the user can put right becomes one line on stderr and code 2."""
    try:
        with warnings.catch_warnings():
            # Numbers that overflow are looked for where they matter, and reported in a sentence.
            warnings.simplefilter("ignore", RuntimeWarning)
            return main(argv)
    except (UserError, tt.DeviceError) as error:
        message = error
    except MemoryError:
        message = "out of memory: lower --batch-size (and raise --accumulation to make up for it), or --block-size"
    except ChildProcessError as error:
        message = f"{error}, perhaps for lack of memory: lower --threads or --batch-size"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO):
            raise
        message = f"{error.filename or 'output'}: {error.strerror}"
    print(f"error: {message}", file=sys.stderr)
    return 2
