"""The one exception that means "the user can put this right".

The lowest file of floor 5. `gpt.cli.run_command` turns it into one line on stderr and exit code 2; read that
next.
"""


class UserError(Exception):
    """A mistake in the input or environment; the message is one sentence: the thing, its value, the remedy."""
