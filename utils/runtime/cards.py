"""Stage cards: what each stage says of itself, in a small JSON that the report draws and the comparison lines up.

A program that finishes writes one card into its run's folder. Nothing is rediscovered from file names: a stage that writes a
card appears in the report and in every comparison, whatever method or program it belongs to.

Paths of a card inside the run's folder are written relative to it, so that a run can be moved; the others are absolute.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import only_file, parse_json, remove_leftovers, write_text_atomic

FOLDER = "cards"
PATHS = ("output", "list_file", "maps", "pictures")
# Cards that agree in these are about the same files.
SAME_FILES = ("program", "output", "maps", "split")
# Positions in the pipeline; a stage of one's own may stand between two of them.
TRAINING, CAMS, REFINED, SCORED, LABELS, SEGMENTATION_TRAINING, SEGMENTATION_TEST, SEGMENTATION_REFINED = range(10, 90, 10)


@dataclass
class StageCard:
    """What a stage made, from what, with which settings, in what time, with which scores.

    Attributes:
        key: unique in a run and the same in all runs, e.g. "training", "cam_train", "pseudo_saliency_train": runs are compared
            by it. It is also the card's file name.
        title: for people.
        program: what was run after `python -m`, e.g. "scripts.gen_gt" or "deeplab test".
        order: position in the pipeline, see above.
        output: folder or file it wrote.
        images: how many images it worked on in `seconds`; 0 where there are none.
        seconds: wall-clock time, earlier parts of a resumed run included.
        settings: dotted key -> value of its configuration.
        facts: further (name, value) pairs, as text, for people.
        split: name of the set of images, e.g. "train".
        list_file: the list of these images; empty where there is none.
        maps: folder of label maps <id>.png, or with `threshold` of CAMs <id>_<class>.png; empty: nothing to show.
        pictures: folder of pictures <id>_<class>.png the stage drew, shown as they are; empty: none.
        threshold: background score in [0, 1] at which CAMs become labels; None: `maps` holds label maps.
        mean_iou: in [0, 1]; None without ground truth.
        scores: further scores by name, in [0, 1], e.g. of boxes; tables line them up.
        image_scores: id -> score in [0, 1], by which the gallery sorts what has `pictures`.
        names: C + 1 label names, background first; empty for a stage that knows no classes.
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
    pictures: str = ""
    threshold: float | None = None
    mean_iou: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    image_scores: Mapping[str, float] = field(default_factory=dict)
    names: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    curve: Sequence[float] = ()
    peak_memory_gib: float = 0.0
    peak_gpu_memory_gib: float | None = None
    finished: str = ""


