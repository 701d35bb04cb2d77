"""Samples of the segmentation stage: augmented crops for training, whole images for testing."""

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch.utils.data import Dataset, default_collate

from configs.deeplab_schema import IGNORE_LABEL, PLAIN, DatasetConfig, DeepLabConfig, ImageConfig
from utils.data.folder import check_files
from utils.data.images import read_label_map
from utils.data.items import Item
from utils.data.samplers import Key, SampleRng, sample_rng
from utils.data.samples import BLANK, BLANK_SIZE
from utils.data.transforms import apply_jitter, channels, read_pixels, to_input

MIRROR_CHANCE = 0.5
CLASSES = "dataset.n_classes"
# Strong augmentation of CDL-e: (operation, lowest, highest factor) of the colour jitter, and chances of each step.
JITTER = (("brightness", 0.5, 1.5), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5), ("hue", -0.25, 0.25))
JITTER_CHANCE, GREY_CHANCE, BLUR_CHANCE, BLUR_RADIUS = 0.8, 0.2, 0.5, (0.1, 2.0)

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]


class Draws(NamedTuple):
    """What was drawn for a sample: `size` is its (height, width) once scaled, top and left those of the crop."""

    scale: float
    top: int
    left: int
    mirror: float
    size: tuple[int, int]


def draw_crop(
    rng: random.Random, size: tuple[int, int], *, crop: int, scales: Sequence[float], base: int | None = None
) -> Draws:
    """Draw where a sample comes from, the published way.

    Draws, in this order: choice of the scale, top, left (both ends included, drawn even when there is one place only),
    mirror.

    Args:
        rng: what is drawn from.
        size: (H, W) of the image.
        crop: side of the sample, pixels.
        scales: to choose from.
        base: long side the random scale is relative to, pixels (one resize does both); None: the image's own.
    """
    height, width = size if base is None else _long_side(*size, base)
    scale = rng.choice(scales)
    height, width = int(height * scale), int(width * scale)
    top, left = rng.randint(0, max(height, crop) - crop), rng.randint(0, max(width, crop) - crop)
    return Draws(scale, top, left, rng.random(), (height, width))


def cut_image(image: Floats, draws: Draws, *, crop: int, mean: Floats) -> Floats:
    """Return (crop, crop, 3) of an image (H, W, 3) float32 grey levels, padded with (3,) `mean`, not yet subtracted."""
    height, width = draws.size
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    down, right = max(0, crop - height), max(0, crop - width)  # at the bottom and on the right only
    if down or right:
        image = np.asarray(cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT, value=mean.tolist()), np.float32)
    return _cut(image, draws, crop)


def cut_labels(labels: Labels, draws: Draws, *, crop: int) -> Labels:
    """Return (crop, crop) of a label map (H, W), padded with 255."""
    height, width = draws.size
    labels = np.asarray(Image.fromarray(labels).resize((width, height), resample=Image.Resampling.NEAREST))
    down, right = max(0, crop - height), max(0, crop - width)
    if down or right:
        labels = np.pad(labels, ((0, down), (0, right)), constant_values=IGNORE_LABEL)
    return _cut(labels, draws, crop)


def _cut(pixels: Any, draws: Draws, crop: int) -> Any:
    part = pixels[draws.top : draws.top + crop, draws.left : draws.left + crop]
    return part[:, ::-1] if draws.mirror < MIRROR_CHANCE else part


def _long_side(height: int, width: int, side: int) -> tuple[int, int]:
    if height > width:
        return side, int(side * width / height)
    return int(side * height / width), side


class StrongDraws(NamedTuple):
    """What was drawn for a strong copy: gates in [0, 1), jitter (name, factor) in the order applied, blur radius in pixels."""

    jitter_gate: float
    jitter: list[tuple[str, float]]
    grey_gate: float
    blur_gate: float
    radius: float


def draw_strong(rng: SampleRng) -> StrongDraws:
    """Draw CDL-e's strong augmentation; see `strong_copy`.

    Draws, in this order: jitter gate (Python), order of the four operations and their factors (torch), grey gate (torch), blur
    gate (Python), radius in pixels (NumPy); jitter and radius only where their gates say so.
    """
    gate, jitter = rng.python.random(), []
    if gate < JITTER_CHANCE:
        order = torch.randperm(len(JITTER), generator=rng.generator).tolist()
        factors = [(name, torch.empty(1).uniform_(low, high, generator=rng.generator).item()) for name, low, high in JITTER]
        jitter = [factors[index] for index in order]
    grey = torch.rand(1, generator=rng.generator).item()
    blur = rng.python.random()
    return StrongDraws(gate, jitter, grey, blur, float(rng.numpy.uniform(*BLUR_RADIUS)) if blur < BLUR_CHANCE else 0.0)


def strong_copy(image: Floats, draws: StrongDraws, order: str) -> Floats:
    """Return a crop (S, S, 3) in other colours, as CDL-e's third classifier sees it; where things are does not change.

    Args:
        image: grey levels in channel order `order`, cut off to whole ones (published; the padding's too).
        draws: of `draw_strong`.
        order: bgr or rgb.
    """
    flip = -1 if order == "bgr" else 1
    picture = Image.fromarray(np.ascontiguousarray(image.astype(np.uint8)[:, :, ::flip]))
    if draws.jitter:
        picture = Image.fromarray(apply_jitter(picture, draws.jitter))
    if draws.grey_gate < GREY_CHANCE:
        picture = picture.convert("L").convert("RGB")
    if draws.blur_gate < BLUR_CHANCE:
        picture = picture.filter(ImageFilter.GaussianBlur(draws.radius))
    return np.asarray(picture)[:, :, ::flip].astype(np.float32)


