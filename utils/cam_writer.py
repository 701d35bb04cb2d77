"""Writing CAMs and label maps in background threads while the network computes the next images."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
from numpy.typing import NDArray
from torch import Tensor

from utils.bounded_pool import THREADS, BoundedPool, HostCopy
from utils.cam_files import cam_path
from utils.errors import UserError
from utils.files import atomic_path


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
        self._pool = BoundedPool(threads)

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
        copy = HostCopy([cams] if labels is None else [cams, labels])
        self._pool.submit(self._encode, image_id, tuple(classes), copy)

    def __enter__(self) -> "CamWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.__exit__(kind, error, trace)

    def _encode(self, image_id: str, classes: tuple[int, ...], copy: HostCopy) -> None:
        maps = copy.wait()
        for class_index, cam in zip(classes, maps[0].numpy(), strict=True):
            _write_grey_png(cam_path(self.cam_dir, image_id, class_index), cam)
        # Last: the label map then says that the image is complete.
        if self.label_dir is not None:
            _write_grey_png(self.label_dir / f"{image_id}.png", maps[1].numpy())


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
