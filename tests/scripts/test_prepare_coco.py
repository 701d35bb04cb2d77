"""From a miniature official COCO download to the data folder: lists, masks, crowds, continuation, bad input."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pycocotools")

from pycocotools.coco import COCO

from scripts import prepare_coco
from scripts.prepare_coco import CocoSettings, main, run
from tests.official_coco import BOOK_INDEX, DOG_INDEX, PERSON_INDEX, crowd_mask, image_name, write_coco
from utils.data.classes import COCO_CLASSES
from utils.data.images import read_image, read_label_map
from utils.data.lists import read_id_list, read_label_list
from utils.errors import UserError
from utils.files import write_text_atomic


@pytest.fixture
def settings(tmp_path: Path) -> CocoSettings:
    return CocoSettings(write_coco(tmp_path / "coco"), tmp_path / "out", workers=1)


def _mask(out: Path, split: str, index: int) -> NDArray[np.uint8]:
    return read_label_map(out / "SegmentationClass" / f"{image_name(split, index)}.png", 80)


def _plain_mask(coco: COCO, image_id: int) -> NDArray[np.uint8]:
    """Return the mask by the recipe as it is told: every non-crowd annotation in turn overwrites."""
    info = coco.imgs[image_id]
    canvas = np.zeros((info["height"], info["width"]), np.uint8)
    ranks = {category: rank for rank, category in enumerate(sorted(coco.cats))}
    for entry in coco.imgToAnns[image_id]:
        if not entry["iscrowd"]:
            canvas[coco.annToMask(entry) == 1] = ranks[entry["category_id"]] + 1
    return canvas


def test_lists_have_the_published_formats(settings: CocoSettings) -> None:
    run(settings)
    lines = (settings.out / "train_cls.txt").read_text().splitlines()
    assert lines[0] == "COCO_train2014_000000000010 0 16"
    labels = read_label_list(settings.out / "train_cls.txt", 80)
    assert list(labels) == sorted(labels)
    assert labels[image_name("train2014", 1)] == (BOOK_INDEX,)  # the crowd does not count
    assert labels[image_name("train2014", 3)] == (DOG_INDEX,)
    assert image_name("train2014", 2) not in labels and image_name("train2014", 4) not in labels
    pair = "/JPEGImages/COCO_val2014_000000000010.jpg /SegmentationClass/COCO_val2014_000000000010.png"
    assert (settings.out / "val.txt").read_text().splitlines()[0] == pair
    assert read_id_list(settings.out / "val.txt") == list(read_label_list(settings.out / "val_cls.txt", 80))
    assert (settings.out / "classes.txt").read_text().splitlines() == list(COCO_CLASSES)
    assert len((settings.out / "labels.txt").read_text().splitlines()) == 81
    images = sorted(path.stem for path in (settings.out / "JPEGImages").iterdir())
    assert images == sorted([*labels, *read_id_list(settings.out / "val.txt")])
    assert read_image(settings.out / "JPEGImages" / f"{image_name('train2014', 3)}.jpg").mode == "RGB"


def test_masks_are_those_of_the_plain_recipe(settings: CocoSettings, capsys: pytest.CaptureFixture[str]) -> None:
    run(settings)
    for split in ("train2014", "val2014"):
        coco = COCO(settings.coco / "annotations" / f"instances_{split}.json")
        for index in (0, 1, 3, 5):
            np.testing.assert_array_equal(_mask(settings.out, split, index), _plain_mask(coco, 10 * (index + 1)))
    mask = _mask(settings.out, "train2014", 0)
    assert mask[5, 5] == PERSON_INDEX + 1 and mask[15, 15] == DOG_INDEX + 1  # the later annotation wins


def test_crowds_ignored_or_painted(settings: CocoSettings, tmp_path: Path) -> None:
    masks = {}
    for crowd in ("skip", "ignore", "object"):
        out = tmp_path / crowd
        run(CocoSettings(settings.coco, out, crowd=crowd, crowd_labels="count", workers=1))
        masks[crowd] = _mask(out, "train2014", 1)
        only_crowd = _mask(out, "train2014", 4)
        expected = {"skip": 0, "ignore": 255, "object": PERSON_INDEX + 1}[crowd]
        np.testing.assert_array_equal(only_crowd, crowd_mask() * expected)
    labels = read_label_list(tmp_path / "skip" / "train_cls.txt", 80)
    assert labels[image_name("train2014", 1)] == (PERSON_INDEX, BOOK_INDEX)
    assert labels[image_name("train2014", 4)] == (PERSON_INDEX,)
    book = masks["skip"] == BOOK_INDEX + 1
    assert (masks["ignore"][book] == BOOK_INDEX + 1).all()  # single objects lie above ignored crowds
    assert (masks["ignore"][~book] == 255 * crowd_mask()[~book]).all()
    assert (masks["object"][crowd_mask() == 1] == PERSON_INDEX + 1).all()  # in the order of the file


@pytest.mark.parametrize("counted", [True, False])
def test_auto_takes_what_agrees_with_the_published_table(
    settings: CocoSettings, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    table = [0] * 80
    table[PERSON_INDEX], table[DOG_INDEX], table[BOOK_INDEX] = (3 if counted else 1), 3, 2
    monkeypatch.setitem(prepare_coco.PUBLISHED_COUNTS, "coco14", {"train_cls.txt": tuple(table)})
    report = run(settings)
    assert len(read_label_list(settings.out / "train_cls.txt", 80)) == (5 if counted else 4)
    assert any(f"crowds {'count' if counted else 'do not count'}" in line for line in report)
    assert any("equal the published table" in line for line in report)


def test_several_processes_and_continuation(settings: CocoSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CocoSettings(settings.coco, tmp_path / "whole", images="copy", workers=2)
    run(whole)
    painted: list[str] = []
    paint = prepare_coco.paint_label_map

    def stop_at_third(image: Any, crowd: str) -> Any:
        if len(painted) == 2:
            raise KeyboardInterrupt
        painted.append(image.id)
        return paint(image, crowd)

    monkeypatch.setattr(prepare_coco, "paint_label_map", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert not list(settings.out.rglob("*.txt"))
    monkeypatch.undo()
    report = run(settings)
    assert any("2 masks written, 2 were there" in line for line in report)
    for path in sorted((tmp_path / "whole").rglob("*.*")):
        if path.is_file() and path.name != ".lock":
            assert (settings.out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert any("0 masks written, 4 were there" in line for line in run(settings))


def test_masks_follow_changed_annotations_and_rules(settings: CocoSettings) -> None:
    run(settings)
    path = settings.coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if not (a["image_id"] == 10 and a["category_id"] == 18)]
    write_text_atomic(path, json.dumps(content))
    later = max(p.stat().st_mtime_ns for p in (settings.out / "SegmentationClass").iterdir()) + 1
    os.utime(path, ns=(later, later))
    run(settings)
    assert set(np.unique(_mask(settings.out, "train2014", 0))) == {0, PERSON_INDEX + 1}
    with pytest.raises(UserError, match="holds masks made with"):
        run(CocoSettings(settings.coco, settings.out, crowd="ignore", workers=1))


def test_another_set_in_coco_format(settings: CocoSettings, tmp_path: Path) -> None:
    for split in ("train2014", "val2014"):
        path = settings.coco / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        content["categories"] = [c for c in content["categories"] if c["id"] in (1, 18, 84)]
        path.write_text(json.dumps(content))
    (settings.coco / "images").mkdir()
    (settings.coco / "train2014").rename(settings.coco / "images" / "train2014")
    report = run(settings)
    assert read_label_list(settings.out / "train_cls.txt", 3)[image_name("train2014", 1)] == (2,)
    assert (settings.out / "classes.txt").read_text().split() == ["person", "dog", "book"]
    assert "3 categories, not the 80 of COCO" in report[-1]
    assert not any("published" in line for line in report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(image_id=5), "refers to image 5"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [3, 4], "counts": [12]}), r"its size is \[3, 4\]"),
        (lambda c: c["images"][0].update(file_name="../x.jpg"), "has a folder in it"),
        (lambda c: c["images"].clear(), "no COCO instances file"),
        (lambda c: c["annotations"].clear(), "no image with an object"),
        (lambda c: c.pop("categories"), "no COCO instances file"),
    ],
)
def test_bad_annotations_are_named(settings: CocoSettings, change: Any, message: str) -> None:
    path = settings.coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        run(settings)


def test_missing_files_are_named(settings: CocoSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{image_name('val2014', 0)}.jpg"
    (settings.coco / "val2014" / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing \(1 of 4"):
        run(settings)
    (settings.coco / "val2014").rename(settings.coco / "elsewhere")
    with pytest.raises(UserError, match="unpack the images of val2014"):
        run(settings)
    (settings.coco / "annotations" / "instances_val2014.json").write_text("{")
    with pytest.raises(UserError, match="no COCO annotation file"):
        run(settings)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.mask", None)
    with pytest.raises(UserError, match="python -m pip install pycocotools"):
        run(settings)


def test_command_line(settings: CocoSettings, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--coco", str(settings.coco), "--out", str(settings.out), "--workers", "1"]
    main([*command, "--splits", "train=train2014,val=val2014"])
    assert "val2014: 6 images, 2 without labels left out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--splits", "train"])
