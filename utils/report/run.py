"""A run as a report sees it: its files, stages, settings, curves and times, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.data.classes import BACKGROUND
from utils.evaluation.metrics import row_shares
from utils.report.figures import Curves, read_curves
from utils.report.files import (
    DEEPLAB_SHOWN,
    SHOWN,
    DataPlaces,
    RunFiles,
    data_places,
    deeplab_settings,
    find_files,
    read_flat_yaml,
    read_json,
    run_settings,
    show_value,
)
from utils.report.stages import Stage, read_stages
from utils.runtime.log import format_seconds, read_stage_records

PAIRS = 6
MINUTE, HOUR = 60, 3600
SEGMENTATION_TRAINING = "deeplab_train"
OUTPUT_PARTS = 4  # predictions/<id>/<model>/<split>
# In the order of the pipeline.
PROGRAMS = ("train_l2g", "test_l2g", "evaluate_cam", "gen_gt", SEGMENTATION_TRAINING, "deeplab_test", "deeplab_crf")
# Pairs below this share of the class's pixels are no news.
LEAST_SHARE = 0.005


@dataclass(frozen=True)
class Card:
    """One step of the pipeline strip; `score` in [0, 1] or None."""

    title: str
    score: float | None
    headline: str
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Timing:
    """What one program took."""

    program: str
    images: int
    seconds: float
    memory: str
    output: str


@dataclass(frozen=True)
class ClassCell:
    """Scores of a class at one stage, in [0, 1] or None."""

    iou: float | None
    precision: float | None
    recall: float | None


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


def read_timings(files: RunFiles) -> list[Timing]:
    """Return what the programs of a run took: trainings from their summary.json, the others from stages.json."""
    timings = []
    for path in files.summaries:
        summary = read_json(path)
        if "seconds" in summary:
            memory = _memory(summary.get("peak_memory_gib"), None, str(summary.get("device", "")))
            name = SEGMENTATION_TRAINING if files.deeplab in path.parents else "train_l2g"
            timings.append(Timing(name, int(summary.get("images", 0)), float(summary["seconds"]), memory, str(path.parent)))
    known = {timing.program for timing in timings}
    for path in files.records:
        for entry in read_stage_records(path):
            if entry.get("program") in known:
                continue
            memory = _memory(entry.get("peak_memory_gib"), entry.get("peak_gpu_memory_gib"), "")
            parts = entry["program"], int(entry.get("images") or 0), float(entry["seconds"]), memory, entry.get("output", "")
            timings.append(Timing(*parts))
    inferred = [t for t in timings if t.program == "test_l2g"]
    for result in files.cam_results:  # runs of earlier versions
        infer = result.with_name("infer.json")
        if not inferred and infer.exists() and (content := read_json(infer)).get("done"):
            timings.append(Timing("test_l2g", content["done"], content["seconds"], "–", str(result.with_name("attention"))))
    return sorted(timings, key=_position)


def training_card(files: RunFiles, settings: Mapping[str, Any], timings: Sequence[Timing]) -> Card | None:
    """Return the card of the first stage's training; None for a run without one."""
    summaries = [path for path in files.summaries if files.deeplab not in path.parents]
    if not summaries and not (files.folder / "log.txt").exists():
        return None
    summary = read_json(summaries[0]) if summaries else {}
    epochs, plain = settings.get("train.epochs"), settings.get("train.classify_epochs", 0)
    kind = "plain CAM classifier" if epochs == plain else "local to global"
    facts = [("network", str(settings.get("model.backbone", "?"))), ("epochs", f"{epochs} ({plain} plain)")]
    if summary:
        facts += [("images", f"{summary.get('images', '?')}"), ("device", str(summary.get("device", "?")))]
    return Card("Training", None, kind if summary else f"{kind}, unfinished", [*facts, *_took(timings, ("train_l2g",), None)])


def stage_card(stage: Stage, timings: Sequence[Timing]) -> Card:
    """Return the card of a stage that makes label maps."""
    headline = "" if stage.mean_iou is not None else "no ground truth"
    return Card(stage.title, stage.mean_iou, headline, [*stage.facts, *_took(timings, stage.programs, stage.output)])


def class_rows(stages: Sequence[Stage], names: Sequence[str]) -> list[tuple[str, list[ClassCell]]]:
    """Return (label name, a cell per stage) for every label that has a score at any stage, background first."""
    known = [name for name in names if any(stage.iou.get(name) is not None for stage in stages)]
    return [(name, [ClassCell(s.iou.get(name), s.precision.get(name), s.recall.get(name)) for s in stages]) for name in known]


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


def _took(timings: Sequence[Timing], programs: Sequence[str], output: str | None) -> list[tuple[str, str]]:
    """Return time and memory of the programs that wrote `output` (None: any), and of the training they needed."""
    mine = [
        t
        for t in timings
        if t.program in programs and (output is None or t.program == SEGMENTATION_TRAINING or _same(t.output, output))
    ]
    if not mine:
        return []
    return [("time", duration(sum(t.seconds for t in mine))), ("peak memory", mine[-1].memory)]


