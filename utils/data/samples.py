"""The samples of training: a finished view of the whole image, its saliency and the boxes of its local views, if any.

With `paste` an item also has, or is, the same image with an object of another class pasted in.
"""

import random
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from configs.schema import DataConfig, SampleConfig
from utils.data.folder import DataFolder, read_labels
from utils.data.images import read_image, read_saliency
from utils.data.paste import ORIGINAL, PASTED, PasteTransform
from utils.data.samplers import Key, SampleRng, sample_rng
from utils.data.transforms import (
    ColorJitter,
    area_crop_box,
    crop_with_padding,
    draw_boxes,
    published_crop_box,
    resize_short,
    resized_crop,
    saliency_tensor,
    short_side_size,
    to_normalised_tensor,
    true_crop_box,
)

_CROP_BOXES = {"swapped": published_crop_box, "correct": true_crop_box}
_SALIENCY_RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
_FLIP_CHANCE = 0.5


class ViewDataset(Dataset[dict[str, Any]]):
    """Training samples, addressed by (epoch, index); the same key always gives the same sample.

    An item holds, for input size S, K patches and C classes: "images" (3, S, S) float32, normalised RGB; "saliency" (1, S, S)
    float32 in [0, 1], all ones with saliency=none; with patches > 0 "boxes" (K, 4) int64 [x1, y1, x2, y2] of the local views
    (cut out on the device); "labels" (C,) float32, 1 for present classes; "id": str. Keys are named for the batch they become.

    With paste.mode=pair an item is {"pasted": such a sample, "original": such a sample}, which
    `utils.data.paste.collate_views` puts into one batch; with paste.leak_labels both also have "local_labels" (C,).

    Args:
        data: list, folders, mean and std.
        sample: geometry, saliency and colour options, a method's settings; the defaults are the published VOC sample.
        seed: of the run.

    Raises:
        UserError: for a wrong list or missing files (at once), or files that are damaged or of different sizes (when read).
    """

    def __init__(self, data: DataConfig, sample: SampleConfig, seed: int) -> None:
        self.data, self.sample, self.seed = data, sample, seed
        self.labels = read_labels(data, data.train_list)
        self.ids = list(self.labels)
        self.jitter = ColorJitter(*sample.color_jitter)
        self.paste = PasteTransform(sample.paste, data.num_classes) if sample.paste.mode != "none" else None
        self.folder = DataFolder.of(data, data.train_list)
        self.folder.check_images(self.ids)
        if sample.saliency == "map":
            self.folder.check_saliency(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return sample `index` of the list as epoch `epoch` sees it; `key` is (epoch, index)."""
        epoch, index = key
        return self.load(index, sample_rng(self.seed, epoch, index), pasting=epoch >= self.sample.paste.from_epoch)

    def load(self, index: int, rng: SampleRng, *, pasting: bool = True) -> dict[str, Any]:
        """Return sample `index`, drawn from `rng` in the published order; `pasting` False leaves paste out.

        A pair draws the original first, then the pasted view. A view draws: NumPy: boxes, [object,] colour factors, order of
        colour operations. Python: [places of the object,] scale (if varied), crop x, crop y (resize=area: see `area_crop_box`),
        flip (if on).
        """
        transform = self.paste if pasting else None
        if transform is None or self.sample.paste.mode != "pair":
            return self._sample(index, rng, transform)
        original, pasted = self._sample(index, rng, None), self._sample(index, rng, transform)
        if self.sample.paste.leak_labels:
            for view in (original, pasted):
                view["local_labels"] = view["labels"]
            original["labels"] = pasted["labels"]
        return {PASTED: pasted, ORIGINAL: original}

    def _sample(self, index: int, rng: SampleRng, transform: PasteTransform | None) -> dict[str, Any]:
        sample, image_id = self.sample, self.ids[index]
        boxes = {}
        if sample.patches:
            boxes["boxes"] = draw_boxes(rng.numpy, sample.input_size, sample.crop_size, sample.patches, sample.boxes)
        image, saliency = self._read(image_id)
        classes = self.labels[image_id]
        if transform is not None:
            image, saliency, classes = transform(image, saliency, classes, rng)
        image, saliency = self._view(image, saliency, rng.python)
        pixels = self.jitter(image, rng.numpy)
        labels = torch.zeros(self.data.num_classes)
        labels[list(classes)] = 1
        return {
            "images": to_normalised_tensor(pixels, self.data.mean, self.data.std),
            "saliency": self._saliency_tensor(saliency),
            **boxes,
            "labels": labels,
            "id": image_id,
        }

    def _read(self, image_id: str) -> tuple[Image.Image, Image.Image | None]:
        image = read_image(self.folder.image(image_id))
        if self.sample.saliency == "none":
            return image, None
        return image, read_saliency(self.folder.saliency(image_id), image.size)

    def _view(
        self, image: Image.Image, saliency: Image.Image | None, rng: random.Random
    ) -> tuple[Image.Image, Image.Image | None]:
        """Return both as S x S views of the same region."""
        resampling = _SALIENCY_RESAMPLING[self.sample.saliency_resize]
        side = self.sample.input_size
        if self.sample.resize == "square":
            image = image.resize((side, side), Image.Resampling.BILINEAR)
            saliency = saliency.resize((side, side), resampling) if saliency else None
        elif self.sample.resize == "area":
            box = area_crop_box(rng, image.size, self.sample.area_scale, self.sample.aspect)
            image = image.crop(box).resize((side, side), Image.Resampling.BICUBIC)
            saliency = saliency.crop(box).resize((side, side), resampling) if saliency else None
        else:
            short = self._short_side(rng)
            size = short_side_size(image.size, short)
            box = _CROP_BOXES[self.sample.crop](rng, size, side)
            image = resized_crop(image, size, box, Image.Resampling.BICUBIC)
            saliency = crop_with_padding(resize_short(saliency, short, resampling), box) if saliency else None
        if self.sample.flip and rng.random() < _FLIP_CHANCE:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            saliency = saliency.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if saliency else None
        return image, saliency

    def _short_side(self, rng: random.Random) -> int:
        low, high = self.sample.scale_jitter
        factor = rng.uniform(low, high) if low < high else low
        return round(self.sample.short_side * factor)

    def _saliency_tensor(self, saliency: Image.Image | None) -> torch.Tensor:
        if saliency is None:
            return torch.ones(1, self.sample.input_size, self.sample.input_size)
        return saliency_tensor(saliency, self.sample.saliency_norm)
