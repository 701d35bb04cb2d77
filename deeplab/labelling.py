"""From logits to label maps: every class and every pixel as published, or those that a training set's own labels allow."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from configs.deeplab_schema import DeepLabConfig, TestConfig
from utils.data.classes import BACKGROUND, IGNORE, label_count, label_value
from utils.data.images import read_label_map
from utils.data.items import Item
from utils.data.lists import read_label_list
from utils.errors import UserError

# Added to the split's name in outputs of the second evaluation.
MULTI_SCALE = "ms"


def evaluations(cfg: DeepLabConfig) -> Iterator[DeepLabConfig]:
    """Yield the configuration of each evaluation: as given, then with `test.multi_scale` where that names scales."""
    yield replace(cfg, test=replace(cfg.test, multi_scale=[]))
    if cfg.test.multi_scale:
        name = "_".join(filter(None, (cfg.test.name, MULTI_SCALE)))
        out_dir = f"{cfg.test.out_dir}_{MULTI_SCALE}" if cfg.test.out_dir else ""
        test = replace(cfg.test, scales=cfg.test.multi_scale, flip=True, multi_scale=[], name=name, out_dir=out_dir)
        yield replace(cfg, test=test)


def full_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (classes, *size) logits of (classes, h, w) ones: bilinear between half-pixel centres (published)."""
    return F.interpolate(logits[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def asked(test: TestConfig) -> dict[str, Any]:
    """Return what section `test` asks for that published testing does not do, by its keys: for score files and cards."""
    found = {"class_filter": test.class_filter, "ignore_below": test.ignore_below, "fill_from": test.fill_from}
    disputed = {"disputed": test.disputed} if test.fill_from and test.disputed == "ignore" else {}
    return {key: value for key, value in found.items() if value} | disputed


@dataclass(frozen=True)
class Labelling:
    """How scores become labels. Published: the highest of all classes wins everywhere, which is what no arguments give.

    Attributes:
        classes: image id -> its classes (0-based). Only they and background can win; None: all classes can.
        ignore_below: pixels whose highest probability is lower become 255, in [0, 1].
        fill_from: folder of earlier label maps <id>.png that such pixels are taken from; None: they stay 255.
        ignores_disputed: pixels that have a class there, and another one here, become 255.
        num_classes: foreground classes.
    """

    num_classes: int
    classes: dict[str, tuple[int, ...]] | None = None
    ignore_below: float = 0.0
    fill_from: Path | None = None
    ignores_disputed: bool = False

    @classmethod
    def of(cls, cfg: DeepLabConfig) -> "Labelling":
        """Return what section `test` asks for.

        Raises:
            UserError: for an unreadable list of image-level labels, or a folder of earlier labels that is not there.
        """
        test, num_classes = cfg.test, cfg.dataset.num_classes
        earlier = Path(test.fill_from) if test.fill_from else None
        if earlier is not None and not earlier.is_dir():
            raise UserError(f"test.fill_from is {earlier}, which is not a folder; name the label maps of the round before")
        classes = read_label_list(test.class_filter, num_classes) if test.class_filter else None
        return cls(num_classes, classes, test.ignore_below, earlier, "disputed" in asked(test))

    def of_image(self, image_id: str) -> "Labelling":
        """Return what counts for one image, to travel to another process without the classes of all others."""
        if self.classes is None:
            return self
        self.values(image_id)
        return replace(self, classes={image_id: self.classes[image_id]})

    def values(self, image_id: str) -> list[int]:
        """Return the label values that can win in an image, ascending. Raises UserError for an unlisted image."""
        if self.classes is None:
            return list(range(label_count(self.num_classes)))
        if image_id not in self.classes:
            raise UserError(f"test.class_filter has no line for image '{image_id}'; give a list that names all of the split")
        return [BACKGROUND, *(label_value(index) for index in self.classes[image_id])]

    def probabilities(self, image_id: str, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (K, *size) probabilities of the K `values` of an image, of (classes, h, w) logits."""
        return self._chosen(image_id, logits, size).softmax(0)

    def labels(self, image_id: str, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the (H, W) uint8 label map of (classes, h, w) logits."""
        chosen = self._chosen(image_id, logits, size)
        return self.decide(image_id, chosen.softmax(0) if self.ignore_below else chosen)

    def decide(self, image_id: str, scores: Tensor) -> Tensor:
        """Return the (H, W) uint8 label map of (K, H, W) scores of `values`; probabilities where pixels may be ignored."""
        best, winner = scores.max(0)
        values = torch.tensor(self.values(image_id), dtype=torch.uint8)
        labels = values.to(scores.device, non_blocking=True)[winner]  # `device=` would wait for the work queued there
        if self.ignore_below:
            labels[best < self.ignore_below * scores.sum(0)] = IGNORE
        return labels

    def filled(self, item: Item, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a label map (H, W) with the earlier labels where it is 255. Raises UserError where these do not fit."""
        if self.fill_from is None:
            return labels
        earlier = self.fill_from / f"{item.image_id}.png"
        height, width = labels.shape
        before = read_label_map(earlier, self.num_classes, (width, height), key="dataset.n_classes")
        filled = np.where(labels == IGNORE, before, labels)
        disputed = (before != IGNORE) & (filled != before) if self.ignores_disputed else False
        return np.where(disputed, IGNORE, filled).astype(np.uint8)

    def _chosen(self, image_id: str, logits: Tensor, size: tuple[int, int]) -> Tensor:
        if self.classes is None:
            return full_size(logits, size)
        values = torch.tensor(self.values(image_id)).to(logits.device, non_blocking=True)
        return full_size(logits.index_select(0, values), size)
