"""Logits on disk: float32 `.npy` as published, or half precision compressed."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import atomic_path

LOGIT_SUFFIXES = (".npy", ".npz")
KEY = "logits"  # of the archive that `write_logits` makes


def write_logits(folder: Path, image_id: str, logits: Tensor, kind: str) -> None:
    """Write (classes, h, w) logits as <id>.npy (kind npy) or <id>.npz (kind fp16).

    Raises:
        UserError: when the file cannot be written.
    """
    values = logits.float().cpu().numpy()
    path = folder / f"{image_id}.{'npy' if kind == 'npy' else 'npz'}"
    with atomic_path(path, sync=False) as temporary:
        if kind == "npy":
            np.save(temporary, values)
        else:
            np.savez_compressed(temporary, logits=values.astype(np.float16))


def find_logits(folder: Path, image_id: str) -> Path | None:
    """Return the file of an image's logits, of either kind, or None."""
    for suffix in LOGIT_SUFFIXES:
        path = folder / f"{image_id}{suffix}"
        if path.exists():
            return path
    return None


def read_logits(path: Path, n_classes: int) -> Tensor:
    """Return (n_classes, h, w) float32 logits.

    Raises:
        UserError: for a damaged file, or logits of another number of classes.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        values = loaded if isinstance(loaded, np.ndarray) else loaded[KEY]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"logits file {path} cannot be read ({error}); delete it and run `test` again") from error
    if values.ndim != 3 or values.shape[0] != n_classes or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise UserError(
            f"logits file {path} holds {values.dtype} of shape {values.shape}, expected finite floats of shape "
            f"({n_classes}, h, w); delete it and run `test` again"
        )
    return torch.from_numpy(values.astype(np.float32))
