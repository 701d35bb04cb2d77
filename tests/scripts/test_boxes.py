"""From the official CUB download and any method's maps to scores of localisation."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.evaluate_boxes import run
from scripts.prepare_cub import CubSettings, main
from scripts.prepare_cub import run as prepare
from tests.evaluation_set import make_config, write_set
from utils.data.lists import read_boxes, read_label_list
from utils.errors import UserError
from utils.runtime.cards import read_cards

BIRDS = (("001.Black_footed_Albatross", "Black_0001_1"), ("002.Auk", "Auk_0001_2"), ("002.Auk", "Auk_0002_3"))


def write_cub(root: Path) -> Path:
    for folder, name in BIRDS:
        (root / "images" / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / "images" / folder / f"{name}.jpg")
    rows = {
        "images.txt": [f"{folder}/{name}.jpg" for folder, name in BIRDS],
        "image_class_labels.txt": ["1", "2", "2"],
        "train_test_split.txt": ["1", "0", "1"],
        "bounding_boxes.txt": ["6.0 2.0 30.0 20.0", "0.0 0.0 40.0 30.0", "1.5 2.5 10.0 12"],
    }
    for name, values in rows.items():  # no newline at the end, which the published reader took for a part of the last record
        (root / name).write_text("\n".join(f"{number} {value}" for number, value in enumerate(values, 1)))
    return root


def test_cub_from_the_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "CUB_200_2011.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(write_cub(tmp_path / "CUB_200_2011"), "CUB_200_2011")
    main(["--cub", str(archive), "--out", str(tmp_path / "cub")])
    assert "train_cls.txt 2 images (published 5994)" in capsys.readouterr().out
    assert read_label_list(tmp_path / "cub/train_cls.txt", 2) == {"Black_0001_1": (0,), "Auk_0002_3": (1,)}
    assert read_label_list(tmp_path / "cub/test_cls.txt", 2) == {"Auk_0001_2": (1,)}
    assert read_boxes(tmp_path / "cub/boxes.txt")["Auk_0002_3"] == [(1.5, 2.5, 10.0, 12.0)]
    assert (tmp_path / "cub/classes.txt").read_text() == "Black footed Albatross\nAuk\n"
    assert Image.open(tmp_path / "cub/JPEGImages/Auk_0002_3.jpg").size == (40, 30)


def test_damaged_cub_is_named(tmp_path: Path) -> None:
    root = write_cub(tmp_path / "cub200")
    (root / "bounding_boxes.txt").write_text("1 6.0 2.0 30.0 20.0\n2 0 0 40 30\n")
    with pytest.raises(UserError, match=r"bounding_boxes.txt has no line for image 3"):
        prepare(CubSettings(root, tmp_path / "out"))
    (root / "bounding_boxes.txt").write_text("1 6.0 2.0 30.0\n")
    with pytest.raises(UserError, match=r"line 1: 3 entries behind the number, expected 4"):
        prepare(CubSettings(root, tmp_path / "out"))


@pytest.mark.parametrize("line", ["a", "a 1 2 3", "a 1 2 x 4", "a 1 2 0 4", "a 1 nan 3 4", "a 1 1 2 2\na 1 1 2 2"])
def test_lines_that_are_no_boxes(tmp_path: Path, line: str) -> None:
    (tmp_path / "boxes.txt").write_text(line)
    with pytest.raises(UserError, match=r"boxes.txt line [12]: .*<id> <x> <y> <width> <height>|put all of its boxes on one"):
        read_boxes(tmp_path / "boxes.txt")


def _square(x: int, y: int, side: int, value: int = 255) -> np.ndarray:
    cam = np.zeros((60, 80), np.uint8)
    cam[y : y + side, x : x + side] = value
    return cam


def test_maps_of_masks_and_several_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.where(_square(10, 10, 20), 2, 0).astype(np.uint8)
    truth[40:60, 50:70] = 1
    truth[0, 0] = 3  # too small for a box
    cams = {0: _square(50, 40, 20), 1: np.maximum(_square(10, 10, 20, 40), _square(10, 10, 8)), 2: _square(0, 0, 2)}
    write_set(tmp_path, {"a": (truth, cams, None)})
    cfg = make_config(tmp_path, 3, "boxes.threshold=0.2", f"boxes.vis_dir={tmp_path / 'pictures'}")
    result = run(cfg)
    assert json.loads((tmp_path / "out/boxes/result.json").read_text()) == result
    assert (result["objects"], result["classes_without_box"]) == (2, 1)
    # Of class 1 only a level below 40 of 255 shows the whole square.
    assert result["at_threshold"] == {"threshold": 0.2, "gt_known": 0.5, "details": None}
    best = result["at_best_threshold"]
    assert (best["max_box_acc"], best["max_box_acc_v2"], best["threshold"]) == (1.0, 1.0, 0.0)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"a_0.png", "a_1.png"}
    (card,) = read_cards(tmp_path / "out")
    assert (card.scores["GT-known"], card.image_scores["a"]) == (
        0.5, pytest.approx((20 / 21 + 9**2 / 21**2) / 2, abs=1e-4),
    )  # fmt: skip
    assert "gt_known 0.500" in capsys.readouterr().out


def _write_scored(root: Path, scores: list[float]) -> None:
    """Write one picture of class 1, coarse maps of three classes and their scores, and its box."""
    write_set(root, {"a": (np.zeros((60, 80), np.uint8), {1: np.zeros((60, 80), np.uint8)}, None)})
    maps = np.zeros((3, 6, 8), np.float32)
    maps[0, 0, 0] = maps[2, 5, 7] = 1
    maps[1, 1:4, 1:5] = 0.7
    np.savez(root / "cams/a.npz", classes=np.arange(3), cam=maps, scores=np.array(scores, np.float32))
    (root / "boxes.txt").write_text("a 10 10 40 30\n")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0, 3, 1], (1, 1, 1, 1, 1, "right")), ([2, 1, 0], (0, 1, 0, 1, 1, "class wrong"))],
)
def test_ranked_classes_and_boxes_of_a_list(tmp_path: Path, scores: list[float], expected: tuple[object, ...]) -> None:
    _write_scored(tmp_path, scores)
    result = run(make_config(tmp_path, 3, f"boxes.file={tmp_path / 'boxes.txt'}", "boxes.size=[224,224]"))["at_threshold"]
    assert tuple(result[key] for key in ("cls_top1", "cls_top5", "loc_top1", "loc_top5", "gt_known")) == expected[:5]
    assert [name for name, count in result["details"].items() if count] == [expected[5]]


def test_wrong_boxes_are_told(tmp_path: Path) -> None:
    _write_scored(tmp_path, [0, 3, 1])
    listed = f"boxes.file={tmp_path / 'boxes.txt'}"
    (tmp_path / "boxes.txt").write_text("a 10 10 90 30\n")
    with pytest.raises(UserError, match=r"the box 10 10 90 30 .* of 'a' does not lie in its picture of 80 x 60 pixels"):
        run(make_config(tmp_path, 3, listed))
    (tmp_path / "boxes.txt").write_text("b 1 1 9 30\n")
    with pytest.raises(UserError, match=r"has no boxes of 1 images of data.eval_list, the first: a"):
        run(make_config(tmp_path, 3, listed))
    with pytest.raises(UserError, match=r"no object of .* has a box"):
        run(make_config(tmp_path, 3))
    np.savez(tmp_path / "cams/a.npz", classes=np.array([1]), cam=np.ones((1, 6, 8), np.float32), scores=np.arange(3.0))
    (tmp_path / "boxes.txt").write_text("a 1 1 9 30\n")
    with pytest.raises(
        UserError, match=r"has no map of class 2, one of the most probable of 'a'; make the maps anew with cam.top=5"
    ):
        run(make_config(tmp_path, 3, listed))
    write_set(tmp_path, {"a": (np.zeros((60, 80), np.uint8), {0: _square(0, 0, 9), 1: _square(9, 9, 9)}, None)})
    with pytest.raises(UserError, match=r"1 images have several classes \(the first: a\)"):
        run(make_config(tmp_path, 3, listed))


def test_training_images_are_held_out_by_class(tmp_path: Path) -> None:
    root = write_cub(tmp_path / "cub200")
    report = prepare(CubSettings(root, tmp_path / "cub", hold_out=2))
    assert "fit_cls.txt 0 and held_cls.txt 2 images" in report  # one of each class is all there is
    assert set(read_label_list(tmp_path / "cub/held_cls.txt", 2)) == {"Black_0001_1", "Auk_0002_3"}
    with pytest.raises(UserError, match="--hold-out is 1, expected 2 or more"):
        prepare(CubSettings(root, tmp_path / "cub", hold_out=1))
