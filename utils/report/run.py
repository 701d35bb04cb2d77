"""A run as a report sees it: its stage cards, what follows from them, and its training curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import DataConfig
from utils.cams.store import classes_on_disk
from utils.data.classes import BACKGROUND
from utils.data.folder import DataFolder
from utils.errors import UserError
from utils.evaluation.metrics import row_shares, score
from utils.evaluation.scores import scores_to_dict
from utils.report.figures import Curves, read_curves
from utils.runtime.cards import LABELS, StageCard, read_cards
from utils.runtime.log import format_seconds

MINUTE, HOUR = 60, 3600
EVENTS = "events.out.tfevents.*"
FIRST, DEEPLAB = "First stage", "DeepLab"
# What tells a stage's settings of either kind.
DATA_KEYS = {"data.root": FIRST, "dataset.root": DEEPLAB}
# Key -> what it is called in the table of settings that matter.
SHOWN = {
    "method": "method",
    "model.name": "network",
    "model.backbone": "backbone",
    "model.width": "width",
    "model.pretrained": "initial weights",
    "model.init_model": "initial weights",
    "train.init_from": "started from",
    "seed": "seed",
    "train.epochs": "epochs",
    "train.classify_epochs": "of which plain classification",
    "train.batch_size": "batch size",
    "train.optimizer": "optimiser",
    "train.lr": "learning rate",
    "solver.iter_max": "iterations",
    "solver.lr": "learning rate",
    "l2g.input_size": "global view, pixels",
    "l2g.crop_size": "local view, pixels",
    "l2g.patches": "local views",
    "image.size.train": "crop, pixels",
    "train.loss": "loss",
    "cam.scales": "CAM scales",
    "crf.image": "CRF image mode",
}
# A run is told apart by these as well, in TensorBoard.
TOLD_APART = (*SHOWN, "train.schedule", "l2g.kd_weight", "l2g.background_target", "l2g.saliency", "pseudo.fusion")
PAIRS = 6
# Pairs below this share of the class's pixels are no news.
LEAST_SHARE = 0.005

Settings = Mapping[str, Any]
ClassScores = Mapping[str, float | None]


@dataclass
class Stage:
    """A stage card and the scores that follow from its counts.

    Attributes:
        card: as read.
        title: of the card, told apart from the others of its run.
        iou, precision, recall: by label name, in [0, 1], None where undefined; empty without counts.
    """

    card: StageCard
    title: str
    iou: ClassScores = field(default_factory=dict)
    precision: ClassScores = field(default_factory=dict)
    recall: ClassScores = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.card.confusion:
            scores = scores_to_dict(score(self.confusion), self.card.names)
            self.iou, self.precision, self.recall = scores["iou"], scores["precision"], scores["recall"]

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Return the (C + 1, C + 1) pixel counts, rows ground truth; (0,) without."""
        return np.array(self.card.confusion, np.int64)

    @property
    def short(self) -> str:
        """Return the title for captions below small pictures."""
        return self.title.replace("Pseudo labels", "labels").replace("DeepLab + CRF, ", "CRF, ")

    @property
    def score(self) -> tuple[str, float] | None:
        """Return name and value of what the card is about: mean IoU, else the first of its other scores."""
        found = [] if self.card.mean_iou is None else [("mIoU", self.card.mean_iou)]
        return next(iter([*found, *self.card.scores.items()]), None)

    @property
    def headline(self) -> str:
        """Return what stands on the card where there is no score."""
        return "no ground truth" if self.card.maps else duration(self.card.seconds)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return all facts of the card, with memory and what the headline does not say, as text."""
        card, taken = self.card, duration(self.card.seconds)
        images = [("images", str(card.images))] if card.images else []
        time = [("time", taken)] if self.score or card.maps else []
        scores = [(name, f"{value:.1%}") for name, value in card.scores.items()]
        return [*scores, *card.facts, *images, *time, ("peak memory", self.memory)]

    @property
    def memory(self) -> str:
        """Return the peak memory as text."""
        gpu = self.card.peak_gpu_memory_gib
        return f"{self.card.peak_memory_gib:.2f}\u00a0GiB" + ("" if gpu is None else f", {gpu:.2f}\u00a0GiB on the GPU")

    def images(self, num_classes: int) -> dict[str, tuple[int, ...]]:
        """Return the images there are maps or pictures of: id -> classes (0-based) with a CAM, else none."""
        if self.card.pictures:
            return {path.stem.rpartition("_")[0]: () for path in Path(self.card.pictures).glob("*_*.png")}
        folder = Path(self.card.maps)
        if not self.card.maps or not folder.is_dir():
            return {}
        if self.card.threshold is None:
            return {path.stem: () for path in folder.glob("*.png")}
        return classes_on_disk(folder, num_classes)


@dataclass(frozen=True)
class Run:
    """Everything a report says of one run.

    Attributes:
        folder: runs/<EXP>.
        deeplab: output folder of the segmentation stage.
        stages: in the order of the pipeline; what comes last is final.
        settings: "First stage", "DeepLab" or a stage's title -> its flat settings ("train.lr" -> value).
    """

    folder: Path
    deeplab: Path
    stages: Sequence[Stage]
    settings: Mapping[str, Settings]

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return self.folder.resolve().name

    @property
    def names(self) -> Sequence[str]:
        """Return the label names, background first; empty where no stage knows any."""
        return next((stage.card.names for stage in self.stages if stage.card.names), [])

    @property
    def drawn(self) -> list[Stage]:
        """Return the stages that made maps or pictures."""
        return [stage for stage in self.stages if stage.card.maps or stage.card.pictures]

    @property
    def rated(self) -> list[Stage]:
        """Return the stages with a score for each class."""
        return [stage for stage in self.stages if stage.iou]

    @property
    def data(self) -> DataFolder | None:
        """Return where the pictures are, from the first stage's settings, else from the segmentation stage's."""
        first, second = (self.settings.get(heading, {}) for heading in (FIRST, DEEPLAB))
        if first:
            known = {entry.name: first[key] for entry in fields(DataConfig) if (key := f"data.{entry.name}") in first}
            lists = (stage.card.list_file for stage in self.stages)
            return DataFolder.of(DataConfig(**known), *(path for path in dict.fromkeys(lists) if Path(path).is_file()))
        if second:
            root = Path(second["dataset.root"])
            classes = second.get("dataset.n_classes", 1) - 1
            return DataFolder((root / second["dataset.image_dir"],), None, root / second["dataset.truth_dir"], classes)
        return None

    @cached_property
    def curves(self) -> list[Curves]:
        """Return the losses and rates in the event files of the run, those of the segmentation stage last."""
        roots = dict.fromkeys((self.folder, self.deeplab))
        folders = dict.fromkeys(path.parent for root in roots for path in sorted(root.rglob(EVENTS)))
        found = [read_curves(folder, self._training(folder)) for folder in folders]
        return sorted(found, key=lambda curves: curves.title == DEEPLAB)

    def scores(self) -> dict[str, float]:
        """Return stage key -> mean IoU in [0, 1] of the stages that have one, and "<key>.<name>" -> their other scores."""
        cards = [stage.card for stage in self.stages]
        others = {f"{card.key}.{name}": value for card in cards for name, value in card.scores.items()}
        return {card.key: card.mean_iou for card in cards if card.mean_iou is not None} | others

    def hyper_parameters(self) -> dict[str, Any]:
        """Return the settings by which runs are told apart, as TensorBoard takes them (text, numbers, truth values)."""
        chosen = {
            ("" if heading == FIRST else f"{heading.lower()}.") + key: flat[key]
            for heading, flat in self.settings.items()
            for key in flat
            if key in TOLD_APART or key.startswith(f"{flat.get('method', 'method')}.")
        }
        return {key: value if isinstance(value, (bool, int, float)) else show_value(value) for key, value in chosen.items()}

    def _training(self, folder: Path) -> str:
        """Return whose events a folder holds."""
        if self.deeplab in (folder, *folder.parents):
            return DEEPLAB
        return "Training" if folder == self.folder / "tb" else folder.relative_to(self.folder).as_posix()


def read_run(folder: Path, deeplab: Path | None = None, settings: Settings | None = None) -> Run:
    """Read a run's cards.

    Args:
        folder: runs/<EXP>.
        deeplab: output folder of the segmentation stage, <folder>/deeplab where None.
        settings: flat settings of the first stage that replace those its cards hold.

    Raises:
        UserError: for a folder that is not there or a damaged card.
    """
    for path in (folder, deeplab):
        if path is not None and not path.is_dir():
            raise UserError(f"{path} is no folder; give the folder of a run, e.g. runs/demo_l2g")
    deeplab = deeplab or folder / "deeplab"
    cards = read_cards(folder)
    if deeplab.resolve().is_relative_to(folder.resolve()):
        deeplab = folder / deeplab.resolve().relative_to(folder.resolve())
    else:
        cards += read_cards(deeplab)
    by_heading = {FIRST: settings} if settings else {}
    for card in cards:
        if card.settings:
            by_heading.setdefault(_heading(card), card.settings)
    used = f"pseudo_{by_heading.get(FIRST, {}).get('pseudo.fusion', '')}"
    # The labels the run is configured to use come after its other ones: last means final.
    cards.sort(key=lambda card: (card.order, card.order == LABELS and card.key.startswith(used)))
    return Run(folder, deeplab, _stages(cards), by_heading)


def _heading(card: StageCard) -> str:
    return next((heading for key, heading in DATA_KEYS.items() if key in card.settings), card.title)


def _stages(cards: Sequence[StageCard]) -> list[Stage]:
    """Return the stages; titles that several have carry their sets of images, and then a number."""
    titles = [card.title for card in cards]
    splits = {title: {card.split for card in cards if card.title == title} for title in titles}
    titles = [f"{card.title}, {card.split}" if len(splits[card.title]) > 1 and card.split else card.title for card in cards]
    numbers = [titles[: index + 1].count(title) for index, title in enumerate(titles)]
    return [
        Stage(card, title if number == 1 else f"{title} ({number})")
        for card, title, number in zip(cards, titles, numbers, strict=True)
    ]


def duration(seconds: float) -> str:
    """Return a time for people: "4.2 s", "6:51 min" or "2:03:04 h"."""
    if seconds < MINUTE:
        return f"{seconds:.1f}\u00a0s"
    return f"{format_seconds(seconds).lstrip('0')}\u00a0{'min' if seconds < HOUR else 'h'}"


def show_value(value: Any) -> str:
    """Return a setting as text for people."""
    if value in ("", None, []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(show_value(item) for item in value)
    return str(value)


@dataclass(frozen=True)
class Pair:
    """Pixels of `truth` that were labelled `predicted`, as a share of the pixels of `truth`."""

    truth: str
    predicted: str
    share: float


@dataclass(frozen=True)
class Confused:
    """The pairs most often confused: one class for another, objects taken for background, background for objects."""

    classes: list[Pair] = field(default_factory=list)
    missed: list[Pair] = field(default_factory=list)
    invented: list[Pair] = field(default_factory=list)


def confused_pairs(names: Sequence[str], confusion: NDArray[np.int64]) -> Confused:
    """Name the largest entries off the diagonal of a confusion matrix (rows: ground truth), as shares of their row."""
    shares = np.nan_to_num(row_shares(confusion))
    np.fill_diagonal(shares, 0)
    found = Confused()
    for flat in np.argsort(shares, axis=None)[::-1]:
        row, column = np.unravel_index(flat, shares.shape)
        share = float(shares[row, column])
        if share <= 0:
            break
        group = found.invented if row == BACKGROUND else found.missed if column == BACKGROUND else found.classes
        if len(group) < PAIRS and (share >= LEAST_SHARE or row == BACKGROUND):
            group.append(Pair(names[int(row)], names[int(column)], share))
    return found
