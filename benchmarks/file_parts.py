"""The stages that work on files: threshold sweep and pseudo labels, one process each."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import plain_files
from benchmarks.l2g_inputs import write_files
from benchmarks.measure import Row, time_both
from benchmarks.sizes import Settings, Size
from configs.cam_schema import PseudoConfig
from configs.evaluation_schema import EvalConfig
from utils.cams.labels import LabelSource, write_pseudo_labels
from utils.cams.sweep import TRUTH, sweep
from utils.data.folder import DataFolder

CPU = torch.device("cpu")
# Images of a full VOC run (train_aug).
VOC_IMAGES = 10582
SWEEP_GOAL, GEN_GT_GOAL = 8, 3

Labels = dict[str, tuple[int, ...]]


def measure_sweep(s: Settings) -> Iterator[Row]:
    """Confusion matrices at five thresholds from CAM files."""
    thresholds = EvalConfig().thresholds
    for num_classes, root, labels in _file_sets(s.size):
        data, cams = _data(root, num_classes), root / "cams"
        plain = partial(plain_files.sweep, cams, data.label_dir, labels, num_classes, thresholds)
        ours = partial(_confusions, data, cams, labels, thresholds)
        difference = f"{int(np.abs(plain() - ours()).max())} pixels"
        timing = time_both(plain, ours, repeat=s.repeat, device=CPU).per_unit(len(labels))
        what = f"sweep of {len(thresholds)} thresholds, {_describe(s.size, num_classes)}"
        yield Row(what, timing, difference, goal=SWEEP_GOAL, runs=_runs(s.size, num_classes))


def _data(root: Path, num_classes: int, truth: str = "SegmentationClassAug") -> DataFolder:
    return DataFolder((root / "JPEGImages",), root / "Sal", root / truth, num_classes)


def _confusions(data: DataFolder, cams: Path, labels: Labels, thresholds: Sequence[float]) -> NDArray[np.int64]:
    histogram = sweep(data, cams, list(labels.items()), workers=1)[TRUTH]
    return np.stack([histogram.confusion(t) for t in thresholds])


def measure_gen_gt(s: Settings) -> Iterator[Row]:
    """Pseudo labels by the published rule from CAM files."""
    rule = PseudoConfig()
    for num_classes, root, labels in _file_sets(s.size):
        images, cams, theirs, mine = (root / name for name in ("JPEGImages", "cams", "plain_labels", "our_labels"))
        theirs.mkdir()
        mine.mkdir()
        source = LabelSource(_data(root, num_classes, truth="none"), cams, mine, rule)
        plain = partial(plain_files.gen_gt, images, cams, theirs, labels, num_classes, rule.threshold)
        ours = partial(write_pseudo_labels, source, list(labels.items()), workers=1)
        plain()
        ours()
        pairs = [[np.array(Image.open(folder / f"{name}.png")) for folder in (theirs, mine)] for name in labels]
        difference = f"{sum(np.count_nonzero(a != b) for a, b in pairs)} pixels"
        timing = time_both(plain, ours, repeat=s.repeat, device=CPU).per_unit(len(labels))
        what = f"gen_gt, {_describe(s.size, num_classes)}"
        yield Row(what, timing, difference, goal=GEN_GT_GOAL, runs=_runs(s.size, num_classes))


def _file_sets(size: Size) -> Iterator[tuple[int, Path, Labels]]:
    """Yield (C, folder, id -> classes) of a VOC-like and a COCO-like set; each is removed when the next is asked for."""
    for num_classes in (20, 80):
        with tempfile.TemporaryDirectory(prefix="l2g_speed_") as folder:
            yield num_classes, Path(folder), write_files(Path(folder), size.files, size.file_size, num_classes)


def _describe(size: Size, num_classes: int) -> str:
    return f"{size.file_size[0]}x{size.file_size[1]}, C={num_classes}, per image"


def _runs(size: Size, num_classes: int) -> int:
    return VOC_IMAGES if size.full and num_classes == 20 else 0
