"""Scores of single images, and the choice of those worth looking at."""

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.cams.labels import fuse_threshold
from utils.cams.store import map_path, read_cams
from utils.data.classes import BACKGROUND, IGNORE, label_value
from utils.data.folder import DataFolder
from utils.data.images import image_size, read_label_map
from utils.data.lists import read_id_list
from utils.errors import UserError
from utils.evaluation.metrics import confusion_matrix, score
from utils.evaluation.scores import number_or_none
from utils.report.run import Run, Stage
from utils.runtime.parallel import map_progress

LabelMap = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageTask:
    """An image of a split, and what the stages have of it."""

    image_id: str
    split: str
    stages: tuple[str, ...]
    classes: tuple[int, ...] = ()  # 0-based, those with a CAM


@dataclass(frozen=True)
class StageScore:
    """IoU of one stage on one image: the mean, and by label value; over labels that it or the ground truth holds."""

    mean: float | None
    by_value: Mapping[int, float]


@dataclass(frozen=True)
class ImageScores:
    """What is known of one image: label values in the ground truth or (without one) the stages; scores by stage key."""

    task: ImageTask
    values: tuple[int, ...]
    scores: Mapping[str, StageScore] = field(default_factory=dict)

    def last_mean(self) -> float | None:
        """Return the mean IoU of the last stage of the pipeline that has one."""
        means = [s.mean for s in self.scores.values() if s.mean is not None]
        return means[-1] if means else None


@dataclass(frozen=True)
class Pictures:
    """Everything needed to read the maps of an image: the data set, its label names, and the stages that made maps by key."""

    data: DataFolder
    names: Sequence[str]
    stages: Mapping[str, Stage]

    @property
    def num_classes(self) -> int:
        """Return C, background not counted."""
        return len(self.names) - 1

    def label_map(self, key: str, task: ImageTask) -> LabelMap:
        """Return the (H, W) label map a stage made of an image. Raises UserError naming a file that does not fit."""
        size, threshold = image_size(self.image_path(task.image_id)), self.stages[key].card.threshold
        if threshold is None:
            return read_label_map(self.map_files(key, task)[0], self.num_classes, size)
        return fuse_threshold(task.classes, self.cams(key, task), size[::-1], threshold)

    def cams(self, key: str, task: ImageTask) -> list[LabelMap]:
        """Return the 8-bit maps (H, W) of the image's classes a stage made."""
        size = image_size(self.image_path(task.image_id))
        return read_cams(Path(self.stages[key].card.maps), task.image_id, task.classes, size)

    def map_files(self, key: str, task: ImageTask) -> tuple[Path, ...]:
        """Return the files `label_map` reads: one label map, or a CAM for each class; of a stage with pictures, these."""
        card = self.stages[key].card
        if card.pictures:
            found = sorted(Path(card.pictures).glob(f"{glob.escape(task.image_id)}_*.png"))
            return tuple(path for path in found if path.stem.rpartition("_")[0] == task.image_id)
        if card.threshold is None:
            return (Path(card.maps, f"{task.image_id}.png"),)
        return tuple(map_path(Path(card.maps), task.image_id, k) for k in task.classes)

    def shows(self, key: str) -> bool:
        """Return whether a stage has pictures of its own to show, and no maps."""
        return bool(self.stages[key].card.pictures)

    def class_shown(self, path: Path) -> int:
        """Return the class (0-based) of a picture that a stage drew.

        Raises:
            UserError: for another name, or a class that the data set has not.
        """
        number = path.stem.rpartition("_")[2]
        if not number.isdigit() or int(number) >= self.num_classes:
            raise UserError(f"{path} is no <id>_<class>.png of one of {self.num_classes} classes; remove it")
        return int(number)

    def truth(self, image_id: str) -> LabelMap | None:
        """Return the ground truth, None where there is none."""
        path = self.data.truth(image_id)
        return read_label_map(path, self.num_classes) if path.exists() else None

    def image_path(self, image_id: str) -> Path:
        """Return the photo's file."""
        return self.data.image(image_id)


def pictures_of(run: Run, keys: Sequence[str] | None = None) -> Pictures | None:
    """Return what reads a run's maps, of the stages `keys` or all; None where its data set or its labels are not known."""
    if run.data is None or not run.names:
        return None
    stages = {stage.card.key: stage for stage in run.drawn if keys is None or stage.card.key in keys}
    return Pictures(run.data, run.names, stages)


