"""Where a data set's images and saliency maps are, and whether all of them are there."""

import os
from collections.abc import Iterable
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
    _check_files(Path(data.root, data.image_dir), [f"{i}.jpg" for i in ids], "image", "data.image_dir")


def check_saliency(data: DataConfig, ids: Iterable[str]) -> None:
    """Check that every saliency map is there, as `check_images` does."""
    _check_files(Path(data.root, data.saliency_dir), [f"{i}.png" for i in ids], "saliency map", "data.saliency_dir")


def _check_files(folder: Path, names: list[str], what: str, key: str) -> None:
    # One listing: a look at each of 80 000 files would take minutes on a network disk.
    try:
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries}
    except OSError as error:
        raise UserError(f"{what} folder {folder} cannot be read ({error.strerror}); check data.root and {key}") from error
    missing = [name for name in names if name not in present]
    if missing:
        first = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise UserError(
            f"{len(missing)} of {len(names)} {what} files are missing in {folder}: {first}; check {key} or the list"
        )
