"""A very narrow segmentation network on the tiny VOC set: seconds on a CPU."""

from pathlib import Path

import yaml
from PIL import Image

from configs.deeplab_schema import DeepLabConfig
from tests.tiny_data import CLASSES, write_tiny_voc
from utils.config import load_schema


def write_labels(root: Path, name: str) -> None:
    """Write label maps that are the ground truth but for one ignored pixel."""
    (root / name).mkdir()
    for path in (root / "SegmentationClassAug").glob("*.png"):
        with Image.open(path) as image:
            image.putpixel((0, 0), 255)
            image.save(root / name / path.name)


def tiny_deeplab(tmp_path: Path, *overrides: str) -> DeepLabConfig:
    """Return a configuration over `tmp_path/data`, whose labels in `pseudo` are the ground truth but for a pixel each."""
    root = tmp_path / "data"
    if not root.exists():
        write_tiny_voc(root)
        write_labels(root, "made")
        (root / "pseudo").symlink_to(root / "made")
    path = tmp_path / "deeplab.yaml"
    path.write_text(yaml.safe_dump({"DATASET": {"NAME": "tiny", "N_CLASSES": CLASSES + 1}}))
    return load_schema(path, [*tiny_deeplab_settings(tmp_path), *overrides], DeepLabConfig)


def tiny_deeplab_settings(folder: Path) -> list[str]:
    """Return the settings of such a network over `folder`/data."""
    root = folder / "data"
    return [
        f"exp.output_dir={folder / 'out'}",
        "exp.id=tiny",
        f"dataset.root={root}",
        f"dataset.train_list={root / 'train_aug.txt'}",
        f"dataset.val_list={root / 'train_aug.txt'}",
        "dataset.label_dir=pseudo",
        "device=cpu",
        "image.size.train=33",
        "image.size.test=48",
        "model.name=DeepLabV2_Backbone_MSC",
        "model.backbone=resnet38",
        "model.width=0.0625",
        "model.freeze_bn=false",
        "model.msc_scales=[0.75]",
        "model.atrous_rates=[1,2]",
        "solver.batch_size.train=4",
        "solver.iter_max=6",
        "solver.iter_size=2",
        "solver.iter_tb=1",
        "solver.iter_save=3",
        "solver.lr_decay=1",
        "solver.lr=0.0005",
        "train.images_every=0",
        "crf.workers=1",
        "crf.iter_max=2",
    ]
