"""Console, log file and progress: a bar on a terminal, plain lines with an ETA elsewhere."""

import fcntl
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from utils.files import write_text_atomic
from utils.runtime.device import peak_gpu, peak_resident

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


class _TqdmHandler(logging.Handler):
    """Write log lines without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


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


RECORD = "stages.json"


def record_stage(run_dir: str | Path, program: str, seconds: float, *, output: str | Path, images: int) -> None:
    """Note in `<run_dir>/stages.json` what a program took; an earlier note of the same program and output is replaced.

    Args:
        run_dir: the run's folder.
        program: e.g. "gen_gt".
        seconds: wall-clock time of this invocation.
        output: what it wrote; tells apart several uses of one program.
        images: how many images it worked on in that time.
    """
    path = Path(run_dir) / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    gpu = peak_gpu()
    entry = {
        "program": program,
        "output": str(output),
        "images": images,
        "seconds": round(seconds, 1),
        # GiB, of this process or its largest worker; allocated on the GPU, if one was used.
        "peak_memory_gib": round(peak_resident(workers=True), 3),
        "peak_gpu_memory_gib": None if gpu is None else round(gpu, 3),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    # Programs that finish at the same moment wait for each other, so that no note is lost.
    with path.with_name(f".{RECORD}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [e for e in read_stage_records(path) if (e.get("program"), e.get("output")) != (program, str(output))]
        write_text_atomic(path, json.dumps([*others, entry], indent=2) + "\n")


def read_stage_records(path: Path) -> list[dict[str, Any]]:
    """Return the notes of a stages.json in the order they were written; none where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
