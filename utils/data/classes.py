"""Names, label values and colours of the classes. Class index k is 0-based without background; label value k + 1."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.deeplab_schema import DatasetConfig
from utils.errors import UserError
from utils.files import only_file, write_text_atomic

BACKGROUND = 0
IGNORE = 255
BACKGROUND_NAME = "background"

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

# Order of the ascending COCO category ids (which have gaps): bowl is 45, toothbrush 79.
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant",
    "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra",
    "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
    "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip

_KNOWN = {"voc12": VOC_CLASSES, "coco14": COCO_CLASSES}
_COLOURS = 256
_BITS_PER_CHANNEL = 8


def label_value(class_index: int) -> int:
    """Return the label-map value of a 0-based class index; the only place that adds 1."""
    return class_index + 1


def label_count(num_classes: int) -> int:
    """Return how many label values there are for a number of foreground classes: background is one more."""
    return label_value(num_classes)


def class_index(value: int) -> int:
    """Return the 0-based class index of a label-map value >= 1."""
    return value - 1


def mask_classes(mask: NDArray[np.uint8]) -> tuple[int, ...]:
    """Return the 0-based classes with at least one pixel in a label map (H, W), ascending; 0 and 255 are none."""
    return tuple(class_index(v) for v in np.unique(mask).tolist() if v not in (BACKGROUND, IGNORE))


@functools.cache
def palette() -> bytes:
    """Return the PASCAL VOC colour map: 256 RGB triples, 768 bytes, as PIL's `putpalette` takes them.

    The bits of the value, lowest three first, fill the highest free bits of red, green and blue; 255 is near-white.
    """
    colours = bytearray()
    for value in range(_COLOURS):
        channels = [0, 0, 0]
        for bit in range(_BITS_PER_CHANNEL):
            triple = value >> (3 * bit)
            for channel in range(3):
                channels[channel] |= (triple >> channel & 1) << (_BITS_PER_CHANNEL - 1 - bit)
        colours += bytes(channels)
    return bytes(colours)


def resolve_class_names(spec: Any, num_classes: int) -> list[str]:
    """Return the `num_classes` foreground names `data.class_names` stands for, background not among them.

    Args:
        spec: "voc12", "coco14", a text file with one name a line, or a list of names.
        num_classes: how many are expected.

    Raises:
        UserError: for an unreadable file, a wrong number of names, or a name given twice.
    """
    names = _read_names(spec) if isinstance(spec, str) else [str(name) for name in spec]
    if len(names) != num_classes:
        raise UserError(
            f"data.class_names={spec} gives {len(names)} names but data.num_classes is {num_classes}; make them agree "
            "(background is not counted)"
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"data.class_names={spec} has '{repeated[0]}' more than once; give every class its own name")
    return names


def _read_names(spec: str) -> list[str]:
    if spec in _KNOWN:
        return list(_KNOWN[spec])
    try:
        lines = only_file(Path(spec)).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.class_names={spec} is neither {' nor '.join(_KNOWN)} nor a readable text file; give one of these or a list"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def label_names(class_names: Sequence[str]) -> list[str]:
    """Return a name per label-map value: 'background', then the classes."""
    names = list(class_names)
    names.insert(BACKGROUND, BACKGROUND_NAME)
    return names


def write_label_names(path: Path, class_names: Sequence[str]) -> None:
    """Write '<label value><TAB><name>' lines, background first: C + 1 of them.

    (The published COCO file had 91 names for 81 labels, so names were wrong from label 12 on.)

    Args:
        path: file to write.
        class_names: C foreground names in index order.
    """
    write_text_atomic(path, "".join(f"{value}\t{name}\n" for value, name in enumerate(label_names(class_names))))


_SETS = {"voc": VOC_CLASSES, "coco": COCO_CLASSES}


def class_names(dataset: DatasetConfig) -> list[str]:
    """Return the label names, background first: from `dataset.labels`, or by `dataset.name`, or numbers.

    Published files name label lists of their own tree, and the COCO one holds 91 names for 81 classes; so, for the known
    sets, a list that is missing or of another length gives way to the right names.

    Raises:
        UserError: for another set's list that is unreadable or of the wrong length.
    """
    sets = (label_names(names) for prefix, names in _SETS.items() if dataset.name.lower().startswith(prefix))
    count = label_count(dataset.num_classes)
    known = next((names for names in sets if len(names) == count), None)
    if not dataset.labels or (known and not Path(dataset.labels).is_file()):
        return known or ["background", *(f"class {k}" for k in range(1, count))]
    names = _read(Path(dataset.labels))
    if len(names) == dataset.num_classes and names[0] != "background":
        names = label_names(names)
    if len(names) != count:
        if known:
            return known
        raise UserError(
            f"dataset.labels={dataset.labels} holds {len(names)} names, expected {count} (dataset.n_classes), or "
            "one fewer without background"
        )
    return names


def _read(path: Path) -> list[str]:
    """Read 'index<TAB>name[,alias]' or 'name' lines."""
    try:
        lines = only_file(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.labels={path} cannot be read ({error}); give an existing text file") from error
    return [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
