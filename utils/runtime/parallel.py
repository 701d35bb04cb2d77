"""Walk a list of independent items on many processes, in order, with progress."""

import errno
import logging
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from utils.errors import UserError, fault
from utils.runtime.log import progress

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

# Submitted ahead of the result the caller waits for, per process: keeps all busy, bounds what waits in memory.
_AHEAD = 4
_SHOWN = 200


def map_progress(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, what: str, total: int | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for every item, in their order, showing progress (a bar on a terminal, else plain lines).

    Args:
        function: a module-level function or a partial of one; it, the items and the results travel between processes.
        items: what to work on.
        workers: processes; 0 is one per core, 1 works in this process. Each uses one thread.
        what: label of the progress.
        total: how many items there are, for items made one by one, which are then asked for a few ahead of the results.

    Raises:
        UserError: the function's own, or, for any other failure, one that names the item.
    """
    if total is None:
        items = list(items)
        total = len(items)
    count = min(workers or cores(), total)
    results = _inline(function, items, what) if count <= 1 else _on_processes(function, items, count, what)
    yield from progress(results, total, what)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def _inline(function: Callable[[Item], Result], tasks: Iterable[Item], what: str) -> Iterator[Result]:
    for item in tasks:
        try:
            result = function(item)
        except Exception as error:
            raise _named(error, item, what) from error
        yield result


def _on_processes(function: Callable[[Item], Result], tasks: Iterable[Item], count: int, what: str) -> Iterator[Result]:
    # spawn: a forked copy of a process that runs threads (torch, CUDA, tqdm) may hang.
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_start_worker)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in tasks:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= count * _AHEAD:
                yield _result(waiting.popleft(), what)
        while waiting:
            yield _result(waiting.popleft(), what)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(entry: tuple[Item, "Future[Result]"], what: str) -> Result:
    item, future = entry
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"{what}: a worker process died at or near {_shown(item)} (killed, perhaps for want of memory); use fewer workers"
        ) from error
    except Exception as error:
        raise _named(error, item, what) from error


def _named(error: Exception, item: Any, what: str) -> UserError:
    if isinstance(error, UserError):
        return error
    if (told := fault(error)) is not None:
        return UserError(f"{what} failed at {_shown(item)}: {told}")
    # Not foreseen, so a mistake of ours is possible: the log keeps where it happened.
    logging.getLogger("l2g").error("%s failed", what, exc_info=error)
    return UserError(f"{what} failed at {_shown(item)}: {type(error).__name__}: {error}")


def _shown(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _start_worker() -> None:
    """One thread a process; Ctrl-C is the parent's to handle; and no worker outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # For libraries that are not loaded yet ...
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENCV_FOR_THREADS_NUM="1")
    # ... and for those that are.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    leave_with_parent()


def start_loader_worker(_: int) -> None:
    """First call in a DataLoader's worker, with its number: it leaves with its parent, and when it cannot hand on a batch.

    Such a batch would be dropped, and the parent wait for it for ever; it sees the exit code, see `utils.errors.fault`.
    """
    leave_with_parent()
    # The hook is there to be replaced, if by Python's own libraries.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_leave_unable)  # type: ignore[attr-defined]


def _leave_unable(error: BaseException, _: Any) -> None:
    # Anything but too few file descriptors is, for tensors, a lack of shared memory.
    os._exit(errno.EMFILE if isinstance(error, OSError) and error.errno == errno.EMFILE else errno.ENOMEM)


def leave_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    threading.Thread(target=_wait_and_leave, args=(os.getppid(),), daemon=True).start()


def _wait_and_leave(parent_id: int) -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    else:  # started by a program that is not Python's multiprocessing
        while os.getppid() == parent_id:
            time.sleep(1)
    os._exit(1)


THREADS = 4
# Results waiting to be encoded; beyond that the network waits, so that memory stays bounded.
MOST_WAITING = 64


class BoundedPool:
    """Threads that work off submitted calls; a context manager that ends when all are done.

    Args:
        threads: of the pool; worthwhile for work outside Python's lock (encoders, NumPy, disks).
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="background")
        self._room = threading.BoundedSemaphore(MOST_WAITING)
        self._pending: list[Future[Any]] = []

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Queue `function(*args)`; waits while too many are queued. Raises whatever an earlier call raised."""
        self._raise_failures()
        self._room.acquire()
        future = self._pool.submit(function, *args)
        future.add_done_callback(lambda _: self._room.release())
        self._pending.append(future)

    def __enter__(self) -> "BoundedPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._raise_failures()

    def _raise_failures(self) -> None:
        waiting = []
        for future in self._pending:
            if future.done():
                future.result()
            else:
                waiting.append(future)
        self._pending = waiting


class HostCopy:
    """Tensors on their way to the host: copying is only queued here, `wait` is for a background thread.

    Args:
        tensors: of one device; at least one.
    """

    def __init__(self, tensors: "Sequence[Tensor]") -> None:
        import torch

        self._ready: torch.cuda.Event | None = None
        if tensors[0].device.type != "cuda":
            self._copies = [t.cpu() for t in tensors]
            return
        self._copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
        self._ready = torch.cuda.Event()
        self._ready.record()

    def wait(self) -> "list[Tensor]":
        """Return the copies once they are complete."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._copies
