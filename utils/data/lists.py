"""Image lists: '<id> <class> <class> ...' lines with 0-based classes, and the segmentation sets' pairs of paths.

Of a path only the suffix is taken off to get its id. (A published loader stripped the characters of ".jpg" from both ends.)
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path, only_file

# Integer ids of VOC: 2007000032 is 2007_000032.
_VOC_DIGITS, _YEAR_DIGITS = 10, 4
_BYTE_ORDER_MARK = "\ufeff"
# Stands for the id in the name of an image's file.
_ID = "{id}"
_BOX_FORM = "'<id> <x> <y> <width> <height> ...'"
# Files of an image and of its label map (None: the line gives none), with {id} in their names.
Paths = tuple[Path, Path | None]


def read_label_list(path: str | Path, num_classes: int, *, labels_required: bool = True) -> dict[str, tuple[int, ...]]:
    """Read image-level labels; ids keep the order of the file.

    Windows line ends, a byte-order mark and blank lines are accepted.

    Args:
        path: text file of '<id> <class> <class> ...' lines, classes 0-based and without background.
        num_classes: classes must be below.
        labels_required: False also accepts lines that hold an id alone (its classes are then `()`).

    Returns:
        id -> ascending class indices.

    Raises:
        UserError: naming file and line, for a missing or empty file, a line without classes (when required), a class that
            is no integer, out of range or there twice (columns of 0 and 1), an id given twice, or one with a path in it.
    """
    path = Path(path)
    labels: dict[str, tuple[int, ...]] = {}
    for where, fields in list_lines(path):
        image_id, classes = parse_label_line(fields, where, num_classes, labels_required=labels_required)
        if image_id in labels:
            raise UserError(f"{where}: id '{image_id}' is there twice; remove one of its lines")
        labels[image_id] = classes
    return labels


def read_boxes(path: str | Path) -> dict[str, list[tuple[float, ...]]]:
    """Read the boxes of objects: id -> (x, y, width, height) each, in pixels of the picture.

    Args:
        path: text file of '<id> <x> <y> <width> <height> ...' lines, four numbers an object.

    Raises:
        UserError: naming file and line, for a missing or empty file, an id given twice, or numbers that are no boxes.
    """
    boxes: dict[str, list[tuple[float, ...]]] = {}
    for where, fields in list_lines(Path(path)):
        image_id, numbers = _check_id(fields[0], where, _BOX_FORM), fields[1:]
        if image_id in boxes:
            raise UserError(f"{where}: id '{image_id}' is there twice; put all of its boxes on one line")
        try:
            values = [float(text) for text in numbers]
        except ValueError as error:
            raise UserError(f"{where}: {error}; expected {_BOX_FORM}") from error
        found = [tuple(values[start : start + 4]) for start in range(0, len(values), 4)]
        if not found or any(len(box) < 4 or not all(map(isfinite, box)) or min(box[2:]) <= 0 for box in found):
            raise UserError(f"{where}: '{' '.join(numbers)}' are no boxes; expected {_BOX_FORM}, sizes above 0")
        boxes[image_id] = found
    return boxes


def parse_label_line(
    fields: list[str], where: str, num_classes: int, *, labels_required: bool = True
) -> tuple[str, tuple[int, ...]]:
    """Return id and ascending classes of one line of `read_label_list`, split at white space; raises as that does."""
    image_id = _check_id(fields[0], where, "'<id> <class> <class> ...'")
    if labels_required and len(fields) == 1:
        raise UserError(f"{where}: '{image_id}' has no classes; add its 0-based classes or remove the line")
    return image_id, _classes(fields[1:], num_classes, where)


def read_id_list(path: str | Path) -> list[str]:
    """Read the ids of a list, in its order.

    Args:
        path: as for `read_paths`.

    Raises:
        UserError: naming file and line, for a missing or empty file, a line of another form, an id given twice, or one
            that leaves the data folder.
    """
    return list(read_paths(path))


def read_paths(path: str | Path, root: Path = Path()) -> dict[str, Paths | None]:
    """Read where a list says that its images are, by id, in its order; None where a line gives an id without paths.

    Args:
        path: text file of '<id>', '<id> <class> ...', '<folder>/<id>.jpg' or '<folder>/<id>.jpg <folder>/<id>.png' lines;
            its paths may start with '/'.
        root: folder its paths are relative to, the data folder.

    Raises:
        UserError: as `read_id_list`.
    """
    found: dict[str, Paths | None] = {}
    # Equal ones are one object: 10 000 lines then cost little to send to a worker process.
    shared: dict[Paths, Paths] = {}
    for where, fields in list_lines(Path(path)):
        image_id, paths = _id_and_paths(fields, where)
        if image_id in found:
            raise UserError(f"{where}: id '{image_id}' is there twice; remove one of its lines")
        if paths and paths not in shared:
            shared[paths] = (root / paths[0], root / paths[1] if paths[1] else None)
        found[image_id] = shared[paths] if paths else None
    return found


def parse_id_line(fields: list[str], where: str) -> str:
    """Return the id of one line of `read_id_list`, split at white space; raises as that does."""
    return _id_and_paths(fields, where)[0]


def holds_paths(path: str | Path) -> bool:
    """Return whether a list's lines are paths rather than ids; raises as `read_id_list` for one that cannot be read."""
    return any("/" in fields[0] for _, fields in list_lines(Path(path)))


