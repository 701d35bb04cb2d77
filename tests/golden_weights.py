"""The weight recipe of the golden fixtures: values that depend on an entry's key and shape alone."""

import zlib
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch

from configs.schema import Config
from models.crt import Crt

Branches = TypeVar("Branches", bound=Crt)


def values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 values of one state-dict entry, from NumPy's frozen legacy stream seeded with crc32(key)."""
    size = int(np.prod(shape)) if shape else 1
    draws = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(size).reshape(shape)  # noqa: NPY002
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        out = 1.0 + 0.1 * np.abs(draws)
    elif leaf == "running_mean":
        out = 0.1 * draws
    elif len(shape) <= 1:
        out = 1.0 + 0.1 * draws if leaf == "weight" else 0.05 * draws
    else:
        out = draws * np.sqrt(1.0 / np.prod(shape[1:]))
    return np.asarray(out, dtype=np.float32)


def filled(state: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """Return `state` (published key names) with every floating-point entry replaced by the recipe's values."""
    return {
        key: torch.from_numpy(values(prefix + key, tuple(entry.shape))) if entry.is_floating_point() else entry
        for key, entry in state.items()
    }


def filled_branches(kind: type[Branches], cfg: Config) -> Branches:
    """Return CRT or its form for localisation with the recipe's weights; of names for the same tensor the first counts."""
    with torch.device("meta"):
        made = kind(cfg)
    made = made.to_empty(device="cpu")
    for network in (made.transformer, made.cnn):
        state = network.to_published(network.state_dict())
        plain = {k: v for k, v in state.items() if not k.startswith(("stage", "backbone.", "newly_added."))}
        network.load_state_dict(network.from_published(filled(plain)))
    return made
