from pathlib import Path

import pytest

from utils.data.classes import COCO_CLASSES, VOC_CLASSES, class_index, label_value, palette, resolve_class_names
from utils.errors import UserError


def test_names_at_known_places() -> None:
    assert len(VOC_CLASSES) == 20 and VOC_CLASSES[14] == "person"
    assert len(COCO_CLASSES) == 80 == len(set(COCO_CLASSES))
    assert [COCO_CLASSES[i] for i in (0, 23, 45, 49, 50, 79)] == [
        "person", "giraffe", "bowl", "orange", "broccoli", "toothbrush",
    ]  # fmt: skip


def test_label_values_and_back() -> None:
    assert [label_value(k) for k in (0, 19)] == [1, 20]
    assert [class_index(label_value(k)) for k in range(80)] == list(range(80))


def test_palette_is_the_voc_colour_map() -> None:
    colours = palette()
    assert len(colours) == 768
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for value, colour in {**known, 255: (224, 224, 192)}.items():
        assert tuple(colours[3 * value : 3 * value + 3]) == colour


def test_class_names_from_everywhere(tmp_path: Path) -> None:
    assert resolve_class_names("voc12", 20) == list(VOC_CLASSES)
    assert resolve_class_names("coco14", 80)[-1] == "toothbrush"
    assert resolve_class_names(["red", "green"], 2) == ["red", "green"]
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfred fox\r\n\r\ngreen\r\n")
    assert resolve_class_names(str(tmp_path / "names.txt"), 2) == ["red fox", "green"]


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        ("voc12", 6, "gives 20 names but data.num_classes is 6"),
        (["a"], 2, "gives 1 names"),
        (["a", "a"], 2, "'a' more than once"),
        ("voc13", 20, "neither voc12 nor coco14"),
    ],
)
def test_wrong_class_names(spec: object, count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_class_names(spec, count)
