"""Run-length codes against pycocotools, and what happens to damaged ones."""

import numpy as np
import pytest

from utils.prepare.coco import paint_runs, run_lengths

coder = pytest.importorskip("pycocotools.mask")


@pytest.mark.parametrize("seed", range(12))
def test_codes_are_read_as_pycocotools_reads_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 300, 2))
    # Long runs (numbers of several characters), short ones, and masks that begin with an inside pixel.
    mask = np.repeat(rng.random(height * width) < rng.random(), int(rng.integers(1, 200)))[: height * width]
    mask = mask.reshape(width, height).T.astype(np.uint8)
    code = coder.encode(np.asfortranarray(mask))
    for counts in (code["counts"], code["counts"].decode(), run_lengths(code["counts"]).tolist()):
        canvas = np.full(height * width, 3, np.uint8)
        paint_runs(canvas, counts, 9)
        np.testing.assert_array_equal(canvas.reshape(width, height).T, np.where(mask, 9, 3))


@pytest.mark.parametrize(
    "counts",
    [b"", b"5o", b"\x00", "é", b"11", [4, 4], [20, -4, 4], []],
    ids=["empty", "cut", "low", "text", "2", "8", "neg", "no"],
)
def test_damaged_codes_are_refused(counts: bytes | str | list[int]) -> None:
    with pytest.raises(ValueError, match="run-length code|ascii"):
        paint_runs(np.zeros(20, np.uint8), counts, 1)
