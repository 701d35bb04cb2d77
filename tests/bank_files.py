"""A foreground bank written by the tests themselves."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.data.images import write_png
from utils.data.paste import BankEntry, write_index


def write_cutout(
    folder: Path, class_index: int, name: str, image: NDArray[np.uint8], mask: NDArray[np.bool_], saliency: NDArray[np.uint8]
) -> BankEntry:
    """Write one object and return its entry of the index."""
    height, width = mask.shape
    entry = BankEntry(class_index, name, (0, 0, width, height), int(mask.sum()), float(mask.mean()), 1.0)
    write_png(folder / entry.file, np.dstack([image, mask.astype(np.uint8) * np.uint8(255)]))
    write_png(folder / entry.saliency_file, saliency)
    return entry


def write_tiny_bank(folder: Path, classes: tuple[int, ...] = (0, 1, 2), side: int = 14) -> Path:
    """Write a bank of one bright salient square a class."""
    full = np.full((side, side), 255, np.uint8)
    entries = []
    for k in classes:
        image = np.full((side, side, 3), 40, np.uint8)
        image[..., k % 3] = 250
        entries.append(write_cutout(folder, k, f"square_{k}", image, full > 0, full))
    write_index(folder, entries, {})
    return folder
