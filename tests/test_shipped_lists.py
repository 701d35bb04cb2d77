"""The lists in data/: they are the published ones, and pictures beside them are all that training needs."""

from pathlib import Path

import pytest
from PIL import Image

from configs.deeplab_schema import DeepLabConfig
from scripts.build import load_config
from utils.config import load_schema
from utils.data.items import evaluation_items, training_items
from utils.data.lists import read_id_list, read_label_list
from utils.data.samples import ViewDataset
from utils.prepare.disk import check_cheaply
from utils.prepare.layout import PUBLISHED_COUNTS, images_per_class

ROOT = Path(__file__).parents[1]
VOC, COCO = ROOT / "data" / "voc12", ROOT / "data" / "coco14"


@pytest.mark.parametrize(
    ("path", "images", "classes", "labels"),
    [
        (VOC / "train_cls.txt", 10582, 20, 15555),
        (VOC / "val_cls.txt", 1449, 20, None),
        (COCO / "train_cls.txt", 82081, 80, None),
        (COCO / "val_cls.txt", 40137, 80, None),
    ],
)
def test_they_are_the_published_ones(path: Path, images: int, classes: int, labels: int | None) -> None:
    found = read_label_list(path, classes)
    counts = tuple(images_per_class(found, classes))
    assert len(found) == images
    assert labels is None or sum(counts) == labels
    assert counts == PUBLISHED_COUNTS.get(path.parent.name, {}).get(path.name, counts)


def test_the_lists_of_voc_agree() -> None:
    train, val = read_id_list(VOC / "train_aug.txt"), read_id_list(VOC / "val.txt")
    assert train == list(read_label_list(VOC / "train_cls.txt", 20))
    assert val == list(read_label_list(VOC / "val_cls.txt", 20)) == read_id_list(VOC / "val_aug.txt")
    official = set(read_id_list(VOC / "train.txt"))
    assert len(official) == 1464 and official <= set(train) and not set(train) & set(val)


def _tree(root: Path, lists: Path, ids: list[str], labels: str) -> Path:
    """Write a tree of pictures, label maps and saliency alone, and put the shipped lists beside them."""
    for folder, name in (("JPEGImages", "x.jpg"), (labels, "x.png"), ("Sal", "x.png")):
        (root / folder).mkdir(parents=True)
        Image.new("RGB" if name == "x.jpg" else "L", (40, 32)).save(root / name)
        for image_id in ids:
            (root / folder / f"{image_id}{Path(name).suffix}").symlink_to(root / name)
    for path in lists.glob("*.txt"):
        (root / path.name).symlink_to(path)
    return root


@pytest.mark.parametrize("which", ["voc", "coco"])
def test_a_plain_tree_trains_at_once(tmp_path: Path, which: str) -> None:
    lists = {"voc": VOC, "coco": COCO}[which]
    shipped = [path for name in ("train_cls.txt", "val_cls.txt") for path in read_id_list(lists / name)]
    folder = {"voc": "SegmentationClassAug", "coco": "SegmentationClass"}[which]
    root = _tree(tmp_path / "data", lists, shipped if which == "voc" else shipped[:2000], folder)
    if which == "coco":
        (root / "train_cls.txt").unlink()
        lines = (lists / "train_cls.txt").read_text().splitlines(keepends=True)
        (root / "train_cls.txt").write_text("".join(lines[:2000]))
    cfg = load_config(ROOT / "configs" / f"l2g_{which}.yaml", [f"data.root={root}", "l2g.input_size=32", "l2g.crop_size=24"])
    dataset = ViewDataset(cfg.data, cfg.settings, cfg.seed)
    assert len(dataset) == {"voc": 10582, "coco": 2000}[which]
    assert dataset[(0, len(dataset) - 1)]["images"].shape == (3, 32, 32)
    assert not [w for w in check_cheaply(cfg, dataset.labels, 1) if "cannot be read" in w]
    path = ROOT / "configs" / f"{which}{'12' * (which == 'voc')}_resnet_dplv2.yaml"
    stage = load_schema(path, [f"dataset.root={root}"], DeepLabConfig)
    items, labels = training_items(stage.dataset, fully_supervised=False)
    assert len(items) == len(dataset) and labels == [root / "pseudo_seg_labels"]
    val = evaluation_items(stage.dataset)
    assert len(val) == {"voc": 1449, "coco": 40137}[which]
    assert val[0].labels == root / folder / f"{val[0].image_id}.png"
