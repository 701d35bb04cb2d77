"""Writing CAMs and label maps in background threads while the network computes the next images."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.cam_files import cam_path
from utils.errors import UserError
from utils.files import atomic_path

THREADS = 4
# Images waiting to be encoded; beyond that the network waits, so that memory stays bounded.
MOST_WAITING = 64


class CamWriter:
    """Write each image's uint8 maps as PNG files; a context manager that ends when everything is on disk.

    The copy from the device is only queued by `write`; a background thread waits for it, so the network never does.

    Args:
        cam_dir: folder of `<id>_<class>.png`; must exist.
        label_dir: folder of `<id>.png` label maps, or None to write none; must exist.
        threads: encoder threads (OpenCV's encoder runs outside Python's lock).
    """

    def __init__(self, cam_dir: Path, label_dir: Path | None, *, threads: int = THREADS) -> None:
        self.cam_dir, self.label_dir = cam_dir, label_dir
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cam-writer")
        self._room = threading.BoundedSemaphore(MOST_WAITING)
        self._pending: list[Future[None]] = []

    def write(self, image_id: str, classes: Sequence[int], cams: Tensor, labels: Tensor | None) -> None:
        """Queue one image.

        Args:
            image_id: names the files.
            classes: its K present classes, 0-based.
            cams: (K, H, W) uint8 on any device.
            labels: (H, W) uint8 label map, needed when there is a `label_dir`.

        Raises:
            Exception: whatever an earlier image's writing raised.
        """
        self._raise_failures()
        copies, ready = _copy_to_host([cams] if labels is None else [cams, labels])
        self._room.acquire()
        future = self._pool.submit(self._encode, image_id, tuple(classes), copies, ready)
        future.add_done_callback(lambda _: self._room.release())
        self._pending.append(future)

    def __enter__(self) -> "CamWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._raise_failures()

    def _encode(self, image_id: str, classes: tuple[int, ...], maps: list[Tensor], ready: torch.cuda.Event | None) -> None:
        if ready is not None:
            ready.synchronize()
        for class_index, cam in zip(classes, maps[0].numpy(), strict=True):
            _write_grey_png(cam_path(self.cam_dir, image_id, class_index), cam)
        # Last: the label map then says that the image is complete.
        if self.label_dir is not None:
            _write_grey_png(self.label_dir / f"{image_id}.png", maps[1].numpy())

    def _raise_failures(self) -> None:
        waiting = []
        for future in self._pending:
            if future.done():
                future.result()
            else:
                waiting.append(future)
        self._pending = waiting


def _copy_to_host(maps: Sequence[Tensor]) -> tuple[list[Tensor], torch.cuda.Event | None]:
    """Start copying to the host; the event, if any, tells when the copies are complete."""
    if maps[0].device.type != "cuda":
        return [m.cpu() for m in maps], None
    copies = [torch.empty(m.shape, dtype=m.dtype, pin_memory=True).copy_(m, non_blocking=True) for m in maps]
    ready = torch.cuda.Event()
    ready.record()
    return copies, ready


def _write_grey_png(path: Path, values: NDArray[Any]) -> None:
    """Encode with OpenCV: several times faster than Pillow on CAMs, and without Python's lock."""
    _, encoded = cv2.imencode(".png", values)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); free disk space or set cam.dir, cam.label_dir"
        ) from error
