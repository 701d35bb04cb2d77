"""COCO's run-length codes as NumPy arrays: runs are painted straight, without a full-size mask for every outline."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The compressed form: characters from '0' on, 5 bits of a number each, lowest first; bit 5 says that more follow, bit 4 of the
# last one is the sign. From the fourth on, numbers are differences to the one two places before.
_FIRST_CHARACTER = ord("0")
_BITS, _VALUE, _MORE, _SIGN = 5, 0x1F, 0x20, 0x10


def run_lengths(counts: bytes | str | Sequence[int]) -> NDArray[np.int64]:
    """Return lengths of runs, column after column, of pixels outside and inside in turn (outside first).

    Args:
        counts: the "counts" of a run-length code, compressed (bytes or text) or as numbers.

    Raises:
        ValueError: for a compressed text that is cut off or has other characters.
    """
    if not isinstance(counts, bytes | str):
        return np.asarray(counts, np.int64)
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    last = (digits & _MORE) == 0
    if not len(digits) or not last[-1] or digits.min() < 0 or digits.max() > (_VALUE | _MORE):
        raise ValueError("a damaged run-length code")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    shifts = _BITS * (np.arange(len(digits)) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((digits & _VALUE) << shifts, starts)
    numbers -= np.where(digits[ends] & _SIGN, np.int64(1) << (_BITS * sizes), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def paint_runs(canvas: NDArray[np.uint8], counts: bytes | str | Sequence[int], value: int) -> None:
    """Set the pixels of a run-length code to `value`.

    Args:
        canvas: (H * W,) column-major pixels, changed in place.
        counts: see `run_lengths`.
        value: 0 to 255.

    Raises:
        ValueError: when the code is damaged or not of this many pixels.
    """
    lengths = run_lengths(counts)
    edges = np.cumsum(lengths)
    if not len(edges) or edges[-1] != canvas.size or lengths.min() < 0:
        raise ValueError(f"a run-length code of {edges[-1] if len(edges) else 0} pixels, expected {canvas.size}")
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=False):
        canvas[start:end] = value
