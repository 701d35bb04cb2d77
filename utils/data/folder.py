"""Where a data set's images and saliency maps are, and whether all of them are there."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.schema import DataConfig
from utils.errors import UserError

_SHOWN = 3


def image_path(data: DataConfig, image_id: str) -> Path:
    """Return the photo `<root>/<image_dir>/<id>.jpg`."""
    return Path(data.root, data.image_dir, f"{image_id}.jpg")


def saliency_path(data: DataConfig, image_id: str) -> Path:
    """Return the saliency map `<root>/<saliency_dir>/<id>.png`."""
    return Path(data.root, data.saliency_dir, f"{image_id}.png")


def check_images(data: DataConfig, ids: Iterable[str]) -> None:
    """Check that every image is there.

    Raises:
        UserError: naming the first missing ones and how many there are.
    """
    check_files([image_path(data, i) for i in ids], "image", "data.image_dir")


def check_saliency(data: DataConfig, ids: Iterable[str]) -> None:
    """Check that every saliency map is there, as `check_images` does."""
    check_files([saliency_path(data, i) for i in ids], "saliency map", "data.saliency_dir")


def check_files(paths: Sequence[Path], what: str, key: str) -> None:
    """Check that files are there, listing each folder once: 80 000 single looks would take minutes on a network disk.

    Args:
        paths: the files.
        what: what they are, for messages.
        key: configuration key that says where they are.

    Raises:
        UserError: naming the first missing ones and how many there are.
    """
    present = {folder: _names(folder, what, key) for folder in dict.fromkeys(path.parent for path in paths)}
    missing = [path for path in paths if path.name not in present[path.parent]]
    if missing:
        first = ", ".join(path.name for path in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise UserError(
            f"{len(missing)} of {len(paths)} {what} files are missing in {missing[0].parent}: {first}; check {key} or the list"
        )


def _names(folder: Path, what: str, key: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError as error:
        root = f"{key.partition('.')[0]}.root"
        raise UserError(f"{what} folder {folder} cannot be read ({error.strerror}); check {root} and {key}") from error
