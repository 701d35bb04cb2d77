"""What every training holds while it runs: its place among the processes, its output folder, and an ear for signals."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from utils.distributed import Dist, any_rank, setup
from utils.files import lock_folder
from utils.precision import set_threads
from utils.signals import StopRequest, stop_on_signals

# With several processes, agreeing on a stop costs a message: ask every so many steps.
STOP_CHECK_EVERY = 10


@contextlib.contextmanager
def training_session(device: str, threads: int, folder: Path) -> Iterator[tuple[Dist, StopRequest]]:
    """Join the processes, own `folder` (the main process does, for all) and collect signals while the block runs.

    Args:
        device: see `setup`.
        threads: of one process, see `set_threads`.
        folder: where checkpoints are written.

    Raises:
        UserError: for a device that is not there, or a folder in use.
    """
    set_threads(threads)
    with setup(device) as place:
        lock = lock_folder(folder) if place.is_main else contextlib.nullcontext()
        with lock, stop_on_signals() as stop:
            yield place, stop


def agree_to_stop(stop: StopRequest, place: Dist, step: int) -> bool:
    """Return whether any process was asked to stop, the same on all of them; every process must call it at the same steps."""
    asks = place.world == 1 or step % STOP_CHECK_EVERY == 0
    return asks and any_rank(bool(stop), place)
