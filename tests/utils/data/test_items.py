"""Which label maps a training takes, and which it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.deeplab_schema import DatasetConfig
from tests.tiny_data import CLASSES, write_tiny_voc
from utils.data.items import labelled_items, training_items
from utils.errors import UserError


def _dataset(root: Path, **settings: object) -> DatasetConfig:
    if not root.exists():
        write_tiny_voc(root)
    dataset = DatasetConfig(root=str(root), n_classes=CLASSES + 1)
    for name, value in settings.items():
        setattr(dataset, name, value)
    return dataset


def _labels(dataset: DatasetConfig) -> list[str]:
    items, _ = training_items(dataset, fully_supervised=False)
    return [item.image_id for item in labelled_items(dataset, items, fully_supervised=False)]


def _write(root: Path, name: str, count: int) -> None:
    (root / name).mkdir()
    for index in range(count):
        Image.fromarray(np.full((40, 48), 1, np.uint8)).save(root / name / f"img_{index:03d}.png")


@pytest.mark.parametrize("name", ["SegmentationClassAug", "SegmentationClass", "coco_seg_anno", "mine"])
def test_ground_truth_is_refused_by_name(tmp_path: Path, name: str) -> None:
    dataset = _dataset(tmp_path / "data", label_dir=name, truth_dir="mine" if name == "mine" else "SegmentationClassAug")
    with pytest.raises(UserError, match=f"{name}, which is ground truth.*fully_supervised=true"):
        training_items(dataset, fully_supervised=False)
    training_items(dataset, fully_supervised=True)


@pytest.mark.parametrize("kind", ["copy", "link", "written anew"])
def test_ground_truth_is_refused_under_any_name(tmp_path: Path, kind: str) -> None:
    dataset = _dataset(tmp_path / "data", label_dir="pseudo")
    truth, pseudo = tmp_path / "data" / "SegmentationClassAug", tmp_path / "data" / "pseudo"
    if kind == "link":
        pseudo.symlink_to(truth)
    else:
        shutil.copytree(truth, pseudo)
    if kind == "written anew":
        for path in pseudo.glob("*.png"):
            with Image.open(path) as image:
                image.save(path, optimize=True, compress_level=1)
    with pytest.raises(UserError, match="pseudo, wh.*fully_supervised=true"):
        _labels(dataset)
    items, _ = training_items(dataset, fully_supervised=True)
    assert len(labelled_items(dataset, items, fully_supervised=True)) == 6


def test_a_second_label_set_is_looked_at_too(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data", label_dirs=["a", "b"])
    _write(tmp_path / "data", "a", 6)
    shutil.copytree(tmp_path / "data" / "SegmentationClassAug", tmp_path / "data" / "b")
    with pytest.raises(UserError, match="b, where 6 of 6 maps compared are ground truth"):
        _labels(dataset)
    (tmp_path / "data" / "b" / "img_002.png").unlink()
    dataset.label_fusion = "first"
    with pytest.raises(UserError, match=r"1 of 12 label map files are missing in .*b: img_002\.png"):
        _labels(dataset)


def test_missing_labels_are_counted(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data", label_dir="pseudo")
    with pytest.raises(UserError, match="label map folder .*pseudo cannot be read"):
        _labels(dataset)
    (tmp_path / "data" / "pseudo").mkdir()
    with pytest.raises(UserError, match="pseudo holds no label map of the 6 images of train_aug"):
        _labels(dataset)
    (tmp_path / "data" / "pseudo").rmdir()
    _write(tmp_path / "data", "pseudo", 4)
    with pytest.raises(UserError, match=r"2 of 6 .* missing .*4 of 6 images .*dataset\.allow_missing_labels=true"):
        _labels(dataset)
    dataset.allow_missing_labels = True
    assert _labels(dataset) == [f"img_{index:03d}" for index in range(4)]


def test_published_list_folders_are_known(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "data", label_dir="pseudo")
    (tmp_path / "data" / "List").mkdir()
    (tmp_path / "data" / "List" / "train_2014.txt").write_text("img_000\nimg_001\n")
    dataset.split.train, dataset.truth_dir = "train_2014", "coco_seg_anno"
    items, folders = training_items(dataset, fully_supervised=False)
    assert [item.labels for item in items] == [folders[0] / f"img_00{n}.png" for n in range(2)]
