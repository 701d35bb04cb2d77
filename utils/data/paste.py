"""Pasting one cut-out into one image, as the published context-decoupling augmentation computes it.

Scale, row and column are drawn; everything else follows. An object is pasted where its label map is not 0 *and* its
saliency is high, without blending; the image's saliency takes the object's there.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.paste_schema import PasteConfig
from utils.data.classes import label_value
from utils.data.images import read_cutout, read_saliency
from utils.data.samplers import SampleRng
from utils.errors import UserError, damage
from utils.files import only_file, parse_json, write_text_atomic

Grey = NDArray[np.uint8]  # (H, W)
Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.bool_]

# The published guard against division by an empty mask: nothing to paste overlaps nothing.
_AREA_EPSILON = 1e-5
# Ranges like 1.2 - 0.8 are meant in decimals: binary rounding must not move a truncated size.
_DECIMALS = 10


@dataclass(frozen=True)
class Cutout:
    """An object with what surrounds it in its box.

    Attributes:
        image: (h, w, 3) RGB.
        labels: (h, w) label map: 0 around the object, its label value inside.
        saliency: (h, w), 0..255.
    """

    image: Picture
    labels: Grey
    saliency: Grey


@dataclass(frozen=True)
class PasteRule:
    """How an object is sized and placed; see `configs.paste_schema.PasteConfig` for the meaning of each."""

    fit: float = 0.7
    scale: tuple[float, float] = (0.8, 1.2)
    attempts: int = 10
    overlap: float = 0.2
    salient: int = 200


@dataclass(frozen=True)
class Placement:
    """Where an object goes: its size, its upper left corner, its mask (rows, columns), and the overlap in [0, 1]."""

    rows: int
    columns: int
    row: int
    column: int
    mask: Mask
    overlap: float

    @property
    def window(self) -> tuple[slice, slice]:
        """Return the rows and columns of the image it covers."""
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)


def fitted_size(size: tuple[int, int], room: tuple[int, int], fit: float) -> tuple[float, float]:
    """Return (height, width) of an object of `size` (h, w), shrunk to at most `fit` of `room` (H, W), its aspect kept."""
    height, width = float(size[0]), float(size[1])
    ratio = size[1] / size[0]
    if fit * room[0] < height:
        height = fit * room[0]
        width = height * ratio
    if fit * room[1] < width:
        width = fit * room[1]
        height = width / ratio
    return height, width


def find_place(saliency: Grey, cutout: Cutout, rule: PasteRule, rng: random.Random) -> Placement:
    """Draw places until one overlaps little with what is salient already.

    Args:
        saliency: (H, W) of the image.
        cutout: the object.
        rule: size and acceptance.
        rng: draws scale, row and column of each attempt, as published.

    Returns:
        The first place with overlap below `rule.overlap`, else the first of those with the least.
    """
    best: Placement | None = None
    for _ in range(rule.attempts):
        place = _draw_place(saliency, cutout, rule, rng)
        if best is None or place.overlap < best.overlap:
            best = place
        if place.overlap < rule.overlap:
            break
    if best is None:
        raise ValueError(f"expected at least one attempt, got {rule.attempts}")
    return best


def paste(image: Picture, saliency: Grey, cutout: Cutout, place: Placement) -> tuple[Picture, Grey]:
    """Return copies of `image` (H, W, 3) and `saliency` (H, W) with the object at its place."""
    image, saliency = image.copy(), saliency.copy()
    image[place.window][place.mask] = _resize(cutout.image, place.rows, place.columns)[place.mask]
    saliency[place.window][place.mask] = _resize(cutout.saliency, place.rows, place.columns)[place.mask]
    return image, saliency


def _draw_place(saliency: Grey, cutout: Cutout, rule: PasteRule, rng: random.Random) -> Placement:
    low, high = rule.scale
    factor = low + round(high - low, _DECIMALS) * rng.random()
    height, width = fitted_size((cutout.labels.shape[0], cutout.labels.shape[1]), _room(saliency), rule.fit)
    rows, columns = max(1, int(factor * height)), max(1, int(factor * width))
    row = rng.randint(0, saliency.shape[0] - rows)
    column = rng.randint(0, saliency.shape[1] - columns)
    # Published: the label map is resized like a picture too, so a class with a higher label value keeps more of its border.
    mask = (_resize(cutout.labels, rows, columns) != 0) & (_resize(cutout.saliency, rows, columns) > rule.salient)
    covered = mask & (saliency[row : row + rows, column : column + columns] > rule.salient)
    overlap = np.count_nonzero(covered) / (np.count_nonzero(mask) + _AREA_EPSILON)
    return Placement(rows, columns, row, column, mask, overlap)


def _room(saliency: Grey) -> tuple[int, int]:
    return saliency.shape[0], saliency.shape[1]


def _resize(array: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Resize with Pillow's bilinear filter (antialiased when shrinking), as SciPy's former image resize did."""
    return np.asarray(Image.fromarray(array).resize((columns, rows), Image.Resampling.BILINEAR))


