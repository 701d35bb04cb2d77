"""Read COCO's instances_*.json compactly: what masks and image labels need, and nothing else."""

import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError

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
    """Read an instances file; the largest published one (82,783 images) takes well under 2 GB.

    Raises:
        UserError: when the file is missing, damaged, or refers to images or categories it does not have.
    """
    try:
        content = json.loads(path.read_bytes(), object_hook=_compact)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a folder with annotations/instances_*.json") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no COCO annotation file ({error}); download it again") from error
    try:
        return _split(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no COCO instances file ({type(error).__name__}: {error}); download it again") from error


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
