"""Image lists: '<id> <class> <class> ...' lines with 0-based classes, and the segmentation sets' pairs of paths."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from utils.errors import UserError

_BYTE_ORDER_MARK = "\ufeff"


def read_label_list(path: str | Path, num_classes: int, *, labels_required: bool = True) -> dict[str, tuple[int, ...]]:
    """Read image-level labels; ids keep the order of the file.

    Windows line ends, a byte-order mark and blank lines are accepted.

    Args:
        path: text file of '<id> <class> <class> ...' lines, classes 0-based and without background.
        num_classes: classes must be below.
        labels_required: False also accepts lines that hold an id alone (its classes are then `()`).

    Returns:
        id -> ascending class indices without repetition.

    Raises:
        UserError: naming file and line, for a missing or empty file, a line without classes (when required), a class that
            is no integer or out of range, an id given twice, or one with a path in it.
    """
    path = Path(path)
    labels: dict[str, tuple[int, ...]] = {}
    for place, fields in list_lines(path):
        image_id, classes = parse_label_line(fields, place, num_classes, labels_required=labels_required)
        if image_id in labels:
            raise UserError(f"{place}: id '{image_id}' is there twice; remove one of its lines")
        labels[image_id] = classes
    return labels


def parse_label_line(
    fields: list[str], place: str, num_classes: int, *, labels_required: bool = True
) -> tuple[str, tuple[int, ...]]:
    """Return id and ascending classes of one line of `read_label_list`, split at white space; raises as that does."""
    image_id = _check_id(fields[0], place, "'<id> <class> <class> ...'")
    if labels_required and len(fields) == 1:
        raise UserError(f"{place}: '{image_id}' has no classes; add its 0-based classes or remove the line")
    return image_id, _classes(fields[1:], num_classes, place)


def read_id_list(path: str | Path) -> list[str]:
    """Read the ids of a list, in its order.

    Args:
        path: text file of '<id>', '<id> <class> ...' or '/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png' lines.

    Raises:
        UserError: naming file and line, for a missing or empty file, a line of another form, an id given twice, or one
            that leaves the data folder.
    """
    path = Path(path)
    ids: dict[str, None] = {}
    for place, fields in list_lines(path):
        image_id = parse_id_line(fields, place)
        if image_id in ids:
            raise UserError(f"{place}: id '{image_id}' is there twice; remove one of its lines")
        ids[image_id] = None
    return list(ids)


def parse_id_line(fields: list[str], place: str) -> str:
    """Return the id of one line of `read_id_list`, split at white space; raises as that does."""
    return _id_of_paths(fields, place) if "/" in fields[0] else _id_of_labels(fields, place)


def list_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ('<file> line <n>', fields) of the lines that are not blank.

    Raises:
        UserError: for an unreadable or empty file.
    """
    try:
        text = path.read_text(encoding="utf-8")
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


def _classes(fields: list[str], num_classes: int, place: str) -> tuple[int, ...]:
    classes = set()
    for text in fields:
        # int() alone would also take '1_0', '+1' and digits of other scripts.
        if not (text.isascii() and text.removeprefix("-").isdigit()):
            raise UserError(f"{place}: class '{text}' is not an integer; expected 0-based class indices after the id")
        value = int(text)
        if not 0 <= value < num_classes:
            raise UserError(
                f"{place}: class {value} is out of range; expected 0 to {num_classes - 1} (data.num_classes is {num_classes})"
            )
        classes.add(value)
    return tuple(sorted(classes))


def _check_id(image_id: str, place: str, form: str) -> str:
    if "/" in image_id or "\\" in image_id or ".." in image_id or "\0" in image_id:
        raise UserError(f"{place}: '{image_id}' is not an image id (no '/', '\\' or '..' allowed); expected {form}")
    return image_id


def _id_of_labels(fields: list[str], place: str) -> str:
    image_id = _check_id(fields[0], place, "'<id>' or '<id> <class> ...'")
    if not all(text.isascii() and text.isdigit() for text in fields[1:]):
        raise UserError(f"{place}: expected '<id>', '<id> <class> ...' or two paths, found '{' '.join(fields)}'")
    return image_id


def _id_of_paths(fields: list[str], place: str) -> str:
    form = "'/<folder>/<id>.jpg /<folder>/<id>.png'"
    ids = []
    for field in fields:
        parts = PurePosixPath(field.removeprefix("/")).parts
        if len(parts) != 2 or ".." in parts:
            raise UserError(f"{place}: '{field}' is not the path of a data file; expected {form}")
        ids.append(_check_id(PurePosixPath(parts[1]).stem, place, form))
    if len(set(ids)) != 1:
        raise UserError(f"{place}: paths of different images, '{' '.join(fields)}'; expected {form} with one id")
    return ids[0]
