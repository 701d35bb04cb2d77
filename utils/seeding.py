"""Every random draw follows from (seed, epoch, position): a resumed run continues as the stopped one would have.

Draws for a sample depend on its position in the whole list, not on the rank or the worker that makes it, so 1 and N
processes see identical samples. Draws inside the network (dropout) differ between ranks, which hold different samples.
"""

import random
from dataclasses import dataclass

import numpy as np

# Keeps the streams of different purposes apart.
_SAMPLE, _STEP, _ORDER = range(3)
_WORDS = 8


@dataclass(frozen=True)
class SampleRng:
    """The two generators the published transforms draw from: NumPy for boxes and colours, Python for crop offsets."""

    numpy: np.random.RandomState
    python: random.Random


def sample_rng(seed: int, epoch: int, index: int) -> SampleRng:
    """Return the generators of one sample.

    Args:
        seed: of the run, >= 0.
        epoch: 0-based.
        index: position of the image in the list, 0-based, the same on every rank.
    """
    words = np.random.SeedSequence((_SAMPLE, seed, epoch, index)).generate_state(_WORDS)
    half = _WORDS // 2
    return SampleRng(np.random.RandomState(words[:half]), random.Random(words[half:].tobytes()))  # noqa: NPY002


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Return the seed, below 2^63, for what the network draws in one step of one process (dropout)."""
    return int(np.random.SeedSequence((_STEP, seed, epoch, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Return the shuffled order of `count` samples in an epoch, the same on every rank."""
    order: list[int] = np.random.default_rng((_ORDER, seed, epoch)).permutation(count).tolist()
    return order
