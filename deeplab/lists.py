"""Which images, labels and folders a split of the segmentation stage stands for."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from configs.deeplab_schema import DatasetConfig
from utils.errors import UserError
from utils.lists import list_lines

# Places lists are looked for, below dataset.root; the first three are published ones.
LIST_PLACES = ("{}.txt", "ImageSets/SegmentationAug/{}.txt", "ImageSets/Segmentation/{}.txt")
# Users of the published files name splits that only exist under the other name.
ALIASES = {"val_aug": "val", "val": "val_aug"}
TRUTH_NAMES = ("SegmentationClassAug", "SegmentationClass")


@dataclass(frozen=True)
class Item:
    """One image, its label map (None: not given) and its id, the file name without suffix."""

    image_id: str
    image: Path
    labels: Path | None


def training_items(dataset: DatasetConfig, *, fully_supervised: bool) -> tuple[list[Item], Path]:
    """Return the training images with their labels, and the folder these come from.

    Raises:
        UserError: for an unreadable list, and when labels come from the ground-truth folder without `fully_supervised`.
    """
    items = _read(dataset, find_list(dataset, dataset.train_list, dataset.split.train))
    if dataset.label_dir:
        folder = _label_folder(dataset)
        items = [Item(item.image_id, item.image, folder / f"{item.image_id}.png") for item in items]
    first = items[0].labels
    if first is None:
        raise UserError(f"the list of {dataset.split.train} has images without labels; set dataset.label_dir")
    folder = first.parent
    if not fully_supervised and (folder.name in TRUTH_NAMES or folder.name == Path(dataset.truth_dir).name):
        raise UserError(
            f"training labels come from {folder}, which is ground truth; set dataset.label_dir to the pseudo labels (e.g. "
            "dataset.label_dir=pseudo_seg_labels), or fully_supervised=true if that is what you want"
        )
    return items, folder


def evaluation_items(dataset: DatasetConfig, *, unlabelled: bool = False) -> list[Item]:
    """Return the images of split.val with ground truth, or of split.test without (`unlabelled`)."""
    if unlabelled:
        found = find_list(dataset, dataset.val_list, dataset.split.test)
        return [Item(item.image_id, item.image, None) for item in _read(dataset, found)]
    return _read(dataset, find_list(dataset, dataset.val_list, dataset.split.val))


def find_list(dataset: DatasetConfig, given: str, split: str) -> Path:
    """Return the list file: the one given, or `<split>.txt` in the first of the usual places that has it.

    Raises:
        UserError: when there is none, naming the places.
    """
    if given:
        return Path(given)
    for name in (split, ALIASES.get(split, split)):
        for place in LIST_PLACES:
            path = Path(dataset.root, place.format(name))
            if path.is_file():
                return path
    places = ", ".join(str(Path(dataset.root, place.format(split))) for place in LIST_PLACES)
    raise UserError(f"no list of split '{split}' found (looked for {places}); set dataset.train_list / dataset.val_list")


def _read(dataset: DatasetConfig, path: Path) -> list[Item]:
    root = Path(dataset.root)
    items: dict[str, Item] = {}
    for place, fields in list_lines(path):
        if "/" in fields[0]:
            item = _of_paths(root, fields, place)
        else:
            image_id = fields[0]
            labels = root / dataset.truth_dir / f"{image_id}.png"
            item = Item(image_id, root / dataset.image_dir / f"{image_id}.jpg", labels)
        if item.image_id in items:
            raise UserError(f"{place}: id '{item.image_id}' is there twice; remove one of its lines")
        items[item.image_id] = item
    return list(items.values())


def _of_paths(root: Path, fields: list[str], place: str) -> Item:
    form = "'/<folder>/<id>.jpg /<folder>/<id>.png'"
    if len(fields) > 2:
        raise UserError(f"{place}: {len(fields)} entries, expected {form}")
    paths = [PurePosixPath(field.removeprefix("/")) for field in fields]
    for path in paths:
        if ".." in path.parts or path.is_absolute():
            raise UserError(f"{place}: '{path}' leaves the data folder; expected {form}")
    if len({path.stem for path in paths}) != 1:
        raise UserError(f"{place}: paths of different images, '{' '.join(fields)}'; expected {form} with one id")
    return Item(paths[0].stem, root / paths[0], root / paths[1] if len(paths) == 2 else None)


def _label_folder(dataset: DatasetConfig) -> Path:
    """`dataset.label_dir` is relative to the root; outputs of a run are named from the working directory."""
    inside = Path(dataset.root, dataset.label_dir)
    return inside if inside.is_dir() or not Path(dataset.label_dir).is_dir() else Path(dataset.label_dir)
