"""The published first stage as a plain program on files: the slow side of `benchmarks.user_speed`.

    python -m benchmarks.plain_run train FOLDER --device cuda --images 24 --epochs 2
    python -m benchmarks.plain_run infer FOLDER --device cuda --images 24
    python -m benchmarks.plain_run sweep FOLDER --images 24      # five thresholds, on the CAMs of FOLDER/cams
    python -m benchmarks.plain_run labels FOLDER --images 24

FOLDER is in the VOC layout with train_cls.txt. Random weights; float32 eager; loading by PIL and torchvision in loader
processes; one forward a view; one PNG a class, written before the next image; sweep and labels in one process. Prints
images/s: of the training without its first epoch, of the inference without its first image.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF

from benchmarks import plain, plain_files
from benchmarks.l2g_inputs import make_network, published_weights
from benchmarks.plain_sample import CROP, MEAN, SHORT, SIDE, STD, load_sample
from benchmarks.program_runs import CLASSES, LIST_NAME
from utils.data.samplers import sample_rng

SCALES = (0.5, 1.0, 1.5, 2.0)
KD_WEIGHT, THRESHOLD, RATE = 10.0, 0.001, 0.001
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3)

# id -> present classes.
Labels = list[tuple[str, tuple[int, ...]]]


class TrainingFiles(Dataset[dict[str, Tensor]]):
    """The published samples of a folder; `sizes` are short side, view and crop, pixels."""

    def __init__(self, root: Path, labels: Labels, sizes: tuple[int, int, int]) -> None:
        self.root, self.labels, self.sizes = root, labels, sizes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        (name, classes), rng = self.labels[index], sample_rng(0, 0, index)
        paths = (self.root / f"JPEGImages/{name}.jpg", self.root / f"Sal/{name}.png")
        target = torch.zeros(CLASSES)
        target[list(classes)] = 1
        return {**load_sample(*paths, rng.numpy, rng.python, sizes=self.sizes), "labels": target}


class InferenceFiles(Dataset[tuple[str, list[Tensor], tuple[int, ...]]]):
    """Name, all views (1, 3, h, w) and classes of each picture of a folder."""

    def __init__(self, root: Path, labels: Labels) -> None:
        self.root, self.labels = root, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[str, list[Tensor], tuple[int, ...]]:
        name, classes = self.labels[index]
        image = Image.open(self.root / f"JPEGImages/{name}.jpg").convert("RGB")
        sizes = [(round(image.width * s), round(image.height * s)) for s in SCALES]
        views = [TF.normalize(TF.to_tensor(image.resize(s, Image.Resampling.BICUBIC)), MEAN, STD)[None] for s in sizes]
        return name, [v for view in views for v in (view, view.flip(3))], classes


def train_speed(files: TrainingFiles, *, device: torch.device, width: float, batch: int, workers: int, epochs: int) -> float:
    """Return images/s of `epochs` >= 2 epochs, the first left out."""
    weights = [published_weights(make_network(width, CLASSES, device, seed=seed)) for seed in (0, 1)]
    trainer = plain.Trainer(
        weights[0], weights[1], crop_size=files.sizes[2], kd_weight=KD_WEIGHT, threshold=THRESHOLD, rate=RATE
    )
    started = time.monotonic()
    for epoch in range(epochs):
        loader = DataLoader(files, batch_size=batch, num_workers=workers, pin_memory=device.type == "cuda")
        for loaded in loader:
            trainer.step(**{k: v if k == "boxes" else v.to(device) for k, v in loaded.items()})["kd"].item()
        if epoch == 0:
            started = time.monotonic()
    return (epochs - 1) * len(files) / (time.monotonic() - started)


@torch.inference_mode()
def inference_speed(files: InferenceFiles, out: Path, *, device: torch.device, width: float, workers: int) -> float:
    """Write the CAMs to `out`; return images/s without the first image (>= 2 images)."""
    out.mkdir(parents=True, exist_ok=True)
    weights = published_weights(make_network(width, CLASSES, device, seed=0))
    loader: DataLoader[Any] = DataLoader(files, batch_size=None, num_workers=workers)
    started = time.monotonic()
    for index, (name, views, classes) in enumerate(loader):
        moved = [view.to(device) for view in views]
        cams = plain.cams(weights, moved, (views[2].shape[2], views[2].shape[3]), classes).cpu().numpy()
        for k, cam in zip(classes, cams, strict=True):
            cv2.imwrite(str(out / f"{name}_{k}.png"), np.asarray(cam))
        if index == 0:
            started = time.monotonic()
    return (len(files) - 1) / (time.monotonic() - started)


def files_speed(stage: str, root: Path, labels: Labels) -> float:
    """Sweep the thresholds, or write label maps; return images/s."""
    started = time.monotonic()
    if stage == "sweep":
        plain_files.sweep(root / "cams", root / "SegmentationClassAug", dict(labels), CLASSES, THRESHOLDS)
    else:
        out = root / "plain_labels"
        out.mkdir(exist_ok=True)
        plain_files.gen_gt(root / "JPEGImages", root / "cams", out, dict(labels), CLASSES, THRESHOLDS[-1])
    return len(labels) / (time.monotonic() - started)


def read_labels(root: Path, images: int) -> Labels:
    """Return the first `images` lines of the folder's list."""
    lines = [line.split() for line in (root / LIST_NAME).read_text(encoding="utf-8").splitlines()[:images]]
    return [(name, tuple(int(k) for k in classes)) for name, *classes in lines]


def main(argv: list[str]) -> None:
    """Parse the command line, run and print images/s."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "infer", "sweep", "labels"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu", help="default %(default)s")
    parser.add_argument("--images", type=int, default=24, help="first so many of the list, >= 2 (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="of the training, >= 2 (default %(default)s)")
    parser.add_argument("--batch", type=int, default=3, help="default %(default)s")
    parser.add_argument("--workers", type=int, default=8, help="loader processes (default %(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="of ResNet-38 (default %(default)s)")
    sizes = (SHORT, SIDE, CROP)
    parser.add_argument("--sizes", type=int, nargs=3, default=sizes, help="short side, view, crop (default %(default)s)")
    arguments = parser.parse_args(argv)
    if min(arguments.images, arguments.epochs) < 2:
        parser.error("--images and --epochs must be at least 2")
    labels, common = read_labels(arguments.folder, arguments.images), {"width": arguments.width, "workers": arguments.workers}
    device = torch.device(arguments.device)
    if arguments.stage == "train":
        files = TrainingFiles(arguments.folder, labels, tuple(arguments.sizes))
        speed = train_speed(files, device=device, batch=arguments.batch, epochs=arguments.epochs, **common)
    elif arguments.stage in ("sweep", "labels"):
        speed = files_speed(arguments.stage, arguments.folder, labels)
    else:
        speed = inference_speed(InferenceFiles(arguments.folder, labels), arguments.folder / "plain", device=device, **common)
    print(speed)


if __name__ == "__main__":
    main(sys.argv[1:])
