"""The published segmentation stage as a plain program on files: the slow side of `benchmarks.user_speed`.

    python -m benchmarks.plain_segment train FOLDER --device cuda
    python -m benchmarks.plain_segment test FOLDER --device cuda --images 24
    python -m benchmarks.plain_segment crf FOLDER --images 24        # on what `test` wrote; 0 without pydensecrf

FOLDER is in the VOC layout with train_cls.txt. Random weights; float32 eager; loading in the main process; logits of every
tested image saved as float32; pydensecrf in one process a core. Prints images/s: of the training without its first
mini-batch, of the test without its first image. The training steps after every mini-batch, not after every second.
"""

import argparse
import multiprocessing
import random
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks import plain_deeplab
from benchmarks.l2g_inputs import make_deeplab
from benchmarks.plain_run import read_labels

MEAN = (104.008, 116.669, 122.675)  # blue, green, red
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
CROP, BATCH = 321, 5
CRF_ITERATIONS, POSITION, APPEARANCE = 10, (1, 3), (67, 3, 4)  # standard deviations, then weight


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Published training samples: (3, crop, crop) float32 image, (crop, crop) int64 labels."""

    def __init__(self, root: Path, names: list[str], crop: int) -> None:
        self.root, self.names, self.crop = root, names, crop
        self.rng = random.Random(0)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.load(index, self.rng)

    def load(self, index: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return a sample; four draws in the published order."""
        image, labels = read_image(self.root, self.names[index]), read_truth(self.root, self.names[index])
        scale = rng.choice(SCALES)
        height, width = (int(side * scale) for side in labels.shape)
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
        labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        rows, columns = max(self.crop - height, 0), max(self.crop - width, 0)
        image = np.asarray(cv2.copyMakeBorder(image, 0, rows, 0, columns, cv2.BORDER_CONSTANT, value=MEAN))
        labels = np.pad(labels, ((0, rows), (0, columns)), constant_values=plain_deeplab.IGNORE)
        top = rng.randint(0, labels.shape[0] - self.crop)
        left = rng.randint(0, labels.shape[1] - self.crop)
        image = image[top : top + self.crop, left : left + self.crop]
        labels = labels[top : top + self.crop, left : left + self.crop]
        if rng.random() < 0.5:
            image, labels = np.fliplr(image), np.fliplr(labels)
        return _to_tensor(image), torch.from_numpy(labels.astype(np.int64))


def read_image(root: Path, name: str) -> NDArray[np.float32]:
    """Return the (H, W, 3) picture, blue first."""
    return np.asarray(cv2.imread(str(root / f"JPEGImages/{name}.jpg")), dtype=np.float32)


def read_truth(root: Path, name: str) -> NDArray[np.uint8]:
    """Return the (H, W) ground truth."""
    return np.array(Image.open(root / f"SegmentationClassAug/{name}.png"))


def _to_tensor(image: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy((image - np.array(MEAN, np.float32)).transpose(2, 0, 1).copy())


def train_speed(files: Crops, weights: plain_deeplab.Weights, blocks: list[int], *, batch: int, device: torch.device) -> float:
    """Return images/s of an epoch without its first mini-batch (more images than one mini-batch)."""
    trainer = plain_deeplab.Trainer(weights, blocks)
    started, done = time.monotonic(), 0
    for number, (images, labels) in enumerate(DataLoader(files, batch_size=batch, shuffle=True)):
        trainer.step(images.to(device), labels)
        if number == 0:
            started = time.monotonic()
        else:
            done += len(images)
    return done / (time.monotonic() - started)


def test_speed(root: Path, names: list[str], weights: plain_deeplab.Weights, blocks: list[int], device: torch.device) -> float:
    """Save the logits of each picture, count its pixels; return images/s without the first of >= 2 pictures."""
    (root / "logit").mkdir(exist_ok=True)
    started = time.monotonic()
    for index, name in enumerate(names):
        image = _to_tensor(read_image(root, name))[None].to(device)
        logits, _ = plain_deeplab.test_image(weights, image, read_truth(root, name), blocks)
        np.save(root / f"logit/{name}.npy", logits[0].numpy())
        if index == 0:
            started = time.monotonic()
    return (len(names) - 1) / (time.monotonic() - started)


def crf_speed(root: Path, names: list[str], workers: int) -> float:
    """Return images/s of the dense CRF on saved logits; 0 when pydensecrf is not installed."""
    if find_spec("pydensecrf") is None:
        return 0.0
    started = time.monotonic()
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(partial(_crf, root), names, chunksize=1)
    return len(names) / (time.monotonic() - started)


def _crf(root: Path, name: str) -> NDArray[np.int64]:
    import pydensecrf.densecrf as dcrf  # optional

    torch.set_num_threads(1)
    image = read_image(root, name).astype(np.uint8)
    height, width = image.shape[:2]
    logits = torch.from_numpy(np.load(root / f"logit/{name}.npy"))[None]
    large = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    probabilities = F.softmax(large, dim=1)[0].numpy()
    classes = len(probabilities)
    crf = dcrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities.clip(1e-5, 1)).reshape(classes, -1)))
    crf.addPairwiseGaussian(sxy=POSITION[0], compat=POSITION[1])
    crf.addPairwiseBilateral(sxy=APPEARANCE[0], srgb=APPEARANCE[1], rgbim=image, compat=APPEARANCE[2])
    refined = np.array(crf.inference(CRF_ITERATIONS)).reshape(classes, height, width)
    return refined.argmax(axis=0)


def main(argv: list[str]) -> None:
    """Parse the command line, run and print images/s."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "test", "crf"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu", help="default %(default)s")
    parser.add_argument("--images", type=int, default=24, help="first so many of the list, >= 2 (default %(default)s)")
    parser.add_argument("--batch", type=int, default=BATCH, help="fewer than --images (default %(default)s)")
    parser.add_argument("--crop", type=int, default=CROP, help="side, pixels (default %(default)s)")
    parser.add_argument("--blocks", type=int, nargs=4, default=(3, 4, 23, 3), help="bottlenecks a stage (default %(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="processes of the CRF (default: one a core)")
    arguments = parser.parse_args(argv)
    if arguments.images < 2 or arguments.batch >= arguments.images:
        parser.error("--images must be at least 2 and more than --batch")
    names = [name for name, _ in read_labels(arguments.folder, arguments.images)]
    if arguments.stage == "crf":
        print(crf_speed(arguments.folder, names, arguments.workers or multiprocessing.cpu_count()))
        return
    device, blocks = torch.device(arguments.device), list(arguments.blocks)
    weights = make_deeplab(blocks, device).base.state_dict()
    if arguments.stage == "train":
        files = Crops(arguments.folder, names, arguments.crop)
        print(train_speed(files, weights, blocks, batch=arguments.batch, device=device))
    else:
        print(test_speed(arguments.folder, names, weights, blocks, device))


if __name__ == "__main__":
    main(sys.argv[1:])