INDEX_NAME = "index.json"
# Alpha of the object's pixels, and where soft ones of others begin; what is transparent stays, since resizing looks at it.
OPAQUE, HALF = 255, 128


@dataclass(frozen=True)
class BankEntry:
    """One object: its class (0-based), the image it is from, its box there [x1, y1, x2, y2], and what it was judged by.

    `area` counts its pixels, `share` is that over the image's, `score` its mean class score (1 from pseudo labels).
    """

    class_index: int
    image_id: str
    box: tuple[int, int, int, int]
    area: int
    share: float
    score: float

    @property
    def file(self) -> str:
        """Return the picture's name within the bank."""
        return f"{self.class_index}/{self.image_id}.png"

    @property
    def saliency_file(self) -> str:
        """Return the name of its saliency within the bank."""
        return f"{self.class_index}/{self.image_id}_saliency.png"


class ForegroundBank:
    """The objects of a folder `scripts.make_foreground_bank` wrote, or of any <class>/<name>.png (`sem_seg_fg/`), by class.

    Attributes:
        entries: class (0-based) -> its objects, in the index's order; classes without objects are left out.

    Raises:
        UserError: when there is no usable index, or it holds no object or a class the data set does not have.
    """

    def __init__(self, folder: Path, num_classes: int) -> None:
        self.folder = folder
        self.entries: dict[int, list[BankEntry]] = {}
        plain = [] if (folder / INDEX_NAME).exists() else _plain_entries(folder)
        for entry in plain or read_index(folder):
            if not 0 <= entry.class_index < num_classes:
                raise UserError(
                    f"foreground bank {folder} holds class {entry.class_index}, the data set has 0 to {num_classes - 1}; "
                    "make the bank from this data set"
                )
            self.entries.setdefault(entry.class_index, []).append(entry)
        if not self.entries:
            raise UserError(
                f"foreground bank {folder} holds no object; run scripts.make_foreground_bank with wider limits (bank.share, "
                "bank.min_score) or set l2g.paste.mode=none"
            )

    def load(self, entry: BankEntry) -> Cutout:
        """Return an object of the index. Raises UserError naming a missing or damaged file."""
        cutout = np.asarray(read_cutout(self.folder / entry.file))
        height, width = cutout.shape[:2]
        alpha, levels = cutout[..., 3], self.folder / entry.saliency_file
        # Without saliency all of the object can be pasted.
        saliency = np.asarray(read_saliency(levels, (width, height))) if entry.area or levels.is_file() else alpha
        labels = np.where(alpha >= HALF, np.uint8(label_value(entry.class_index)), np.uint8(0))
        return Cutout(np.ascontiguousarray(cutout[..., :3]), labels, saliency)


def _plain_entries(folder: Path) -> list[BankEntry]:
    """Return the cut-outs of a bank without an index, by class and name; what they were judged by is unknown, their area 0."""
    classes = sorted((int(place.name), place) for place in folder.glob("[0-9]*") if place.name.isdecimal())
    names = [(index, path.stem) for index, place in classes for path in sorted(place.glob("*.png"))]
    return [BankEntry(index, name, (0, 0, 0, 0), 0, 0.0, 1.0) for index, name in names if not name.endswith("_saliency")]


def write_index(folder: Path, entries: list[BankEntry], made_with: dict[str, Any]) -> None:
    """Write `index.json` (atomic): the objects, and the settings they were chosen with."""
    content = {"made_with": made_with, "objects": [{"file": entry.file, **asdict(entry)} for entry in entries]}
    write_text_atomic(folder / INDEX_NAME, json.dumps(content, indent=1) + "\n")


def read_index(folder: Path, *, missing_ok: bool = False) -> list[BankEntry]:
    """Return the objects of a bank; with `missing_ok` none without an index. Raises UserError for a missing or damaged one."""
    path = folder / INDEX_NAME
    try:
        objects = parse_json(only_file(path).read_text(encoding="utf-8"))["objects"]
        return [_entry(row) for row in objects]
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            return []
        raise UserError(
            f"foreground bank index {path} cannot be read ({error.strerror}); run scripts.make_foreground_bank first and set "
            "l2g.paste.bank to its folder, or to one of <class>/<name>.png"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"foreground bank index {path} is damaged ({damage(error)}); make it anew") from error


def _entry(row: dict[str, Any]) -> BankEntry:
    x1, y1, x2, y2 = (int(v) for v in row["box"])
    return BankEntry(
        int(row["class_index"]),
        str(row["image_id"]),
        (x1, y1, x2, y2),
        int(row["area"]),
        float(row["share"]),
        float(row["score"]),
    )


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
    from torch.utils.data import default_collate  # here: worker processes of other programs import this module too

    if PASTED not in items[0]:
        collated: dict[str, Any] = default_collate(list(items))
        return collated
    views = [item[name] for name in (PASTED, ORIGINAL) for item in items]
    batch: dict[str, Any] = default_collate(views)
    batch["id"] = batch["id"][: len(items)]
    return batch
