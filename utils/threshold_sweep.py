"""Count CAM PNGs against ground truth, in portions that run on many processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.cam_files import LabelledId, cam_path, chunked
from utils.images import read_cam, read_label_map
from utils.joint_histogram import JointHistogram
from utils.parallel import map_progress

CHUNK = 16


@dataclass(frozen=True)
class SweepInput:
    """Where the images of a sweep are: `<cam_dir>/<id>_<class>.png` and `<label_dir>/<id>.png`."""

    cam_dir: Path
    label_dir: Path
    num_classes: int


def sweep(source: SweepInput, tasks: Sequence[LabelledId], *, workers: int) -> JointHistogram:
    """Count all images on `workers` processes (0: one per core).

    Raises:
        UserError: naming a file that is missing, damaged, of the wrong size or with labels out of range.
    """
    total = JointHistogram(source.num_classes)
    what = f"evaluate ({CHUNK} images each)"
    for positions, counts in map_progress(partial(count_chunk, source), chunked(tasks, CHUNK), workers=workers, what=what):
        total.merge_sparse(positions, counts)
    return total


def count_chunk(source: SweepInput, tasks: Sequence[LabelledId]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count a few images in this process; returns `JointHistogram.to_sparse` of their sum."""
    histogram = JointHistogram(source.num_classes)
    for image_id, classes in tasks:
        ground_truth = read_label_map(source.label_dir / f"{image_id}.png", source.num_classes)
        height, width = ground_truth.shape
        cams = [read_cam(cam_path(source.cam_dir, image_id, c), (width, height)) for c in classes]
        histogram.add(ground_truth, classes, cams)
    return histogram.to_sparse()
