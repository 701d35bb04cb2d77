"""One way to tell a user what is wrong: a sentence on stderr and exit code 2."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in the user's input; the message says what was found, what was expected and what to do."""


def run_program(main: Callable[[list[str]], None]) -> None:
    """Run `main(sys.argv[1:])`; a `UserError` becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def sentence(error: UserError) -> str:
    """Return the message alone: a loader process hands its errors on wrapped in its traceback."""
    return str(error).split(f"{UserError.__module__}.{UserError.__name__}: ")[-1].strip()