class CropDataset(Dataset[dict[str, Any]]):
    """Training samples, addressed by (epoch, index); the same key always gives the same sample.

    An item holds "images" (3, S, S) float32, "labels" (S, S) int64 with 255 ignored, "id"; for CDL also "truth" as labels,
    where any image has ground truth, and for CDL-e "strong" as images.

    Args:
        items: images with labels.
        dataset: scales, number of classes, how several label sets are joined.
        image: mean, scale, channel order and crop side.
        seed: of the run.
        method: plain, cdl_b or cdl_e.

    Raises:
        UserError: for missing files (at once), damaged or ill-fitting ones (when read).
    """

    def __init__(
        self, items: Sequence[Item], dataset: DatasetConfig, image: ImageConfig, seed: int, method: str = PLAIN
    ) -> None:
        self.items, self.dataset, self.image, self.seed = items, dataset, image, seed
        self.strong, self.compares = method == "cdl_e", method != PLAIN and any(item.truth for item in items)
        check_items(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return sample `index` of the list as epoch `epoch` sees it; `key` is (epoch, index)."""
        epoch, index = key
        return self.load(index, sample_rng(self.seed, epoch, index))

    def load(self, index: int, rng: SampleRng) -> dict[str, Any]:
        """Return sample `index`, its augmentation drawn from `rng`."""
        item, image, crop = self.items[index], self.image, self.image.size.train
        pixels, size = read_pixels(item.image, image)
        labels = training_labels(item, self.dataset, size)
        draws = draw_crop(rng.python, labels.shape, crop=crop, scales=self.dataset.scales, base=image.size.base)
        pixels = cut_image(pixels, draws, crop=crop, mean=channels(image.mean, image.order))
        sample = {
            "images": to_input(pixels, image),
            "labels": _tensor(cut_labels(labels, draws, crop=crop)),
            "id": item.image_id,
        }
        if self.strong:
            sample["strong"] = to_input(strong_copy(pixels, draw_strong(rng), image.order), image)
        if self.compares:
            known = item.truth is not None
            truth = read_label_map(item.truth, self.dataset.num_classes, size, key=CLASSES) if item.truth else labels
            cut = cut_labels(truth, draws, crop=crop)
            sample["truth"] = _tensor(cut if known else np.full_like(cut, IGNORE_LABEL))
        return sample


def _tensor(labels: Labels) -> torch.Tensor:
    return torch.from_numpy(labels.astype(np.int64))


def blank_batch(cfg: DeepLabConfig, images: int) -> dict[str, Any]:
    """Return a batch of `images` crops of a black picture, all background, for what needs its shapes; no data set is read."""
    with TemporaryDirectory() as place:
        picture, labels = (Path(place) / f"{BLANK}{suffix}" for suffix in (".jpg", ".png"))
        for path in (picture, labels):
            Image.new("L", BLANK_SIZE).save(path)
        item = Item(BLANK, picture, labels, truth=labels)
        crop = CropDataset([item], cfg.dataset, cfg.image, cfg.seed, cfg.method)[(0, 0)]
    batch: dict[str, Any] = default_collate([crop] * images)
    return batch


def training_labels(item: Item, dataset: DatasetConfig, size: tuple[int, int]) -> Labels:
    """Return an item's label map (H, W), joined of several where there are more."""
    maps = [read_labels(item, dataset.num_classes, size)]
    maps += [read_label_map(path, dataset.num_classes, size, key=CLASSES) for path in item.others]
    return maps[0] if len(maps) == 1 else fuse_labels(np.stack(maps), dataset.label_fusion)


def fuse_labels(maps: Labels, how: str) -> Labels:
    """Return (H, W) of K label maps (K, H, W): `dataset.label_fusion`; a set says nothing where it is 255.

    agree ignores pixels that any two sets see in another way, one being ignored counting as another.
    """
    if how == "agree":
        return np.where((maps == maps[0]).all(axis=0), maps[0], np.uint8(IGNORE_LABEL))
    if how == "vote":
        votes = (maps[:, None] == maps[None]).sum(axis=1) * (maps != IGNORE_LABEL)
        chosen = votes.argmax(axis=0)
    else:
        chosen = (maps != IGNORE_LABEL).argmax(axis=0)
    return np.take_along_axis(maps, chosen[None], axis=0)[0]


def read_labels(item: Item, num_classes: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an item's label map (H, W), checked for size and values."""
    if item.labels is None:
        raise ValueError(f"{item.image_id} has no labels")
    return read_label_map(item.labels, num_classes, size, key=CLASSES)


def check_items(items: Sequence[Item]) -> None:
    """Check that all files are there, with one listing per folder. Raises UserError naming the first missing ones."""
    check_files([item.image for item in items], "image", "dataset.image_dir")
    check_files([item.labels for item in items if item.labels], "label map", "dataset.label_dir")
