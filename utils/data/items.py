"""The segmentation stage's images with their label maps, by split, and what keeps a training from ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.deeplab_schema import DatasetConfig
from utils.data.folder import first_names, missing_files
from utils.data.images import read_label_map
from utils.data.lists import file_of, read_paths
from utils.errors import UserError

# Places lists are looked for, below dataset.root: published ones, and what gives ids alone (of COCO that is all there is).
LIST_PLACES = ("{}.txt", "ImageSets/SegmentationAug/{}.txt", "ImageSets/Segmentation/{}.txt", "List/{}.txt", "{}_cls.txt")
# Where the published programs look first, from the working directory, by the beginning of dataset.name.
PUBLISHED_PLACES = {"voc": "data/datasets/voc12/{}.txt", "coco": "data/datasets/coco/{}.txt"}
STUFF = "cocostuff"
# Users of the published files name splits that only exist under the other name.
ALIASES = {"val_aug": "val", "val": "val_aug"}
# Folders that hold ground truth in published layouts, whatever dataset.truth_dir says. CDL has pseudo labels renamed to one of
# these for training, and the real ones put back for testing; here each split has a folder of its own.
TRUTH_NAMES = ("SegmentationClassAug", "SegmentationClass", "coco_seg_anno")
# Label maps compared with the ground truth; where all of them are the same, labels are taken to be a copy of it.
COMPARED = 32


@dataclass(frozen=True)
class Item:
    """One image, its label map (None: not given) and its id, the file name without suffix.

    `others`: label maps of further sets; `truth`: ground truth beside pseudo labels, None where there is none.
    """

    image_id: str
    image: Path
    labels: Path | None
    others: tuple[Path, ...] = ()
    truth: Path | None = None


def training_items(dataset: DatasetConfig, *, fully_supervised: bool) -> tuple[list[Item], list[Path]]:
    """Return the training images with where their labels are, and the folders these come from.

    Raises:
        UserError: for an unreadable list, and when labels come from a ground-truth folder without `fully_supervised`.
    """
    items = _read(dataset, find_list(dataset, dataset.train_list, dataset.split.train))
    names = dataset.label_dirs or ([dataset.label_dir] if dataset.label_dir else [])
    folders = [_label_folder(dataset, name) for name in names]
    if folders:
        items = [_relabelled(item, folders) for item in items]
    if any(item.labels is None for item in items):
        raise UserError(f"the list of {dataset.split.train} has images without labels; set dataset.label_dir")
    folders = folders or list(dict.fromkeys(item.labels.parent for item in items if item.labels))
    if not fully_supervised:
        _refuse_truth_names(dataset, folders)
    truths = _truths(dataset, items)
    return [replace(item, truth=truth) for item, truth in zip(items, truths, strict=True)], folders


def labelled_items(dataset: DatasetConfig, items: list[Item], *, fully_supervised: bool) -> list[Item]:
    """Return the training images whose label maps are all there: all images, unless `dataset.allow_missing_labels`.

    Raises:
        UserError: when there are fewer, and when labels are a copy of the ground truth without `fully_supervised`.
    """
    found = _labelled(dataset, items)
    if not fully_supervised:
        _refuse_truth(found)
    return found


def evaluation_items(dataset: DatasetConfig, *, unlabelled: bool = False) -> list[Item]:
    """Return the images of split.val with ground truth, or of split.test without (`unlabelled`)."""
    if unlabelled:
        found = find_list(dataset, dataset.val_list, dataset.split.test)
        return [Item(item.image_id, item.image, None) for item in _read(dataset, found)]
    return _read(dataset, find_list(dataset, dataset.val_list, dataset.split.val))


def find_list(dataset: DatasetConfig, given: str, split: str) -> Path:
    """Return the list: the one given, or `<split>.txt` in the first of the usual places. Raises UserError naming these."""
    if given:
        return Path(given)
    for name in (split, ALIASES.get(split, split)):
        if found := next((path for path in _places(dataset, name) if path.is_file()), None):
            return found
    if dataset.name.lower().startswith(STUFF):
        raise UserError(
            f"dataset.name is {dataset.name}, and COCO-Stuff is not read as it comes (folders without lists, .mat labels of "
            "the 10k set); set dataset.train_list / dataset.val_list to lists of '/images/<split>/<id>.jpg "
            "/annotations/<split>/<id>.png' lines, labels as PNGs"
        )
    places = ", ".join(map(str, _places(dataset, split)))
    raise UserError(f"no list of split '{split}' found (looked for {places}); set dataset.train_list / dataset.val_list")


def _places(dataset: DatasetConfig, split: str) -> list[Path]:
    name = dataset.name.lower()
    starts = [] if name.startswith(STUFF) else [start for start in PUBLISHED_PLACES if name.startswith(start)]
    published = [Path(PUBLISHED_PLACES[start].format(split)) for start in starts]
    return published + [Path(dataset.root, where.format(split)) for where in LIST_PLACES]


def _read(dataset: DatasetConfig, path: Path) -> list[Item]:
    root = Path(dataset.root)
    items = []
    for image_id, paths in read_paths(path, root).items():
        image, labels = paths or (root / dataset.image_dir, root / dataset.truth_dir)
        items.append(Item(image_id, file_of(image, image_id, ".jpg"), file_of(labels, image_id, ".png") if labels else None))
    return items


def _label_folder(dataset: DatasetConfig, name: str) -> Path:
    """A label folder is relative to the root; outputs of a run are named from the working directory."""
    inside = Path(dataset.root, name)
    return inside if inside.is_dir() or not Path(name).is_dir() else Path(name)


def _relabelled(item: Item, folders: Sequence[Path]) -> Item:
    first, *others = (folder / f"{item.image_id}.png" for folder in folders)
    return replace(item, labels=first, others=tuple(others))


def _truths(dataset: DatasetConfig, items: Sequence[Item]) -> list[Path | None]:
    """Return the ground truth of each image, None where there is none."""
    paths = [file_of(Path(dataset.root, dataset.truth_dir), item.image_id, ".png") for item in items]
    try:
        missing = set(missing_files(paths, "ground truth", "dataset.truth_dir"))
    except UserError:  # no such folder
        return [None] * len(items)
    return [None if path in missing else path for path in paths]


def _labelled(dataset: DatasetConfig, items: list[Item]) -> list[Item]:
    """Return the images that have all their label maps, if that is allowed to be less than all images."""
    wanted = [path for item in items for path in (item.labels, *item.others) if path]
    missing = missing_files(wanted, "label map", "dataset.root and dataset.label_dir")
    if not missing:
        return items
    lacking = {path.stem for path in missing}
    left = [item for item in items if item.image_id not in lacking]
    if not left:
        raise UserError(
            f"{missing[0].parent} holds no label map of the {len(items)} images of {dataset.split.train} (<id>.png expected); "
            "make them first, or check dataset.label_dir"
        )
    if not dataset.allow_missing_labels:
        raise UserError(
            f"{len(missing)} of {len(wanted)} label map files are missing in {missing[0].parent}: {first_names(missing)}; "
            f"check dataset.label_dir or the list, or train on the {len(left)} of {len(items)} images that have labels with "
            "dataset.allow_missing_labels=true"
        )
    return left


def _refuse_truth_names(dataset: DatasetConfig, folders: Sequence[Path]) -> None:
    names = {*TRUTH_NAMES, Path(dataset.truth_dir).name}
    for folder in folders:
        if not names.isdisjoint((folder.name, folder.resolve().name)):
            raise _is_truth(folder, "which is ground truth")


def _refuse_truth(items: Sequence[Item]) -> None:
    """Refuse labels that are a copy of the ground truth under another name."""
    known = [item for item in items if item.truth is not None]
    for number in range(1 + len(known[0].others) if known else 0):
        pairs = [((item.labels, *item.others)[number], item.truth) for item in known[:: max(1, len(known) // COMPARED)]]
        if all(labels and truth and _same_map(labels, truth) for labels, truth in pairs):
            first = pairs[0][0]
            raise _is_truth(
                first.parent if first else Path(), f"where {len(pairs)} of {len(pairs)} maps compared are ground truth"
            )


def _same_map(labels: Path, truth: Path) -> bool:
    if labels.read_bytes() == truth.read_bytes():
        return True
    try:
        return np.array_equal(read_label_map(labels, 254), read_label_map(truth, 254))
    except UserError:  # told where it is read to be trained on
        return False


def _is_truth(folder: Path, why: str) -> UserError:
    return UserError(
        f"training labels come from {folder}, {why}; set dataset.label_dir to the pseudo labels (e.g. "
        "dataset.label_dir=pseudo_seg_labels), or fully_supervised=true if that is what you want"
    )
