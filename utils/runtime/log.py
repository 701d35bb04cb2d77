"""Console, log file and progress: a bar on a terminal, plain lines with an ETA elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


class _TqdmHandler(logging.Handler):
    """Write log lines without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def _fail(record: logging.LogRecord) -> None:
    """Let a line that cannot be written (disk full) end the program in a sentence; logging would print a page and go on."""
    raise  # called where the error is being handled


def get_logger(folder: Path | None = None, *, rank: int = 0) -> logging.Logger:
    """Return the program's logger; with `folder`, lines are also appended to `<folder>/log.txt` (rank 0 only).

    Ranks other than 0 only print warnings and errors.
    """
    logger = logging.getLogger("l2g")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.propagate = False
    handlers: list[logging.Handler] = [_TqdmHandler()]
    if folder is not None and rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(folder / "log.txt", encoding="utf-8"))
    for handler in handlers:
        handler.handleError = _fail  # type: ignore[method-assign]
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


def progress(items: Iterable[Item], total: int, what: str, *, initial: int = 0, show: bool = True) -> Iterator[Item]:
    """Iterate over `items` showing done/total, rate and ETA.

    Args:
        items: anything iterable.
        total: how many there are, `initial` included.
        what: what is counted, for the label.
        initial: how many were done before (a resumed epoch).
        show: False on ranks other than 0.
    """
    if not show:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, initial=initial, dynamic_ncols=True, leave=False)
        return
    started = last = time.monotonic()
    for done, item in enumerate(items, start=initial + 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            rate = (done - initial) / (now - started)
            remaining = format_seconds((total - done) / rate)
            print(f"{what}: {done}/{total}, {rate:.2f}/s, about {remaining} left", file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
    """Return e.g. '1:02:03' or '2:03'."""
    return tqdm.format_interval(max(0.0, seconds))
