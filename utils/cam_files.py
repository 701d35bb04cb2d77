"""The folder of CAM PNGs two stages exchange: names, and which images and classes to expect in it."""

import os
from collections.abc import Sequence
from pathlib import Path

from configs.schema import Config
from utils.errors import UserError
from utils.lists import read_id_list, read_label_list

# An image id and its present classes, 0-based ascending.
LabelledId = tuple[str, tuple[int, ...]]


def cam_path(folder: Path, image_id: str, class_index: int) -> Path:
    """Return `<folder>/<id>_<class>.png`, class 0-based."""
    return folder / f"{image_id}_{class_index}.png"


def read_labelled_ids(cfg: Config, cam_dir: Path) -> list[LabelledId]:
    """Return the ids of `data.eval_list` with their classes, joined by id; checks that every CAM file is there.

    (The published programs joined by line number with a fixed list, which paired images with other images' labels.)
    Classes come from `data.label_list`, or with `cam.labels=predict` from the CAM files themselves.

    Raises:
        UserError: for a list that cannot be used, an id without a line in the label list, or missing CAM files.
    """
    ids = read_id_list(Path(cfg.data.eval_list))
    if cfg.cam.labels == "predict":
        found = classes_on_disk(cam_dir, cfg.data.num_classes)
        return [(image_id, found.get(image_id, ())) for image_id in ids]
    labels = read_label_list(Path(cfg.data.label_list), cfg.data.num_classes, labels_required=False)
    unknown = [image_id for image_id in ids if image_id not in labels]
    if unknown:
        raise UserError(
            f"{cfg.data.label_list} has no line for '{unknown[0]}' of {cfg.data.eval_list} ({len(unknown)} such ids); "
            "set data.label_list to a list that covers data.eval_list"
        )
    tasks = [(image_id, labels[image_id]) for image_id in ids]
    _check_cams(cam_dir, tasks, _file_names(cam_dir))
    return tasks


def classes_on_disk(folder: Path, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return id -> ascending classes (0-based) of the CAM files in a folder, ids sorted.

    Raises:
        UserError: when the folder cannot be read.
    """
    found: dict[str, list[int]] = {}
    for name in _file_names(folder):
        image_id, _, class_index = name.removesuffix(".png").rpartition("_")
        if name.endswith(".png") and class_index.isascii() and class_index.isdigit() and int(class_index) < num_classes:
            found.setdefault(image_id, []).append(int(class_index))
    return {image_id: tuple(sorted(found[image_id])) for image_id in sorted(found)}


def chunked(tasks: Sequence[LabelledId], size: int) -> list[tuple[LabelledId, ...]]:
    """Cut `tasks` into runs of `size` (the last may be shorter), the portions worker processes take."""
    return [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]


def _file_names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise UserError(
            f"CAM folder {folder} cannot be read ({error.strerror}); run scripts.test_l2g first or set the cam_dir key"
        ) from error


def _check_cams(folder: Path, tasks: Sequence[LabelledId], names: set[str]) -> None:
    missing = [path for i, classes in tasks for c in classes if (path := cam_path(folder, i, c)).name not in names]
    if missing:
        raise UserError(
            f"CAM file {missing[0]} is missing ({len(missing)} missing in all); run scripts.test_l2g on a data.infer_list "
            "that covers data.eval_list"
        )
