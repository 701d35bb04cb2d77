"""One way to tell a user what is wrong: a sentence on stderr and exit code 2."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in the user's input; the message says what was found, what was expected and what to do.

    A loader process hands an error on as its class, called with the error's whole traceback, which ends in the message: the
    message alone is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.split(f"{__name__}.{type(self).__name__}: ")[-1].strip())


def run_program(main: Callable[[list[str]], None]) -> None:
    """Run `main(sys.argv[1:])`; a `UserError` becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