def _same(one: str, other: str) -> bool:
    """Tell whether two paths mean one output, also of a run that was moved or is named by its absolute path."""
    return Path(one).parts[-OUTPUT_PARTS:] == Path(other).parts[-OUTPUT_PARTS:]


def duration(seconds: float) -> str:
    """Return a time for people: "4.2 s", "6:51 min" or "2:03:04 h"."""
    if seconds < MINUTE:
        return f"{seconds:.1f}\u00a0s"
    return f"{format_seconds(seconds).lstrip('0')}\u00a0{'min' if seconds < HOUR else 'h'}"


def _position(timing: Timing) -> int:
    return PROGRAMS.index(timing.program) if timing.program in PROGRAMS else len(PROGRAMS)


def _memory(resident: float | None, gpu: float | None, device: str) -> str:
    if resident is None:
        return "–"
    if device.startswith("cuda"):
        return f"{resident:.2f}\u00a0GiB on the GPU"
    return f"{resident:.2f}\u00a0GiB" + (f", {gpu:.2f}\u00a0GiB on the GPU" if gpu is not None else "")


DEEPLAB = "DeepLab"
HYPER_PARAMETERS = (*SHOWN, "train.schedule", "l2g.kd_weight", "l2g.background_target", "l2g.saliency", "pseudo.fusion")


@dataclass(frozen=True)
class Run:
    """Everything a report says of one run; `settings` and `deeplab` are flat ("train.lr" -> value), empty without."""

    name: str
    files: RunFiles
    stages: Sequence[Stage]
    settings: Mapping[str, Any]
    deeplab: Mapping[str, Any]
    places: DataPlaces | None
    curves: Sequence[Curves]
    timings: Sequence[Timing]

    @property
    def names(self) -> Sequence[str]:
        """Return the label names, background first; of the stages where the data set is not known."""
        if self.places is not None:
            return self.places.names
        return next((stage.names or list(stage.iou) for stage in self.stages if stage.iou), [])

    def scores(self) -> dict[str, float]:
        """Return stage key -> mean IoU in [0, 1] of the stages that have one."""
        return {stage.key: stage.mean_iou for stage in self.stages if stage.mean_iou is not None}

    def hyper_parameters(self) -> dict[str, Any]:
        """Return the settings by which runs are told apart, as TensorBoard takes them (text, numbers, truth values)."""
        chosen = {key: self.settings[key] for key in HYPER_PARAMETERS if key in self.settings}
        chosen |= {f"deeplab.{key}": self.deeplab[key] for key in DEEPLAB_SHOWN if key in self.deeplab}
        return {key: value if isinstance(value, (bool, int, float)) else show_value(value) for key, value in chosen.items()}


def read_run(folder: Path, deeplab: Path | None = None, settings: Mapping[str, Any] | None = None) -> Run:
    """Read a run's folder.

    Args:
        folder: runs/<EXP>.
        deeplab: output folder of the segmentation stage, <folder>/deeplab where None.
        settings: flat settings of the first stage that replace those the run's own files hold.

    Raises:
        UserError: for a folder that is not there or a damaged result file.
    """
    files = find_files(folder, deeplab)
    _add_labels_elsewhere(files)
    first, second = dict(settings or run_settings(files)), deeplab_settings(files)
    return Run(
        name=folder.resolve().name,
        files=files,
        stages=_ordered(read_stages(files), first),
        settings=first,
        deeplab=second,
        places=data_places(first, second),
        curves=sorted((_curves(files, path) for path in files.event_folders), key=lambda curves: curves.title == DEEPLAB),
        timings=read_timings(files),
    )


def _add_labels_elsewhere(files: RunFiles) -> None:
    """Add the pseudo labels this run wrote outside of its folder (the published place is the data set's)."""
    own = run_settings(files)
    path = Path(str(own.get("pseudo.out_dir", ""))) / "pseudo_labels.json"
    known = {found.resolve() for found in files.label_results}
    if not own.get("pseudo.out_dir") or not path.exists() or path.resolve() in known:
        return
    if Path(str(read_flat_yaml(path.with_suffix(".yaml")).get("run_dir", ""))).resolve() == files.folder.resolve():
        files.label_results.append(path)


def _ordered(stages: Sequence[Stage], settings: Mapping[str, Any]) -> list[Stage]:
    """Return the stages with the pseudo labels the run is configured to use after its other ones: last means final."""
    used = f"pseudo_{settings.get('pseudo.fusion', '')}"
    places = {"cam": 0, "pseudo": 1, "deeplab": 3}
    splits = list(dict.fromkeys(stage.split for stage in stages if not stage.key.startswith("deeplab")))

    def position(stage: Stage) -> tuple[bool, int, int]:
        deeplab = stage.key.startswith("deeplab")
        return (
            deeplab,
            0 if deeplab else splits.index(stage.split),
            places[stage.key.partition("_")[0]] + stage.key.startswith(used),
        )

    return sorted(stages, key=position)


def _curves(files: RunFiles, folder: Path) -> Curves:
    return read_curves(folder, DEEPLAB if files.deeplab in (folder, *folder.parents) else "Training")
