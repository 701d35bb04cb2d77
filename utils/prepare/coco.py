"""Turn COCO annotations into one label map: polygons and run-length codes painted in the order of the file."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.data.classes import BACKGROUND, IGNORE, label_value
from utils.errors import UserError, damage, import_optional
from utils.files import only_file, parse_json

# Polygons as flat [x, y, x, y, ...] pixel coordinates, or a run-length code as pycocotools takes it.
Segmentation = tuple["array[float]", ...] | dict[str, Any]


@dataclass(slots=True)
class CocoInstance:
    """One annotation: class index (0-based rank of its category id), whether it marks a crowd, and its outline."""

    class_index: int
    crowd: bool
    segmentation: Segmentation


@dataclass(slots=True)
class CocoImage:
    """One image with its annotations in the order of the file."""

    id: str
    file_name: str
    width: int
    height: int
    instances: list[CocoInstance] = field(default_factory=list)

    def classes(self, *, count_crowds: bool) -> tuple[int, ...]:
        """Return the 0-based classes of its annotations, ascending."""
        return tuple(sorted({i.class_index for i in self.instances if count_crowds or not i.crowd}))


@dataclass(slots=True)
class CocoSplit:
    """One annotation file.

    Attributes:
        class_names: in the order of ascending category ids (which may have gaps).
        images: sorted by file name.
    """

    class_names: list[str]
    images: list[CocoImage]


def read_instances(path: Path) -> CocoSplit:
    """Read an instances file; the largest published one takes well under 2 GB. Raises UserError for a damaged one."""
    try:
        content = parse_json(only_file(path).read_bytes(), object_hook=_compact)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a folder with annotations/instances_*.json") from error
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
        raise UserError(f"{path} is no COCO annotation file ({damage(error)}); download it again") from error
    try:
        return _split(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is no COCO instances file ({damage(error)}); download it again") from error


def _compact(entry: dict[str, Any]) -> Any:
    """Shrink an annotation while the file is parsed: lists of Python numbers would take several gigabytes."""
    if "segmentation" in entry and "category_id" in entry:
        outline = entry["segmentation"]
        if isinstance(outline, list):
            outline = tuple(array("d", polygon) for polygon in outline)
        elif isinstance(outline.get("counts"), list):
            outline["counts"] = array("L", outline["counts"])
        return (entry["image_id"], entry["category_id"], bool(entry.get("iscrowd", 0)), outline)
    return entry


def _split(content: Any) -> CocoSplit:
    names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
    ranks = {category: rank for rank, category in enumerate(sorted(names))}
    images = {entry["id"]: _image(entry) for entry in content["images"]}
    for image_id, category, crowd, outline in content["annotations"]:
        if image_id not in images or category not in ranks:
            raise ValueError(f"an annotation refers to image {image_id}, category {category}, one of which is not listed")
        images[image_id].instances.append(CocoInstance(ranks[category], crowd, outline))
    ordered = sorted(images.values(), key=lambda image: image.file_name)
    ids = {image.id for image in ordered}
    if len(ids) != len(ordered):
        raise ValueError("two images have the same file name")
    return CocoSplit([names[c] for c in sorted(names)], ordered)


def _image(entry: dict[str, Any]) -> CocoImage:
    name = str(entry["file_name"])
    if Path(name).name != name:
        raise ValueError(f"file name '{name}' has a folder in it")
    return CocoImage(Path(name).stem, name, int(entry["width"]), int(entry["height"]))


# The compressed form: characters from '0' on, 5 bits of a number each, lowest first; bit 5 says that more follow, bit 4 of the
# last one is the sign. From the fourth on, numbers are differences to the one two places before.
_FIRST_CHARACTER = ord("0")
_BITS, _VALUE, _MORE, _SIGN = 5, 0x1F, 0x20, 0x10


def run_lengths(counts: bytes | str | Sequence[int]) -> NDArray[np.int64]:
    """Return lengths of runs, column after column, of pixels outside and inside in turn (outside first).

    Args:
        counts: the "counts" of a run-length code, compressed (bytes or text) or as numbers.

    Raises:
        ValueError: for a compressed text that is cut off or has other characters.
    """
    if not isinstance(counts, bytes | str):
        return np.asarray(counts, np.int64)
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    last = (digits & _MORE) == 0
    if not len(digits) or not last[-1] or digits.min() < 0 or digits.max() > (_VALUE | _MORE):
        raise ValueError("a damaged run-length code")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    shifts = _BITS * (np.arange(len(digits)) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((digits & _VALUE) << shifts, starts)
    numbers -= np.where(digits[ends] & _SIGN, np.int64(1) << (_BITS * sizes), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def paint_runs(canvas: NDArray[np.uint8], counts: bytes | str | Sequence[int], value: int) -> None:
    """Set the pixels of a run-length code to `value`.

    Args:
        canvas: (H * W,) column-major pixels, changed in place.
        counts: see `run_lengths`.
        value: 0 to 255.

    Raises:
        ValueError: when the code is damaged or not of this many pixels.
    """
    lengths = run_lengths(counts)
    edges = np.cumsum(lengths)
    if not len(edges) or edges[-1] != canvas.size or lengths.min() < 0:
        raise ValueError(f"a run-length code of {edges[-1] if len(edges) else 0} pixels, expected {canvas.size}")
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=False):
        canvas[start:end] = value


# What becomes of crowd regions (many objects under one outline).
CROWD_SKIP, CROWD_IGNORE, CROWD_OBJECT = "skip", "ignore", "object"
CROWD_CHOICES = (CROWD_SKIP, CROWD_IGNORE, CROWD_OBJECT)
_SMALLEST_POLYGON = 6  # numbers: three corners


def paint_label_map(image: CocoImage, crowd: str) -> NDArray[np.uint8]:
    """Return the label map (H, W) of an image: 0 background, class index + 1.

    Where outlines overlap, the later annotation of the file wins (the recipe of the published masks).

    Args:
        image: sizes and annotations.
        crowd: "skip": crowd regions are background; "ignore": 255 where no single object is; "object": like any object.

    Raises:
        UserError: for an outline that cannot be read, naming the image; or when pycocotools is missing.
    """
    coder = import_optional("pycocotools.mask", "pycocotools", "reading COCO outlines")
    # Column-major, like the codes.
    canvas = np.full(image.width * image.height, BACKGROUND, np.uint8)
    try:
        for value, instance in _layers(image, crowd):
            for counts in _codes(instance, image, coder):
                paint_runs(canvas, counts, value)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"an outline of {image.file_name} cannot be read ({error}); download the annotations again") from error
    return canvas.reshape(image.width, image.height).T


def _layers(image: CocoImage, crowd: str) -> Iterator[tuple[int, CocoInstance]]:
    """Yield (label value, annotation) from the bottom to the top."""
    if crowd == CROWD_IGNORE:
        yield from ((IGNORE, i) for i in image.instances if i.crowd)
    yield from ((label_value(i.class_index), i) for i in image.instances if crowd == CROWD_OBJECT or not i.crowd)


def _codes(instance: CocoInstance, image: CocoImage, coder: Any) -> list[bytes | str | Sequence[int]]:
    """Return the outline as the counts of run-length codes whose union it is."""
    outline, height, width = instance.segmentation, image.height, image.width
    if not isinstance(outline, tuple):
        if list(outline["size"]) != [height, width]:
            raise ValueError(f"its size is {outline['size']}, the image's {[height, width]}")
        return [outline["counts"]]
    polygons = [polygon.tolist() for polygon in outline if len(polygon) >= _SMALLEST_POLYGON]
    return [code["counts"] for code in coder.frPyObjects(polygons, height, width)] if polygons else []
