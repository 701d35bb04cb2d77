import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.schema import DataConfig, SampleConfig
from utils.data.folder import DataFolder, labels_of, read_labels
from utils.data.samples import ViewDataset
from utils.errors import UserError


def test_paths(tmp_path: Path) -> None:
    data = DataConfig(root=str(tmp_path), image_dir="J", saliency_dir="/elsewhere")
    assert DataFolder.of(data).image("a") == tmp_path / "J" / "a.jpg"
    assert DataFolder.of(data).saliency("a") == Path("/elsewhere/a.png")


def test_missing_files_are_named_and_counted(tmp_path: Path) -> None:
    data = DataConfig(root=str(tmp_path))
    with pytest.raises(UserError, match=r"image folder .*JPEGImages cannot be read .*data.image_dir"):
        DataFolder.of(data).check_images(["a"])
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Sal").mkdir()
    (tmp_path / "JPEGImages" / "c.jpg").touch()
    (tmp_path / "Sal" / "a.png").touch()
    with pytest.raises(UserError, match=r"4 of 5 image files are missing in .*: a.jpg, b.jpg, d.jpg, \.\.\.; check"):
        DataFolder.of(data).check_images("abcde")
    with pytest.raises(UserError, match=r"1 of 2 saliency map files are missing in .*: b.png; check data.saliency_dir"):
        DataFolder.of(data).check_saliency("ab")
    DataFolder.of(data).check_images("c")
    DataFolder.of(data).check_saliency("a")


IMG, MASK = "sbd/benchmark_RELEASE/dataset/img", "sbd/benchmark_RELEASE/dataset/cls_png"
VOC, VOC_MASK = "voc/VOCdevkit/VOC2012/JPEGImages", "voc/VOCdevkit/VOC2012/SegmentationClass"
# Label value -> image; the VOC mask of "b" differs from SBD's, as they do.
MASKS = {f"{MASK}/a.png": 3, f"{MASK}/b.png": 1, f"{VOC_MASK}/b.png": 2, f"{VOC_MASK}/c.png": 1}


def published_tree(root: Path, **settings: Any) -> DataConfig:
    """Write the tree that WS-FCN's lists are relative to, and the lists, with three classes; return its section."""
    for name, value in MASKS.items():
        mask = np.zeros((6, 8), np.uint8)
        mask[1:4, 2:5], mask[4] = value, 255
        for path in (root / name, root / name.replace(MASK, IMG).replace(VOC_MASK, VOC).replace(".png", ".jpg")):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    test = root / "voc_test/VOCdevkit/VOC2012/JPEGImages/t.jpg"
    test.parent.mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(test)
    (root / "train_augvoc.txt").write_text(f"{IMG}/a.jpg {MASK}/a.png\n{IMG}/b.jpg {MASK}/b.png\n")
    (root / "val_voc.txt").write_text(f"{VOC}/b.jpg {VOC_MASK}/b.png\n{VOC}/c.jpg {VOC_MASK}/c.png\n")
    (root / "test.txt").write_text("voc_test/VOCdevkit/VOC2012/JPEGImages/t.jpg\n")
    lists = {"train_list": str(root / "train_augvoc.txt"), "infer_list": str(root / "test.txt")}
    common = {"root": str(root), "num_classes": 3, "paths": "lists", "labels_from": "masks", "workers": 0, **lists}
    return DataConfig(**{**common, **settings})


def test_the_paths_of_the_list_at_hand_count(tmp_path: Path) -> None:
    data = published_tree(tmp_path)
    train, val = str(tmp_path / "train_augvoc.txt"), str(tmp_path / "val_voc.txt")
    assert DataFolder.of(data, train).truth("b") == tmp_path / MASK / "b.png"
    both = DataFolder.of(data, val, train)
    assert (both.truth("b"), both.image("b")) == (tmp_path / VOC_MASK / "b.png", tmp_path / VOC / "b.jpg")
    assert both.truth("a") == tmp_path / MASK / "a.png"
    assert both.image_ids() == ["a", "b", "c"]
    assert pickle.loads(pickle.dumps(both)) == both
    tested = DataFolder.of(data, data.infer_list)
    tested.check_images("t")
    assert not tested.truth("t").exists()
    data.paths = "folders"
    assert DataFolder.of(data, val).truth("b") == tmp_path / "SegmentationClassAug" / "b.png"


