"""Training checkpoints under the published names and in the published layout, for programs that expect those."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.files import atomic_path

# The published networks were wrapped in DataParallel, and its prefix stayed in their files.
PREFIX = "module."


def published_path(model_dir: Path, name: str, epoch: int) -> Path:
    """Return where the published program puts epoch `epoch` (0-based): `pascal_voc_epoch_9.pth`, `mscoco_epoch_14.pth`."""
    return model_dir / f"{name}_epoch_{epoch}.pth"


def save_published(
    path: Path, networks: Mapping[str, Mapping[str, Tensor]], optimizer: Mapping[str, Any], *, epoch: int, counter: int
) -> None:
    """Write `epoch`, `global_counter`, the networks and `optimizer`, as the published training scripts do.

    Args:
        path: see `published_path`.
        networks: `state_dict` (global) and `local_dict` -> entries under published names; `module.` is put before them.
        optimizer: its state dict; the order of groups and parameters is the published one for sgd.
        epoch: finished, 0-based.
        counter: batches done over all epochs.
    """
    prefixed = {key: {PREFIX + name: value for name, value in state.items()} for key, state in networks.items()}
    with atomic_path(path) as temporary:
        torch.save({"epoch": epoch, "global_counter": counter, **prefixed, "optimizer": dict(optimizer)}, temporary)