def holds_classes(path: str | Path) -> bool:
    """Return whether some line of a list is an id with classes; raises as `read_id_list` for one that cannot be read."""
    return any("/" not in fields[0] and len(fields) > 1 for _, fields in list_lines(Path(path)))


def file_of(where: Path, image_id: str, suffix: str) -> Path:
    """Return an image's file.

    Args:
        where: its folder, for `<where>/<id><suffix>`; or a file whose name has {id} in it, e.g. val2014/COCO_val2014_{id}.jpg.
        image_id: fills in {id}.
        suffix: of files in a folder, with the dot.
    """
    return where.with_name(where.name.replace(_ID, image_id)) if _ID in where.name else where / f"{image_id}{suffix}"


def ids_of(where: Path, suffix: str) -> list[str]:
    """Return the ids that have a file (see `file_of`), sorted; none where the folder is not there."""
    pattern = file_of(where, _ID, suffix)
    before, _, after = pattern.name.partition(_ID)
    names = [path.name for path in pattern.parent.iterdir()] if pattern.parent.is_dir() else []
    return sorted(n[len(before) : len(n) - len(after)] for n in names if n.startswith(before) and n.endswith(after))


def list_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ('<file> line <n>', fields) of the lines that are not blank; of a `cls_labels.npy` its entries in that form.

    Raises:
        UserError: for an unreadable or empty file.
    """
    if path.suffix == ".npy":
        yield from _array_lines(path)
        return
    try:
        text = only_file(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"list {path} is not UTF-8 text (byte {error.start}); save it as plain UTF-8 text") from error
    except OSError as error:
        raise UserError(f"list {path} cannot be read ({error.strerror}); check the path in the configuration") from error
    empty = True
    for number, line in enumerate(text.removeprefix(_BYTE_ORDER_MARK).splitlines(), start=1):
        fields = line.split()
        if fields:
            empty = False
            yield f"{path} line {number}", fields
    if empty:
        raise UserError(f"list {path} is empty; expected one image a line")


def _array_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the entries of a published `cls_labels.npy`: a dictionary of id -> multi-hot vector (C,), stored as a pickle.

    Ids of VOC are integers there, 2007000032 for 2007_000032. The pickle is read by a reader that builds arrays, texts and
    numbers only and runs no code of the file.
    """
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            entries = _ArraysOnly(file).load().item().items()
        labels = [(_image_id(name), np.flatnonzero(np.asarray(row))) for name, row in entries]
    except OSError as error:
        raise UserError(f"list {path} cannot be read ({error.strerror}); check the path in the configuration") from error
    except (ValueError, EOFError, AttributeError, TypeError, KeyError, IndexError, pickle.UnpicklingError) as error:
        raise UserError(
            f"list {path} is no dictionary of image id -> vector of classes ({error}); give such an .npy file or a text list"
        ) from error
    if not labels:
        raise UserError(f"list {path} is empty; expected one image an entry")
    for number, (image_id, classes) in enumerate(labels, start=1):
        yield f"{path} entry {number}", [image_id, *map(str, classes)]


