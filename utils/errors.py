"""One way to tell a user what is wrong: a sentence on stderr and exit code 2."""

import contextlib
import errno
import importlib
import os
import re
import sys
import threading
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
    """Run `main(sys.argv[1:])`; a `UserError` or fault becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    threading.excepthook = _thread_failed
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else fault(error)
        if told is None:
            raise  # a mistake of ours: its place matters
        print(f"error: {shortened(told)}", file=sys.stderr)
        _give_up_output()
        sys.unraisablehook = lambda _: None  # what was half made when it failed complains as it goes
        sys.exit(2)


def shortened(text: str) -> str:
    """Return a text that is no page: of a longer one its two ends, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS // 2]} ... {text[-_MOST_LETTERS // 2 :]}"


def damage(error: BaseException) -> str:
    """Return what the reader of a file stumbled over, without the names of Python's types."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    if isinstance(error, (TypeError, AttributeError, IndexError)):
        return "it holds something else than expected"
    return (str(error).strip().splitlines() or ["it is damaged"])[0]


# Files may hold lines of megabytes.
_MOST_LETTERS = 800
SPACE = "free disk space and run the same command again"
_ANY_SPACE = "free space on the disk or, for loader processes (data.workers, dataloader.num_workers), in /dev/shm"
_FILES = "allow more (ulimit -n 4096) or use fewer workers"
_MEMORY = "use fewer workers, smaller batches or a smaller network"
_PEER = "another process of this run has ended or cannot be reached; its own message says why"
_LOADERS = "use fewer loader processes (data.workers, dataloader.num_workers; 0: none)"
_REMEDIES = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EFBIG: "allow larger files (ulimit -f unlimited) and run the same command again",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: "allow more processes (ulimit -u) or use fewer workers",
    errno.EIO: "check the disk and run the same command again",
    errno.EPIPE: _PEER,
    errno.ECONNRESET: _PEER,
    errno.ECONNREFUSED: _PEER,
}
# What torch says of a fault, as it has no classes for them; the first that fits counts.
_TORCH_FAULTS = (
    (rf"exit code {errno.EMFILE}\b", f"too many open files; {_FILES}"),
    (rf"exit code {errno.ENOMEM}\b", f"the shared memory (/dev/shm) is full; {_LOADERS}"),
    (r"Too many open files|items of ancdata", f"too many open files; {_FILES}"),
    (r"shared memory|torch_\d+_|Bus error", f"the shared memory (/dev/shm) is full; {_LOADERS}"),
    (
        r"DataLoader worker .*(killed|exited)",
        f"a loader process was killed, perhaps for want of memory, shared memory or open files; {_LOADERS}",
    ),
    (r"out of memory|t allocate memory", f"out of memory; {_MEMORY}"),
    (r"(?i)by peer|\bgloo\b|NCCL", _PEER),
)


def fault(error: BaseException) -> str | None:
    """Return one sentence about a fault of the machine (disk, memory, files, processes); None for any other error."""
    text = str(error).strip()
    told = (text.splitlines() or [""])[-1]  # a loader process hands on its traceback, which ends in the message
    if isinstance(error, OSError):
        number = error.errno or int((re.search(r"\[Errno (\d+)\]", told) or [0, 0])[1])
        place = f"{error.filename}: " if error.filename is not None else ""
        reason = os.strerror(number) if number else told.removeprefix(f"{type(error).__name__}: ") or type(error).__name__
        # Without a file it may be memory that processes share.
        return f"{place}{reason}; {_ANY_SPACE if number == errno.ENOSPC and not place else remedy(number)}"
    if isinstance(error, MemoryError):
        return f"out of memory; {_MEMORY}"
    if isinstance(error, RuntimeError):
        return next((sentence for pattern, sentence in _TORCH_FAULTS if re.search(pattern, text)), None)
    return None


def remedy(number: int | None, otherwise: str = "check that it is there and that you may use it") -> str:
    """Return what to do about an `errno`; `otherwise` about one that is not of disk, memory or processes."""
    return _REMEDIES.get(number or 0, otherwise)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Keep quiet about a fault in a library's thread (TensorBoard's writer): it also reaches the main one."""
    if failure.exc_value is None or fault(failure.exc_value) is None:
        threading.__excepthook__(failure)


def _give_up_output() -> None:
    """Drop what cannot be printed (disk full, reader gone): at its exit Python would try again and complain at length."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
