"""A bank of foreground cut-outs on disk: `<class>/<id>.png` with alpha, `<class>/<id>_saliency.png`, and `index.json`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.classes import label_value
from utils.errors import UserError
from utils.files import write_text_atomic
from utils.images import read_cutout, read_saliency
from utils.paste import Cutout

INDEX_NAME = "index.json"
# Alpha of the object's pixels; the rest of its box is kept, transparent, since resizing looks at it.
OPAQUE = 255


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
    """The objects of a folder `scripts.make_foreground_bank` wrote, by class.

    Attributes:
        entries: class (0-based) -> its objects, in the index's order; classes without objects are left out.

    Raises:
        UserError: when there is no usable index, or it holds no object or a class the data set does not have.
    """

    def __init__(self, folder: Path, num_classes: int) -> None:
        self.folder = folder
        self.entries: dict[int, list[BankEntry]] = {}
        for entry in read_index(folder):
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
        """Return an object of the index.

        Raises:
            UserError: naming a missing or damaged file.
        """
        cutout = np.asarray(read_cutout(self.folder / entry.file))
        height, width = cutout.shape[:2]
        saliency = np.asarray(read_saliency(self.folder / entry.saliency_file, (width, height)))
        labels = np.where(cutout[..., 3] == OPAQUE, np.uint8(label_value(entry.class_index)), np.uint8(0))
        return Cutout(np.ascontiguousarray(cutout[..., :3]), labels, saliency)


def write_index(folder: Path, entries: list[BankEntry], made_with: dict[str, Any]) -> None:
    """Write `index.json` (atomic): the objects, and the settings they were chosen with."""
    content = {"made_with": made_with, "objects": [{"file": entry.file, **asdict(entry)} for entry in entries]}
    write_text_atomic(folder / INDEX_NAME, json.dumps(content, indent=1) + "\n")


def read_index(folder: Path, *, missing_ok: bool = False) -> list[BankEntry]:
    """Return the objects of a bank; with `missing_ok` none where there is no index yet.

    Raises:
        UserError: when the index is missing or damaged.
    """
    path = folder / INDEX_NAME
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
        return [_entry(row) for row in objects]
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            return []
        raise UserError(
            f"foreground bank index {path} cannot be read ({error.strerror}); run scripts.make_foreground_bank first and set "
            "l2g.paste.bank to its folder"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"foreground bank index {path} is damaged ({type(error).__name__}: {error}); make it anew") from error


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
