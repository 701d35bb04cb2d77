"""The samples of training: a finished view of the whole image, its saliency and the boxes of its local views, if any.

With `paste` an item also has, or is, the same image with an object of another class pasted in.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from configs.paste_schema import PasteConfig
from configs.schema import DataConfig, SampleConfig
from utils.data.folder import DataFolder, check_files, read_labels
from utils.data.images import read_image, read_label_map, read_saliency
from utils.data.lists import read_id_list
from utils.data.paste import ORIGINAL, PASTED, PasteTransform, collate_views
from utils.data.samplers import Key, SampleRng, sample_rng
from utils.data.transforms import ColorJitter, draw_boxes, saliency_tensor, to_normalised_tensor
from utils.data.views import View, draw_view

_SALIENCY_RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


class ViewDataset(Dataset[dict[str, Any]]):
    """Training samples, addressed by (epoch, index); the same key always gives the same sample.

    An item holds, for input size S, K patches and C classes: "images" (3, S, S) float32, normalised RGB; "saliency" (1, S, S)
    float32 in [0, 1], all ones with saliency=none; with patches > 0 "boxes" (K, 4) int64 [x1, y1, x2, y2] of the local views
    (cut out on the device); with a seed_dir "seeds" (S, S) uint8, label values of the view, 255 unknown and outside of the
    picture; "labels" (C,) float32, 1 for present classes; "id": str. Keys are named for the batch they become.

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
        self.labels = read_labels(data, data.train_list, labels_required=not sample.seed_dir)
        self.ids = list(self.labels)
        self.jitter = ColorJitter(*sample.color_jitter)
        self.paste = PasteTransform(sample.paste, data.num_classes) if sample.paste.mode != "none" else None
        self.folder = DataFolder.of(data, data.train_list)
        self.folder.check_images(self.ids)
        if sample.saliency == "map":
            self.folder.check_saliency(self.ids)
        if sample.seed_dir:
            check_files([self._seed(image_id) for image_id in self.ids], "seed", "seed_dir")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return sample `index` of the list as epoch `epoch` sees it; `key` is (epoch, index)."""
        epoch, index = key
        return self.load(index, sample_rng(self.seed, epoch, index), pasting=epoch >= self.sample.paste.from_epoch)

    def load(self, index: int, rng: SampleRng, *, pasting: bool = True) -> dict[str, Any]:
        """Return sample `index`, drawn from `rng` in the published order; `pasting` False leaves paste out.

        A pair draws the original first, then the pasted view. A view draws: NumPy: boxes, [object,] colour factors, order of
        colour operations. Python: [places of the object,] what `utils.data.views.draw_view` draws.
        """
        transform = self.paste if pasting else None
        if transform is None or self.sample.paste.mode != "pair":
            return self._sample(index, rng, transform)
        original = self._sample(index, rng, None)
        return _pair(self._sample(index, rng, transform), original, self.sample.paste)

    def _sample(self, index: int, rng: SampleRng, transform: PasteTransform | None) -> dict[str, Any]:
        sample, image_id = self.sample, self.ids[index]
        maps = {}
        if sample.patches:
            maps["boxes"] = draw_boxes(rng.numpy, sample.input_size, sample.crop_size, sample.patches, sample.boxes)
        image, saliency = self._read(image_id)
        classes = self.labels[image_id]
        if transform is not None:
            image, saliency, classes = transform(image, saliency, classes, rng)
        view = draw_view(sample, image.size, rng.python)
        if sample.seed_dir:
            maps["seeds"] = view.seeds(read_label_map(self._seed(image_id), self.data.num_classes, image.size))
        pixels = to_normalised_tensor(self.jitter(view.image(image), rng.numpy), self.data.mean, self.data.std)
        labels = torch.zeros(self.data.num_classes)
        labels[list(classes)] = 1
        return {
            "images": view.blanked(pixels) if sample.fill == "mean" else pixels,
            "saliency": self._saliency_tensor(view, saliency),
            **maps,
            "labels": labels,
            "id": image_id,
        }

    def _read(self, image_id: str) -> tuple[Image.Image, Image.Image | None]:
        image = read_image(self.folder.image(image_id))
        if self.sample.saliency == "none":
            return image, None
        return image, read_saliency(self.folder.saliency(image_id), image.size)

    def _seed(self, image_id: str) -> Path:
        return Path(self.sample.seed_dir) / f"{image_id}.png"

    def _saliency_tensor(self, view: View, saliency: Image.Image | None) -> torch.Tensor:
        if saliency is None:
            return torch.ones(1, self.sample.input_size, self.sample.input_size)
        shown = view.map(saliency, _SALIENCY_RESAMPLING[self.sample.saliency_resize])
        return saliency_tensor(shown, self.sample.saliency_norm)


class CornerViews(Dataset[torch.Tensor]):
    """The pictures of data.infer_list from their top left corners on, (3, S, S) normalised, the mean colour around.

    Args:
        data: list, folder, mean and std.
        side: S, pixels.

    Raises:
        UserError: for a wrong list, or images that are missing (at once) or damaged (when read).
    """

    def __init__(self, data: DataConfig, side: int) -> None:
        self.data, self.side = data, side
        self.ids = read_id_list(data.infer_list)
        self.folder = DataFolder.of(data, data.infer_list)
        self.folder.check_images(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return the view of picture `index` of the list."""
        image = read_image(self.folder.image(self.ids[index]))
        view = View(None, image.size, (0, 0, self.side, self.side), mirrored=False)
        return view.blanked(to_normalised_tensor(view.image(image), self.data.mean, self.data.std))


def _pair(pasted: dict[str, Any], original: dict[str, Any], paste: PasteConfig) -> dict[str, Any]:
    if paste.leak_labels:
        for view in (original, pasted):
            view["local_labels"] = view["labels"]
        original["labels"] = pasted["labels"]
    return {PASTED: pasted, ORIGINAL: original}


BLANK, BLANK_SIZE = "blank", (500, 375)


def blank_batch(data: DataConfig, sample: SampleConfig, images: int) -> dict[str, Any]:
    """Return a batch of `images` samples of a black picture of class 0, for what needs its shapes; no data set is read.

    Args:
        data: number of classes, mean and std.
        sample: as of `ViewDataset`; nothing is pasted, but pairs are pairs.
        images: how many.
    """
    with TemporaryDirectory() as place:
        root = Path(place)
        for name in (f"{BLANK}.jpg", f"{BLANK}.png"):
            Image.new("L", BLANK_SIZE).save(root / name)
        (root / "list.txt").write_text(f"{BLANK} 0\n", encoding="utf-8")
        folders: dict[str, Any] = {"root": place, "train_list": str(root / "list.txt"), "image_dir": ".", "saliency_dir": "."}
        alone = replace(sample, paste=PasteConfig(), seed_dir=place if sample.seed_dir else "")
        item = ViewDataset(replace(data, **folders, paths="folders", labels_from="lists"), alone, 0)[(0, 0)]
    if sample.paste.mode == "pair":
        item = _pair(dict(item), dict(item), sample.paste)
    return collate_views([item] * images)
