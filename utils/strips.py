"""Going through an image in horizontal strips that stay in the processor's cache: several times faster for chains of
simple array operations, whose intermediate results would otherwise all travel through memory."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Pixels of a strip; a float32 plane of it is 128 KiB. Also below the sizes from which OpenCV would start threads, which
# must not happen before loader processes fork.
STRIP_PIXELS = 2**15


def strips(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield views of consecutive rows of `pixels` (H, W, ...), about `STRIP_PIXELS` pixels each."""
    rows = max(1, STRIP_PIXELS // max(1, pixels.shape[1]))
    for first in range(0, len(pixels), rows):
        yield pixels[first : first + rows]