class _ArraysOnly(pickle.Unpickler):
    """Builds what pickled NumPy arrays and numbers need, and nothing else."""

    ALLOWED = {
        "_reconstruct": np.empty(0).__reduce__()[0],
        "scalar": np.int32(0).__reduce__()[0],  # the published file's ids
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }
    MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the allowed names; anything else ends the reading."""
        if module not in self.MODULES or name not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not allowed")
        return self.ALLOWED[name]


def write_label_array(path: Path, labels: Mapping[str, Sequence[int]], num_classes: int) -> None:
    """Write `cls_labels.npy` as IRN, CRT and their descendants read it: see `_array_lines`.

    A dictionary inside of an .npy file is a pickle; this one holds texts, integers and float32 vectors only.

    Args:
        path: file to write (atomic).
        labels: id -> 0-based classes; ids of VOC's form become integers.
        num_classes: length of the vectors.
    """
    entries = {}
    for image_id, classes in labels.items():
        digits = image_id.replace("_", "", 1)
        whole = _image_id(int(digits)) == image_id if digits.isascii() and digits.isdigit() else False
        row = np.zeros(num_classes, np.float32)
        row[list(classes)] = 1
        entries[np.int32(digits) if whole else image_id] = row
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(entries, dtype=object), allow_pickle=True)


def _image_id(name: Any) -> str:
    text = str(name)
    whole = isinstance(name, (int, np.integer)) and len(text) == _VOC_DIGITS
    return f"{text[:_YEAR_DIGITS]}_{text[_YEAR_DIGITS:]}" if whole else text


def _classes(fields: list[str], num_classes: int, where: str) -> tuple[int, ...]:
    classes: set[int] = set()
    for text in fields:
        # int() alone would also take '1_0', '+1' and digits of other scripts.
        if not (text.isascii() and text.removeprefix("-").isdigit()):
            raise UserError(f"{where}: class '{text}' is not an integer; expected 0-based class indices after the id")
        value = int(text)
        if not 0 <= value < num_classes:
            raise UserError(
                f"{where}: class {value} is out of range; expected 0 to {num_classes - 1} (data.num_classes is {num_classes})"
            )
        if value in classes:
            raise UserError(f"{where}: class {value} is there twice; {_way_out(fields)}")
        classes.add(value)
    return tuple(sorted(classes))


def _way_out(fields: list[str]) -> str:
    """Return what to do about a line with a class twice; columns of 0 and 1 are the usual reason."""
    if set(fields) != {"0", "1"}:
        return "name each class once"
    meant = " ".join(str(column) for column, text in enumerate(fields) if text == "1")
    return f"if these are columns of 0 and 1, one a class, write the numbers of those that hold 1 instead: '{meant}'"


def _check_id(image_id: str, where: str, form: str) -> str:
    if "/" in image_id or "\\" in image_id or ".." in image_id or "\0" in image_id:
        raise UserError(f"{where}: '{image_id}' is not an image id (no '/', '\\' or '..' allowed); expected {form}")
    return image_id


def _id_and_paths(fields: list[str], where: str) -> tuple[str, Paths | None]:
    return _paths(fields, where) if "/" in fields[0] else (_id_of_labels(fields, where), None)


def _id_of_labels(fields: list[str], where: str) -> str:
    image_id = _check_id(fields[0], where, "'<id>' or '<id> <class> ...'")
    if not all(text.isascii() and text.isdigit() for text in fields[1:]):
        raise UserError(f"{where}: expected '<id>', '<id> <class> ...' or two paths, found '{' '.join(fields)}'")
    return image_id


def _paths(fields: list[str], where: str) -> tuple[str, Paths]:
    """Return the id and the paths of a line '<image> [<label map>]', relative to the data folder; it may start with '/'."""
    form = "'<folder>/<id>.jpg <folder>/<id>.png' with one id"
    paths = [PurePosixPath(field.removeprefix("/")) for field in fields]
    if len(fields) > 2:
        raise UserError(f"{where}: {len(fields)} entries, expected {form}")
    for path in paths:
        if ".." in path.parts or path.is_absolute():
            raise UserError(f"{where}: '{path}' leaves the data folder; expected {form}")
        if len(path.parts) < 2:
            raise UserError(f"{where}: '{path}' is not the path of a file in the data folder; expected {form}")
    if len({path.stem for path in paths}) != 1:
        raise UserError(f"{where}: paths of different images, '{' '.join(fields)}'; expected {form}")
    image, *labels = (Path(path.with_name(f"{_ID}{path.suffix}")) for path in paths)
    return _check_id(paths[0].stem, where, form), (image, labels[0] if labels else None)
