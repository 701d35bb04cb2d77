"""The pasting augmentation: which objects go into an image, and what becomes of its labels and saliency."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import default_collate

from configs.paste_schema import PasteConfig
from utils.errors import UserError
from utils.foreground_bank import ForegroundBank
from utils.paste import PasteRule, find_place, paste
from utils.seeding import SampleRng

# Names of the two views of a paired item.
PASTED, ORIGINAL = "pasted", "original"


class PasteTransform:
    """Pastes objects of a bank into an image at its full size, before resizing and cropping.

    Args:
        config: section l2g.paste.
        num_classes: C.

    Raises:
        UserError: for a bank that cannot be used, or that has none of the classes asked for.
    """

    def __init__(self, config: PasteConfig, num_classes: int) -> None:
        self.config = config
        self.bank = ForegroundBank(Path(config.bank), num_classes)
        self.classes = sorted(k for k in self.bank.entries if not config.only or k in config.only)
        if not self.classes:
            raise UserError(
                f"foreground bank {config.bank} holds no object of the classes {config.only}; it has those of "
                f"{sorted(self.bank.entries)}, set l2g.paste.only to some of them"
            )
        low, high = config.scale
        self.rule = PasteRule(config.fit, (low, high), config.attempts, config.overlap, config.salient)

    def __call__(
        self, image: Image.Image, saliency: Image.Image | None, classes: tuple[int, ...], rng: SampleRng
    ) -> tuple[Image.Image, Image.Image | None, tuple[int, ...]]:
        """Return the image, its saliency (None stays None: places are then not compared) and its classes, all with objects.

        Draws, as published: NumPy: the class, uniformly among those that qualify and have objects; the object. Python:
        scale, row and column of each attempt. (Only with probability < 1: NumPy, whether to paste, before the rest.)

        Args:
            image: RGB.
            saliency: L, of the same size.
            classes: those in the image, 0-based.
            rng: of the sample.
        """
        config = self.config
        picture = np.asarray(image)
        if config.swap_background:
            picture = picture[..., ::-1]
        levels = np.zeros(picture.shape[:2], np.uint8) if saliency is None else np.asarray(saliency)
        if config.probability >= 1 or rng.numpy.random_sample() < config.probability:
            for _ in range(config.number):
                chosen = self._choose(classes, rng.numpy)
                if chosen is None:
                    break
                cutout = self.bank.load(self.bank.entries[chosen][rng.numpy.choice(len(self.bank.entries[chosen]))])
                place = find_place(levels, cutout, self.rule, rng.python)
                picture, levels = paste(picture, levels, cutout, place)
                classes = tuple(sorted({*classes, chosen}))
        pasted = Image.fromarray(np.ascontiguousarray(picture))
        return pasted, None if saliency is None else Image.fromarray(levels), classes

    def _choose(self, present: tuple[int, ...], rng: np.random.RandomState) -> int | None:
        """Draw a class to paste; None when none qualifies (then nothing is drawn)."""
        candidates = [k for k in self.classes if self.config.classes == "any" or k not in present]
        return candidates[rng.choice(len(candidates))] if candidates else None


def collate_views(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of samples; of pairs, the pasted views first, then the originals (published order).

    A batch of B pairs holds 2 B of everything but "id", which names the B images once: they are its share of the step.
    """
    if PASTED not in items[0]:
        return default_collate(list(items))
    views = [item[name] for name in (PASTED, ORIGINAL) for item in items]
    batch: dict[str, Any] = default_collate(views)
    batch["id"] = batch["id"][: len(items)]
    return batch