def test_labels_from_masks_are_those_of_the_list(tmp_path: Path) -> None:
    data = published_tree(tmp_path)
    assert read_labels(data, data.train_list) == {"a": (2,), "b": (0,)}
    assert labels_of(data, str(tmp_path / "val_voc.txt")) == {"b": (1,), "c": (0,)}
    samples = ViewDataset(data, SampleConfig(input_size=8, saliency="none"), 0)
    assert samples[0, 0]["labels"].tolist() == [0, 0, 1] and samples[0, 0]["id"] == "a"


def test_a_list_without_masks_has_no_labels(tmp_path: Path) -> None:
    data = published_tree(tmp_path)
    assert read_labels(data, data.infer_list, labels_required=False) == {"t": ()}
    with pytest.raises(UserError, match=r"test.txt gives no mask for 't' \(1 such images\), and data.labels_from=masks"):
        read_labels(data, data.infer_list)
    data.paths = "folders"
    with pytest.raises(
        UserError, match=r"mask folder .*SegmentationClassAug cannot be read .*check data.root and data.label_dir"
    ):
        read_labels(data, data.infer_list)


def test_a_mask_without_a_class_is_named(tmp_path: Path) -> None:
    data = published_tree(tmp_path)
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(tmp_path / MASK / "b.png")
    with pytest.raises(UserError, match=r"'b' of .*train_augvoc.txt has no classes \(1 such images; data.labels_from=masks\)"):
        read_labels(data, data.train_list)


def test_path_lists_take_labels_from_the_label_list(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("b 2\na 0 1\n")
    data = published_tree(tmp_path, labels_from="lists", label_list=str(tmp_path / "labels.txt"))
    assert list(read_labels(data, data.train_list).items()) == [("a", (0, 1)), ("b", (2,))]
    (tmp_path / "labels.txt").write_text("b 2\n")
    with pytest.raises(UserError, match=r"labels.txt has no line for 'a' of .*train_augvoc.txt \(1 such ids\)"):
        read_labels(data, data.train_list)


def test_coco_names_in_two_folders(tmp_path: Path) -> None:
    names = [f"images/{split}2014/COCO_{split}2014_{{id}}.jpg" for split in ("train", "val")]
    for name, image_id in zip(names, ("000000000009", "000000057870"), strict=True):
        path = tmp_path / name.format(id=image_id)
        path.parent.mkdir(parents=True)
        path.touch()
    data = DataConfig(root=str(tmp_path), image_dir=names, label_dir="coco_seg_anno")
    folder = DataFolder.of(data)
    folder.check_images(["000000057870", "000000000009"])
    assert folder.image("000000057870") == tmp_path / "images/val2014/COCO_val2014_000000057870.jpg"
    assert folder.truth("000000057870") == tmp_path / "coco_seg_anno/000000057870.png"
    assert folder.image_ids() == ["000000000009", "000000057870"]
    with pytest.raises(UserError, match=r"1 of 1 image files are missing in .*: COCO_train2014_7.jpg"):
        folder.check_images(["7"])
    with pytest.raises(UserError, match=r"cam.dir .*val2014 is the folder of data.image_dir"):
        folder.refuse_output(tmp_path / "images/val2014", "cam.dir")
    with pytest.raises(UserError, match=r"data.image_dir is 3, expected a folder"):
        DataFolder.of(DataConfig(image_dir=3))


def test_folders_of_listed_files_are_no_outputs(tmp_path: Path) -> None:
    folder = DataFolder.of(published_tree(tmp_path), str(tmp_path / "val_voc.txt"))
    with pytest.raises(UserError, match=r"pseudo.out_dir .* is the folder of data.label_dir"):
        folder.refuse_output(tmp_path / VOC_MASK, "pseudo.out_dir")
