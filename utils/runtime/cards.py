"""Stage cards: what each stage says of itself, in a small JSON that the report draws and the comparison lines up.

A program that finishes writes one card into its run's folder. Nothing is rediscovered from file names: a stage that writes a
card appears in the report and in every comparison, whatever method or program it belongs to.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import write_text_atomic
from utils.runtime.device import peak_gpu, peak_resident

FOLDER = "cards"
# Positions in the pipeline; a stage of one's own may stand between two of them.
TRAINING, CAMS, REFINED, SCORED, LABELS, SEGMENTATION_TRAINING, SEGMENTATION_TEST, SEGMENTATION_REFINED = range(10, 90, 10)


@dataclass
class StageCard:
    """What a stage made, from what, with which settings, in what time, with which scores.

    Attributes:
        key: unique in a run and the same in all runs, e.g. "training", "cam_train", "pseudo_saliency_train": runs are compared
            by it. It is also the card's file name.
        title: for people.
        program: module that was run, e.g. "scripts.gen_gt".
        order: position in the pipeline, see above.
        output: folder or file it wrote.
        images: how many images it worked on in `seconds`; 0 where there are none.
        seconds: wall-clock time, earlier parts of a resumed run included.
        settings: dotted key -> value of its configuration.
        facts: further (name, value) pairs, as text, for people.
        split: name of the set of images, e.g. "train".
        list_file: the list of these images; empty where there is none.
        maps: folder of label maps <id>.png, or with `threshold` of CAMs <id>_<class>.png; empty: nothing to show.
        threshold: background score in [0, 1] at which CAMs become labels; None: `maps` holds label maps.
        mean_iou: in [0, 1]; None without ground truth.
        names: label names, background first.
        confusion: (C + 1, C + 1) pixel counts, rows ground truth; empty without.
        curve: mean IoU at background thresholds k / (n - 1); empty without.
        peak_memory_gib: of the process or its largest worker; peak_gpu_memory_gib: allocated on the GPU, None without one.
        finished: when, ISO 8601.
    """

    key: str
    title: str
    program: str
    order: int
    output: str
    images: int = 0
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()
    split: str = ""
    list_file: str = ""
    maps: str = ""
    threshold: float | None = None
    mean_iou: float | None = None
    names: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    curve: Sequence[float] = ()
    peak_memory_gib: float = 0.0
    peak_gpu_memory_gib: float | None = None
    finished: str = ""


def write_card(run_dir: str | Path, card: StageCard) -> Path:
    """Write `<run_dir>/cards/<key>.json`, with this process's peak memory and the time of day; returns its path."""
    gpu = peak_gpu()
    complete = dataclasses.replace(
        card,
        seconds=round(card.seconds, 1),
        peak_memory_gib=round(peak_resident(workers=True), 3),
        peak_gpu_memory_gib=None if gpu is None else round(gpu, 3),
        finished=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    path = Path(run_dir) / FOLDER / f"{card.key}.json"
    write_text_atomic(path, json.dumps(dataclasses.asdict(complete), indent=1, allow_nan=False) + "\n")
    return path


def read_cards(folder: Path) -> list[StageCard]:
    """Return the cards of a run's folder and of the folders in it (a segmentation stage), in the pipeline's order.

    Raises:
        UserError: for a card that cannot be read.
    """
    cards = [_read(path) for path in sorted(folder.rglob(f"{FOLDER}/*.json"))]
    return sorted(cards, key=lambda card: card.order)


def _read(path: Path) -> StageCard:
    try:
        return StageCard(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no stage card ({error}); delete it and run its program again") from error


def set_name(list_file: str | Path) -> str:
    """Return the name of a list's set of images: train_aug.txt and train_cls.txt are the set "train"."""
    return Path(list_file).stem.removesuffix("_aug").removesuffix("_cls")
