"""Small data sets on disk for the evaluation and pseudo-label tests, read from the golden fixture or drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.schema import Config
from scripts.build import load_config

GOLDEN = Path(__file__).parent / "golden"
NUM_CLASSES = {"voc12": 20, "coco14": 80}


def golden() -> dict[str, Any]:
    """Return the arrays of evaluate_gen_gt.npz."""
    with np.load(GOLDEN / "evaluate_gen_gt.npz") as file:
        return dict(file)


def golden_classes(arrays: dict[str, Any], dataset: str) -> list[tuple[int, ...]]:
    """Return the classes of the fixture's four images."""
    return [tuple(int(c) for c in line.split(",")) for line in arrays[f"{dataset}_labels"].tolist()]


# Ground truth, CAM of each present class, saliency.
Picture = tuple[NDArray[np.uint8], dict[int, NDArray[np.uint8]], NDArray[np.uint8] | None]


def write_set(root: Path, images: Mapping[str, Picture]) -> None:
    """Write images, lists, ground truth, CAMs and saliency of id -> (ground truth, class -> CAM, saliency)."""
    for folder in ("JPEGImages", "SegmentationClassAug", "Sal", "cams"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lines, pairs = [], []
    for name, (truth, cams, saliency) in images.items():
        Image.new("RGB", truth.shape[::-1]).save(root / f"JPEGImages/{name}.jpg")
        Image.fromarray(truth).save(root / f"SegmentationClassAug/{name}.png")
        for class_index, cam in cams.items():
            Image.fromarray(cam).save(root / f"cams/{name}_{class_index}.png")
        if saliency is not None:
            Image.fromarray(saliency).save(root / f"Sal/{name}.png")
        lines.append(" ".join([name, *map(str, cams)]))
        pairs.append(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png")
    # The two lists in different orders: joining them by line number would pair the wrong labels.
    (root / "train_cls.txt").write_text("\n".join(reversed(lines)) + "\n")
    (root / "train_aug.txt").write_text("\n".join(pairs))


def write_golden_set(root: Path, dataset: str) -> None:
    """Write the fixture's four images of `dataset` below `root`."""
    arrays = golden()
    images: dict[str, Picture] = {}
    for i, classes in enumerate(golden_classes(arrays, dataset)):
        cams = {c: arrays[f"{dataset}_att_{i}_{c}"] for c in classes}
        images[f"image_{i}"] = (arrays[f"{dataset}_gt_{i}"], cams, None)
    write_set(root, images)


def make_config(root: Path, num_classes: int, *overrides: str) -> Config:
    """Return a configuration that reads the set below `root` and writes to `root`/out, in this process."""
    names = ",".join(f"class{k}" for k in range(num_classes))
    yaml = root / "config.yaml"
    yaml.write_text(
        f"run_dir: {root}/out\ndata:\n  root: {root}\n  num_classes: {num_classes}\n  class_names: [{names}]\n"
        f"cam:\n  dir: {root}/cams\neval:\n  workers: 1\npseudo:\n  workers: 1\n"
    )
    return load_config(yaml, list(overrides))
