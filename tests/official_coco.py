"""A miniature of the official MS COCO 2014 download: polygons, RLE crowds, images without labels, a grey image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coder

from utils.data.classes import COCO_CLASSES

SIZE = (48, 36)  # (W, H)
# Published rule: contiguous indices are ranks of the category ids, which have these gaps.
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
CATEGORY_IDS = [i for i in range(1, 91) if i not in GAPS]
PERSON, DOG, BOOK = 1, 18, 84  # category ids; class indices 0, 16, 73
PERSON_INDEX, DOG_INDEX, BOOK_INDEX = 0, 16, 73


def square(x: float, y: float, side: float) -> list[float]:
    """Return a polygon as COCO writes it."""
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def crowd_code(mask: NDArray[np.uint8], *, compressed: bool = False) -> dict[str, Any]:
    """Return a crowd's run-length code: uncompressed counts as in the official files, or the compressed string."""
    if compressed:
        code = coder.encode(np.asfortranarray(mask))
        return {"size": list(code["size"]), "counts": code["counts"].decode()}
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": [*mask.shape], "counts": counts if flat[0] == 0 else [0, *counts]}


def annotation(category: int, outline: Any, *, crowd: bool = False) -> dict[str, Any]:
    """Return an annotation without its ids."""
    return {"category_id": category, "segmentation": outline, "iscrowd": int(crowd), "area": 1.0, "bbox": [0, 0, 1, 1]}


def crowd_mask() -> NDArray[np.uint8]:
    """Return a crowd region of SIZE with a hole."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[4:30, 6:40] = 1
    mask[10:14, 10:14] = 0
    return mask


def split_annotations(seed: int) -> list[list[dict[str, Any]]]:
    """Return the annotations of six images: see the comments."""
    shift = float(seed % 3)
    return [
        # The dog is written after the person and overlaps it; two parts of one person.
        [
            annotation(PERSON, [square(2 + shift, 3, 20), square(30, 20, 8.5)]),
            annotation(DOG, [square(12.3, 9.7, 14)]),
        ],
        [annotation(BOOK, [square(5, 5, 10)]), annotation(PERSON, crowd_code(crowd_mask()), crowd=True)],
        [],  # no annotation at all
        [annotation(DOG, [square(20, 10, 12)]), annotation(DOG, [square(4, 4, 12)])],  # stored as a grey JPEG
        [annotation(PERSON, crowd_code(crowd_mask(), compressed=True), crowd=True)],  # nothing but a crowd
        [annotation(BOOK, [square(1, 1, 9)]), annotation(DOG, [square(3, 20, 9)]), annotation(BOOK, [square(6, 16, 9)])],
    ]


def image_name(split: str, index: int) -> str:
    """Return the id of an image, e.g. COCO_train2014_000000000030."""
    return f"COCO_{split}_{10 * (index + 1):012d}"


def write_coco(root: Path, *, saliency: bool = False) -> Path:
    """Write annotations/, train2014/ and val2014/ (and Sal/) below `root` and return it."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train2014", "val2014")):
        (root / split).mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        entries: list[dict[str, Any]] = []
        for index, found in enumerate(split_annotations(seed)):
            name = image_name(split, index)
            pixels = rng.integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
            picture = Image.fromarray(pixels)
            (picture.convert("L") if index == 3 else picture).save(root / split / f"{name}.jpg")
            if saliency:
                (root / "Sal").mkdir(exist_ok=True)
                Image.fromarray(pixels[..., 0]).save(root / "Sal" / f"{name}.png")
            image_id = 10 * (index + 1)
            images.append({"id": image_id, "file_name": f"{name}.jpg", "width": SIZE[0], "height": SIZE[1]})
            entries += [{**entry, "id": len(entries) + n, "image_id": image_id} for n, entry in enumerate(found)]
        categories = [{"id": i, "name": n, "supercategory": ""} for i, n in zip(CATEGORY_IDS, COCO_CLASSES, strict=True)]
        # Neither images nor categories in order: the published lists are sorted by file name, ids by rank.
        content = {"images": images[::-1], "annotations": entries, "categories": categories[::-1], "licenses": []}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