def find_images(pictures: Pictures) -> list[ImageTask]:
    """Return the images at least one stage has maps of, by split in the order of its list; each image once.

    An image in several splits stands in the first, with the stages of all of them (but the CAMs of one).
    """
    stages = pictures.stages
    on_disk = {key: stage.images(pictures.num_classes) for key, stage in stages.items()}
    present = {*pictures.data.image_ids()}
    tasks: dict[str, ImageTask] = {}
    for split in dict.fromkeys(stage.card.split for stage in stages.values()):
        for image_id in _ids_of([stage for stage in stages.values() if stage.card.split == split], on_disk):
            keys = [key for key in stages if image_id in on_disk[key]]
            cam = next((key for key in keys if on_disk[key][image_id]), None)
            if image_id in present and image_id not in tasks and keys:
                kept = tuple(key for key in keys if key == cam or not on_disk[key][image_id])
                tasks[image_id] = ImageTask(image_id, split, kept, on_disk[cam][image_id] if cam else ())
    return list(tasks.values())


def score_images(pictures: Pictures, tasks: Sequence[ImageTask], *, workers: int) -> list[ImageScores]:
    """Score every stage's maps of each image, on `workers` processes (0: one per core). Raises UserError as `label_map`."""
    return list(map_progress(partial(score_image, pictures), tasks, workers=workers, what="score images"))


def score_image(pictures: Pictures, task: ImageTask) -> ImageScores:
    """Compare the stages' label maps of one image with the ground truth; stages with pictures say their scores."""
    truth = pictures.truth(task.image_id)
    maps = {key: pictures.label_map(key, task) for key in task.stages if not pictures.shows(key)}
    scores = {}
    for key in task.stages:
        if key in maps and truth is not None:
            result = score(confusion_matrix(truth, maps[key], pictures.num_classes))
            by_value = {value: round(float(iou), 4) for value, iou in enumerate(result.iou) if not np.isnan(iou)}
            scores[key] = StageScore(number_or_none(round(float(result.mean_iou), 4)), by_value)
        elif key not in maps and (known := pictures.stages[key].card.image_scores.get(task.image_id)) is not None:
            scores[key] = StageScore(known, {})
    if truth is not None:
        return ImageScores(task, _values([truth]), scores)
    shown = [pictures.class_shown(path) for key in task.stages if key not in maps for path in pictures.map_files(key, task)]
    return ImageScores(task, _values([*maps.values(), np.array([label_value(k) for k in shown], np.uint8)]), scores)


def spread(items: Sequence[ImageTask], most: int) -> list[ImageTask]:
    """Return at most `most` items, evenly spread over the sequence."""
    if len(items) <= most:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, most)]


def choose(scored: Sequence[ImageScores], most: int) -> list[ImageScores]:
    """Return at most `most` images, worst first: a third the worst, a third the best, the rest evenly between.

    Splits get equal shares. Images are ranked by the last stage; those without a score come after the others.
    """
    splits = dict.fromkeys(item.task.split for item in scored)
    # The smallest first, so that what it does not need goes to the others.
    groups = sorted(([i for i in scored if i.task.split == split] for split in splits), key=len)
    chosen: list[ImageScores] = []
    for position, group in enumerate(groups):
        share = (most - len(chosen)) // (len(groups) - position)
        ranked = sorted(group, key=_rank)
        chosen += [ranked[i] for i in _ends_and_middle(len(ranked), share)]
    return sorted(chosen, key=_rank)


def _ends_and_middle(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    end = most // 3
    middle = np.linspace(end, count - end - 1, most - 2 * end).astype(int).tolist()
    return sorted({*range(end), *middle, *range(count - end, count)})


def _rank(item: ImageScores) -> tuple[bool, float]:
    mean = item.last_mean()
    return mean is None, mean or 0.0


def _ids_of(stages: Sequence[Stage], on_disk: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the ids of a split: its list's where there is one, else those on disk in order."""
    listed = [path for stage in stages if (path := Path(stage.card.list_file)).is_file()]
    return read_id_list(listed[0]) if listed else sorted(set().union(*(on_disk[stage.card.key] for stage in stages)))


def _values(maps: Iterable[LabelMap]) -> tuple[int, ...]:
    found = {int(value) for labels in maps for value in np.unique(labels)}
    return tuple(sorted(found - {BACKGROUND, IGNORE}))
