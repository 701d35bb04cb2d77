"""The data folder: where anything of a data set is, by id, whether all of it is there, and what its masks show."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from configs.schema import DataConfig
from utils.data.classes import mask_classes
from utils.data.images import read_label_map
from utils.data.lists import Paths, file_of, holds_classes, holds_paths, ids_of, read_id_list, read_label_list, read_paths
from utils.errors import UserError
from utils.runtime.parallel import map_progress

_SHOWN = 3
# Masks a worker process takes at a time.
_CHUNK = 64
# Image-level labels, 0-based ascending, by id.
Labels = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class DataFolder:
    """Photos, saliency maps and ground truth of a data set; worker processes get it as it is.

    Attributes:
        image_dirs: folders of <id>.jpg, or names with {id} in them (`lists.file_of`); the first that has the file counts.
        saliency_dir: of <id>.png; None where none are used.
        label_dir: of ground truth <id>.png, or a name with {id} in it; it need not exist.
        num_classes: foreground classes.
        listed: id -> files (with {id}) of the images whose list says where they are; they come before the folders.
    """

    image_dirs: tuple[Path, ...]
    saliency_dir: Path | None
    label_dir: Path
    num_classes: int
    listed: Mapping[str, Paths] = field(default_factory=dict)

    @classmethod
    def of(cls, data: DataConfig, *lists: str, saliency: bool = True) -> "DataFolder":
        """Return the folder section `data` describes.

        Args:
            data: the section.
            lists: of the images at hand; with data.paths=lists the paths in them count, of an id in several those of the first.
            saliency: False: the maps are not used.

        Raises:
            UserError: for a list that cannot be read, or an image_dir that is neither text nor a list of texts.
        """
        root, names = Path(data.root), [data.image_dir] if isinstance(data.image_dir, str) else data.image_dir
        if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"data.image_dir is {data.image_dir}, expected a folder, a name with {{id}}, or a list of these")
        listed: dict[str, Paths] = {}
        for name in reversed(lists) if data.paths == "lists" else ():
            listed |= {image_id: paths for image_id, paths in read_paths(name, root).items() if paths}
        return cls(
            tuple(root / name for name in names),
            root / data.saliency_dir if saliency else None,
            root / data.label_dir,
            data.num_classes,
            listed,
        )

    def image(self, image_id: str) -> Path:
        """Return the photo."""
        if image_id in self.listed:
            return file_of(self.listed[image_id][0], image_id, ".jpg")
        found = [file_of(where, image_id, ".jpg") for where in self.image_dirs]
        return found[0] if len(found) == 1 else next((path for path in found if path.exists()), found[0])

    def image_ids(self) -> list[str]:
        """Return the ids of all photos that are there, sorted."""
        listed = (image_id for image_id in self.listed if self.image(image_id).exists())
        return sorted({*listed, *(i for where in self.image_dirs for i in ids_of(where, ".jpg"))})

    def saliency(self, image_id: str) -> Path:
        """Return the saliency map; where none are used there is no such file."""
        if self.saliency_dir is None:
            raise ValueError("this data folder has no saliency maps")
        return self.saliency_dir / f"{image_id}.png"

    def truth(self, image_id: str) -> Path:
        """Return the ground truth."""
        _, listed = self.listed.get(image_id, (None, None))
        return file_of(listed or self.label_dir, image_id, ".png")

    def check_images(self, ids: Iterable[str]) -> None:
        """Check that every image is there. Raises UserError naming the first missing ones and how many there are."""
        check_files([self.image(i) for i in ids], "image", "data.image_dir")

    def check_saliency(self, ids: Iterable[str]) -> None:
        """Check that every saliency map is there, as `check_images` does."""
        check_files([self.saliency(i) for i in ids], "saliency map", "data.saliency_dir")

    def refuse_output(self, folder: Path, key: str) -> None:
        """Refuse to write into a folder of inputs, whose files would be lost. Raises UserError naming the keys."""
        listed = set(self.listed.values())
        inputs: list[tuple[str, Path | None]] = [
            ("data.image_dir", where) for where in (*self.image_dirs, *(image for image, _ in listed))
        ]
        inputs += [("data.label_dir", where) for where in (self.label_dir, *(labels for _, labels in listed))]
        for name, where in (*inputs, ("data.saliency_dir", self.saliency_dir)):
            if where is not None and file_of(where, "id", ".png").parent.resolve() == folder.resolve():
                raise UserError(f"{key} {folder} is the folder of {name}, whose files would be lost; set another")


def check_files(paths: Sequence[Path], what: str, key: str) -> None:
    """Check that files are there, listing each folder once: 80 000 single looks would take minutes on a network disk.

    Args:
        paths: the files.
        what: what they are, for messages.
        key: configuration key that says where they are.

    Raises:
        UserError: naming the first missing ones and how many there are.
    """
    section = key.partition(".")[0]
    missing = missing_files(paths, what, f"{section}.root and {key}")
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} {what} files are missing in {missing[0].parent}: {first_names(missing)}; "
            f"check {key} or the list"
        )


def missing_files(paths: Sequence[Path], what: str, keys: str) -> list[Path]:
    """Return the files that are not there, in their order. Raises UserError as `check_files` does."""
    present = {folder: _names(folder, what, keys) for folder in dict.fromkeys(path.parent for path in paths)}
    return [path for path in paths if path.name not in present[path.parent]]


def first_names(paths: Sequence[Path]) -> str:
    """Return the names of the first few files, for messages."""
    return ", ".join(path.name for path in paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")


def _names(folder: Path, what: str, keys: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError as error:
        raise UserError(f"{what} folder {folder} cannot be read ({error.strerror}); check {keys}") from error


def read_labels(data: DataConfig, list_file: str, *, labels_required: bool = True) -> Labels:
    """Return the image-level labels of a list's images, in its order, from where `data.labels_from` says.

    Args:
        data: section `data`.
        list_file: '<id> <class> ...' lines; or of any other form `lists.read_paths` knows, bare ids among them, whose labels
            are then those of data.label_list.
        labels_required: False: an image may have none, and none are looked for outside of the list.

    Raises:
        UserError: for a list that cannot be used, a missing mask, or an image without labels that needs some.
    """
    # A bare list without a list to join it with is told by its own first line.
    alone = labels_required and not Path(data.label_list).is_file() and not holds_paths(list_file)
    if data.labels_from == "lists" and (alone or holds_classes(list_file)):
        return read_label_list(list_file, data.num_classes, labels_required=labels_required)
    if not labels_required:
        return dict.fromkeys(read_id_list(list_file), ())
    labels = labels_of(data, list_file)
    if empty := [image_id for image_id, classes in labels.items() if not classes]:
        raise UserError(
            f"'{empty[0]}' of {list_file} has no classes ({len(empty)} such images; data.labels_from={data.labels_from}); "
            "remove their lines"
        )
    return labels


def labels_of(data: DataConfig, list_file: str) -> Labels:
    """Return the image-level labels of a list's images, joined by id with data.label_list, or those their masks show.

    Raises:
        UserError: for a list that cannot be used, an id without a line in the label list, or a missing mask.
    """
    ids = read_id_list(list_file)
    if data.labels_from == "masks":
        return _labels_of_masks(DataFolder.of(data, list_file), ids, list_file, data.workers)
    labels = read_label_list(data.label_list, data.num_classes, labels_required=False)
    unknown = [image_id for image_id in ids if image_id not in labels]
    if unknown:
        raise UserError(
            f"{data.label_list} has no line for '{unknown[0]}' of {list_file} ({len(unknown)} such ids); "
            "set data.label_list to a list that covers it (for validation.log_list, data.train_list)"
        )
    return {image_id: labels[image_id] for image_id in ids}


def _labels_of_masks(folder: DataFolder, ids: Sequence[str], list_file: str, workers: int) -> Labels:
    bare = [image_id for image_id in ids if image_id in folder.listed and folder.listed[image_id][1] is None]
    if bare:
        raise UserError(
            f"{list_file} gives no mask for '{bare[0]}' ({len(bare)} such images), and data.labels_from=masks takes the labels "
            "from it; give a list with masks, or set data.labels_from=lists"
        )
    masks = [folder.truth(image_id) for image_id in ids]
    check_files(masks, "mask", "data.label_dir")
    chunks = [masks[start : start + _CHUNK] for start in range(0, len(masks), _CHUNK)]
    what = f"labels from masks ({_CHUNK} each)"
    found = map_progress(partial(_classes_of, folder.num_classes), chunks, workers=max(1, workers), what=what)
    return dict(zip(ids, (classes for chunk in found for classes in chunk), strict=True))


def _classes_of(num_classes: int, masks: Sequence[Path]) -> list[tuple[int, ...]]:
    return [mask_classes(read_label_map(path, num_classes)) for path in masks]
