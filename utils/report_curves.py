"""Scalars of a training, read from its TensorBoard files."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# More points than a figure's width can show are averaged.
MOST_POINTS = 400
# Everything that is not a scalar is read past.
_SIZES = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
_RATES = ("lr", "lr/")
# Speed, memory, and final scores written for the HPARAMS tab: no training curves.
_LEFT_OUT = ("images_per_second", "memory_gib", "loader_wait", "gpu/", "score/")

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass
class Curves:
    """Losses and learning rates of one training: name -> (steps, values)."""

    title: str
    losses: dict[str, Curve] = field(default_factory=dict)
    rates: dict[str, Curve] = field(default_factory=dict)


def read_curves(folder: Path, title: str) -> Curves:
    """Read the scalars of the event files in one folder; a resumed training's overtaken steps are left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # resuming is no reason for a warning
    accumulator = EventAccumulator(str(folder), _SIZES)
    accumulator.Reload()
    curves = Curves(title)
    for tag in accumulator.Tags()["scalars"]:
        name = tag.removeprefix("train/")
        if any(name.startswith(prefix) for prefix in _LEFT_OUT):
            continue
        events = accumulator.Scalars(tag)
        curve = thin(np.array([e.step for e in events], float), np.array([e.value for e in events], float))
        (curves.rates if name.startswith(_RATES) else curves.losses)[name.removeprefix("loss/")] = curve
    return curves


def thin(steps: NDArray[np.float64], values: NDArray[np.float64]) -> Curve:
    """Average neighbouring points until at most MOST_POINTS are left."""
    portions = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS))
    return np.array([steps[p].mean() for p in portions]), np.array([values[p].mean() for p in portions])
