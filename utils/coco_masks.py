"""Turn COCO annotations into one label map: polygons and run-length codes painted in the order of the file."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.classes import BACKGROUND, IGNORE, label_value
from utils.coco_instances import CocoImage, CocoInstance
from utils.errors import UserError
from utils.optional import import_optional
from utils.run_lengths import paint_runs

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
