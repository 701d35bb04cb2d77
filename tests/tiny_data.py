"""A handful of small pictures in the VOC layout, written by the tests themselves."""

from pathlib import Path

import numpy as np
from PIL import Image

from configs.schema import Config
from models.method import find_method
from scripts.build import load_config

CLASSES = 3
CONFIGS = Path(__file__).parents[1] / "configs"


def write_tiny_voc(root: Path, images: int = 6, size: tuple[int, int] = (48, 40), seed: int = 0) -> Path:
    """Write `images` pictures of coloured squares (class = colour) with masks, saliency and lists below `root`."""
    rng = np.random.default_rng(seed)
    width, height = size
    for folder in ("JPEGImages", "Sal", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    labels, pairs = [], []
    for index in range(images):
        name = f"img_{index:03d}"
        picture = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        classes = sorted({index % CLASSES, (index * 2 + 1) % CLASSES})
        for k in classes:
            x, y = int(rng.integers(0, width - 16)), int(rng.integers(0, height - 16))
            picture[y : y + 14, x : x + 14, k] += 150
            mask[y : y + 14, x : x + 14] = k + 1
        present = sorted(int(v) - 1 for v in np.unique(mask) if v > 0)
        Image.fromarray(picture).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(root / "SegmentationClassAug" / f"{name}.png")
        Image.fromarray(((mask > 0) * 230).astype(np.uint8)).save(root / "Sal" / f"{name}.png")
        labels.append(" ".join([name, *map(str, present)]))
        pairs.append(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png")
    (root / "train_cls.txt").write_text("\n".join(labels) + "\n")
    (root / "train_aug.txt").write_text("\n".join(pairs))
    return root


# Of the published configurations of a section, what makes them small.
SMALL = {
    "l2g": ["l2g.input_size=32", "l2g.crop_size=24", "l2g.patches=4", "l2g.short_side=40"],
    "wsfcn": [
        "wsfcn.input_size=32",
        "wsfcn.decoder_width=8",
        "wsfcn.pamr.iterations=2",
        "validation.image_list=",
        "validation.log_list=",
    ],
    "crt": [
        *("crt.input_size=32", "crt.long_side=[24,40]", "crt.vit.depth=2", "crt.vit.width=16", "crt.vit.heads=2"),
        *("crt.vit.patch=8", "crt.vit.tile=16", "crt.vit.tile_stride=8", "crt.vit.passes=2", "crt.vit.pretrained="),
        *("crt.cnn_frozen=[]", "model.backbone=resnet38", "validation.image_list="),
    ],
    "irn": [
        *("model.backbone=resnet38", "irn.input_size=64", "irn.radius=3", "irn.pad_size=64"),
        *("irn.seed_dir=${data.root}/${data.label_dir}", "data.infer_list=${data.train_list}"),
    ],
    "crt_wsol": [
        *("crt_wsol.input_size=32", "crt_wsol.short_side=40", "crt_wsol.vit.depth=2", "crt_wsol.vit.width=16"),
        *("crt_wsol.vit.heads=2", "crt_wsol.vit.patch=8", "crt_wsol.vit.tile=32", "crt_wsol.vit.tile_stride=32"),
        *("crt_wsol.vit.pretrained=", "crt_wsol.cnn_frozen=[]", "crt_wsol.l1_period=2", "model.backbone=resnet38"),
        *("cam.input_size=[32,32]", "boxes.size=[32,32]", "boxes.file=", "train.keep_epochs=[]"),
        "crt_wsol.cnn_lr=0.000001",  # a trunk with random weights and fixed norms
    ],
}


# Section -> its published configuration, where that is not <section>_voc.
PRESETS = {"crt_wsol": "wsol_cub"}


def preset(section: str) -> Path:
    """Return the published configuration of a section."""
    return CONFIGS / f"{PRESETS.get(section, f'{section}_voc')}.yaml"


def tiny_config(tmp_path: Path, *overrides: str) -> Config:
    """Return a configuration that trains a very narrow ResNet-38 on `tmp_path/data` in seconds, by default with L2G."""
    method = next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("method=")), "l2g")
    section = find_method(method).section or method
    if not (tmp_path / "data").exists():
        write_tiny_voc(tmp_path / "data")
    return load_config(preset(section), [*tiny_settings(tmp_path, section), *overrides])


def tiny_settings(folder: Path, section: str) -> list[str]:
    """Return what makes the published configuration of a method's `section` one of the tiny set `folder`/data."""
    root = folder / "data"
    return [
        f"run_dir={folder / 'run'}",
        f"data.root={root}",
        f"data.num_classes={CLASSES}",
        "data.class_names=[red,green,blue]",
        "data.workers=0",
        "device=cpu",
        "model.width=0.0625",
        "model.pretrained=",
        "model.dropout=false",
        "train.batch_size=2",
        "train.epochs=2",
        "train.log_every=1",
        "train.images_every=0",
        "train.published_name=",
        *SMALL[section],
        "cam.scales=[1.0]",
        "eval.workers=1",
        "pseudo.workers=1",
        f"pseudo.out_dir={folder / 'pseudo'}",
    ]