def write_card(run_dir: str | Path, card: StageCard, *, group: str = "", keep: bool = False) -> Path:
    """Write a card with this process's peak memory and the time of day.

    It replaces an earlier one of the same key, and those of the same program whose maps it has written over.

    Args:
        run_dir: the run's folder.
        card: its paths start at the working directory.
        group: folder for stages of the same key that one `run_dir` holds, e.g. experiments of the segmentation stage.
        keep: a card that is there stays: nothing was left to do, but a run that was killed may not have come to write it.

    Returns:
        `<run_dir>/cards/[<group>/]<key>.json`.
    """
    path = Path(run_dir) / FOLDER / group / f"{card.key}.json"
    if keep and path.exists():
        return path
    from utils.runtime.device import peak_gpu, peak_resident  # here: torch takes seconds to load, and readers need none

    gpu, root = peak_gpu(), Path(run_dir)
    complete = dataclasses.replace(
        card,
        seconds=round(card.seconds, 1),
        peak_memory_gib=round(peak_resident(workers=True), 3),
        peak_gpu_memory_gib=None if gpu is None else round(gpu, 3),
        finished=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    for name in PATHS:
        setattr(complete, name, _seen_from(root, getattr(card, name)))
    remove_leftovers(path.parent, card.key)
    write_text_atomic(path, json.dumps(dataclasses.asdict(complete), allow_nan=False) + "\n")
    if card.maps:
        _remove_outdated(path)
    return path


def read_cards(folder: Path) -> list[StageCard]:
    """Return the cards of a run's folder and of the folders in it (a segmentation stage), in the pipeline's order.

    Paths are as seen from the working directory. A key that several cards have is numbered from the second on.

    Raises:
        UserError: for a card that cannot be read.
    """
    cards = sorted((_read(path) for path in sorted(folder.rglob(f"{FOLDER}/**/[!.]*.json"))), key=lambda card: card.order)
    keys = [card.key for card in cards]
    for index, card in enumerate(cards):
        if before := keys[:index].count(card.key):
            card.key = f"{card.key}_{before + 1}"
    return cards


def _remove_outdated(path: Path) -> None:
    """Remove the cards beside one whose maps its program has written over, under another key."""
    new = _read(path)
    for other in path.parent.glob("[!.]*.json"):
        with contextlib.suppress(UserError):
            old = _read(other)
            if old.key != new.key and all(getattr(old, name) == getattr(new, name) for name in SAME_FILES):
                other.unlink(missing_ok=True)


def _seen_from(root: Path, path: str) -> str:
    """Return a path relative to `root` where it is inside of it, else absolute; an empty one stays empty."""
    inside = os.path.relpath(path, root) if path else ""
    return inside if not inside.startswith(os.pardir) else str(Path(path).absolute())


def _read(path: Path) -> StageCard:
    root = next(parent for parent in path.parents if parent.name == FOLDER).parent
    try:
        card = StageCard(**parse_json(only_file(path).read_text(encoding="utf-8")))
        _check(card)
        for name in PATHS:
            setattr(card, name, str(root / getattr(card, name)) if getattr(card, name) else "")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no stage card ({error}); delete it and run its program again") from error
    return card


def _check(card: StageCard) -> None:
    """Refuse what the report could not draw."""
    for name, (kind, what) in _KINDS.items():
        if not isinstance(value := getattr(card, name), kind) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}, expected {what}")
    for name in ("mean_iou", "threshold"):
        if (share := getattr(card, name)) is not None and not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}, expected in [0, 1]")
    for name in ("scores", "image_scores"):
        if not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in getattr(card, name).values()):
            raise ValueError(f"{name} hold other than numbers in [0, 1]")
    if not all(isinstance(name, str) for name in card.names):
        raise ValueError(f"names are {card.names}, expected texts")
    if not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in card.curve):
        raise ValueError("curve holds other than numbers in [0, 1]")
    if not all(isinstance(fact, list) and list(map(type, fact)) == [str, str] for fact in card.facts):
        raise ValueError("facts are no pairs of name and value")
    rows = card.confusion
    fits = all(isinstance(row, list) and len(row) == len(card.names) == len(rows) for row in rows)
    if not fits or not all(isinstance(count, int) and 0 <= count < 2**63 for row in rows for count in row):
        raise ValueError(f"confusion has no counts for each of {len(card.names)} names")


_TEXT, _NUMBER, _LIST = (str, "a text"), ((int, float), "a number"), (list, "a list")
_NUMBER_OR_NONE = ((int, float, type(None)), "a number or null")
_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("key", "title", "program", "output", "split", "list_file", "maps", "pictures", "finished"), _TEXT),
    **dict.fromkeys(("order", "images", "seconds", "peak_memory_gib"), _NUMBER),
    **dict.fromkeys(("mean_iou", "threshold", "peak_gpu_memory_gib"), _NUMBER_OR_NONE),
    **dict.fromkeys(("facts", "names", "confusion", "curve"), _LIST),
    **dict.fromkeys(("settings", "scores", "image_scores"), (dict, "keys and values")),
}


def own_name(key: str, title: str, run_dir: str | Path, outputs: Sequence[str | Path], usual: Sequence[str]) -> tuple[str, str]:
    """Return key and title of a card, with the folders that tell an unusual output apart from the usual one.

    So the scores of CAMs in <run_dir>/epoch_8/ms/attention are "cam_train_epoch_8", in every run, and replace no others.

    Args:
        key: of the usual output.
        title: of the usual output.
        run_dir: the run's folder.
        outputs: what the stage wrote and, where that says nothing, what it was made from.
        usual: names of folders and files (without .json) that say nothing.
    """
    for output in outputs:
        relative = Path(os.path.relpath(str(output).removesuffix(".json"), run_dir))
        parts = relative.parts if os.pardir not in relative.parts else (relative.name,)
        if told := [part for part in parts if part not in usual]:
            return "_".join([key, *told]), f"{title} ({'/'.join(told)})"
    return key, title


def set_name(list_file: str | Path) -> str:
    """Return the name of a list's set of images: train_aug.txt and train_cls.txt are the set "train"."""
    return Path(list_file).stem.removesuffix("_aug").removesuffix("_cls")
