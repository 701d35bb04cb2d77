"""Time boxes of maps at all 256 thresholds beside one threshold and beside a plain loop over thresholds, in one run.

    python -m benchmarks.boxes_speed [--maps 100]

Maps are drawn: 14 x 14 cells brought to 224 x 224 pixels, as those of TS-CAM; reading and stretching them is not in the times.
Prints milliseconds of CPU time a map and ratios; the counts of both ways are compared.
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.evaluation.boxes import OVERLAPS, RIGHT, BestThreshold, grey_map, largest_box, overlaps

SIZE, CELLS, LEVELS = (224, 224), 14, 256
TRUTH = np.array([[60, 50, 170, 180]])


def _maps(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    noise = [cv2.GaussianBlur(rng.normal(size=(CELLS, CELLS)), (0, 0), 1.5) for _ in range(count)]
    return [grey_map(np.asarray(cells, np.float32).clip(0), SIZE) for cells in noise]


def _each(work: Callable[[NDArray[np.uint8]], object], maps: list[NDArray[np.uint8]]) -> float:
    """Return milliseconds a map, the best of three rounds."""
    rounds = []
    for _ in range(3):
        started = time.process_time()
        for grey in maps:
            work(grey)
        rounds.append(1000 * (time.process_time() - started) / len(maps))
    return min(rounds)


def _right_at(grey: NDArray[np.uint8], level: int) -> bool:
    found = largest_box(np.where(grey > level, np.uint8(255), np.uint8(0)), 0.0)
    return bool(overlaps(np.array([found]), TRUTH)[0].max() >= RIGHT)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=100)
    maps = _maps(parser.parse_args().maps)
    best, plain = BestThreshold(), np.zeros(LEVELS, np.int64)
    for grey in maps:
        best.add(grey, TRUTH)
        plain += [_right_at(grey, level) for level in range(LEVELS)]
    same = np.array_equal(plain, best.largest[OVERLAPS.index(RIGHT)])
    one = _each(lambda grey: largest_box(grey, 0.1), maps)
    every = _each(lambda grey: BestThreshold().add(grey, TRUTH), maps)
    loop = _each(lambda grey: [_right_at(grey, level) for level in range(LEVELS)], maps[: max(1, len(maps) // 5)])
    print(f"one threshold {one:.3f} ms a map; all {LEVELS}: {every:.2f} ms, {every / one:.0f} times that")
    print(f"plain loop over {LEVELS} thresholds {loop:.2f} ms, {loop / every:.1f} times all at once; equal counts: {same}")


if __name__ == "__main__":
    main()
