"""One way to tell a user what is wrong: a sentence on stderr and exit code 2."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


class UserError(Exception):
    """A mistake in the user's input; the message says what was found, what was expected and what to do.

    A loader process hands an error on as its class, called with the error's whole traceback, which ends in the message: the
    message alone is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.split(f"{__name__}.{type(self).__name__}: ")[-1].strip())


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Tell the user what networks and refiners find wrong: they know no users and raise ValueError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def run_program(main: Callable[[list[str]], None]) -> None:
    """Run `main(sys.argv[1:])`; a `UserError` becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def import_optional(module: str, package: str, why: str) -> Any:
    """Return the imported module.

    Args:
        module: name to import, e.g. "scipy.io".
        package: name to install, e.g. "scipy".
        why: what needs it, the beginning of a sentence.

    Raises:
        UserError: with the command that installs the package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{why} needs the package {package} ({error}); install it: python -m pip install {package}") from error
