"""Work done in background threads while the network computes, with a bound on what may wait."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

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
        """Queue `function(*args)`; waits while too many are queued.

        Raises:
            Exception: whatever an earlier call raised.
        """
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

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._ready: torch.cuda.Event | None = None
        if tensors[0].device.type != "cuda":
            self._copies = [t.cpu() for t in tensors]
            return
        self._copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
        self._ready = torch.cuda.Event()
        self._ready.record()

    def wait(self) -> list[Tensor]:
        """Return the copies once they are complete."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._copies
