"""What a run's folder holds that a report can show: found by file name, whatever stages there are."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from utils.data.classes import label_names, resolve_class_names
from utils.errors import UserError
from utils.runtime.log import RECORD

REPORT_FOLDER = "report"
CAM_RESULT, LABEL_RESULT, SUMMARY = "result.json", "pseudo_labels.json", "summary.json"
DEEPLAB_SCORES = ("scores.json", "scores_crf.json")
EVENTS = "events.out.tfevents."


@dataclass
class RunFiles:
    """Result files of a run, each list sorted by path; `deeplab` is the segmentation stage's output folder."""

    folder: Path
    deeplab: Path
    cam_results: list[Path] = field(default_factory=list)
    label_results: list[Path] = field(default_factory=list)
    deeplab_scores: list[Path] = field(default_factory=list)
    summaries: list[Path] = field(default_factory=list)
    records: list[Path] = field(default_factory=list)
    event_folders: list[Path] = field(default_factory=list)
    configs: list[Path] = field(default_factory=list)


def find_files(folder: Path, deeplab: Path | None = None) -> RunFiles:
    """Look through a run's folder, and the segmentation stage's where that is elsewhere.

    Args:
        folder: runs/<EXP>.
        deeplab: output folder of the segmentation stage; None: <folder>/deeplab.

    Raises:
        UserError: when a folder is not there.
    """
    files = RunFiles(folder, deeplab or folder / "deeplab")
    for place in (folder, deeplab):
        if place is not None and not place.is_dir():
            raise UserError(f"{place} is no folder; give the folder of a run, e.g. runs/demo_l2g")
    roots = [folder]
    if folder.resolve() not in (files.deeplab.resolve(), *files.deeplab.resolve().parents):
        roots.append(files.deeplab)
    for root in roots:
        for parent, folders, names in os.walk(root):
            if Path(parent) == folder and REPORT_FOLDER in folders:
                folders.remove(REPORT_FOLDER)
            folders.sort()
            for name in sorted(names):
                _sort_in(files, Path(parent), name)
    return files


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); write it again with its program") from error


def _sort_in(files: RunFiles, parent: Path, name: str) -> None:
    path = parent / name
    if name.startswith(EVENTS):
        if parent not in files.event_folders:
            files.event_folders.append(parent)
    elif name.endswith(".yaml"):
        files.configs.append(path)
    elif name in DEEPLAB_SCORES:
        files.deeplab_scores.append(path)
    elif name in (by_name := _by_name(files)):
        by_name[name].append(path)


def _by_name(files: RunFiles) -> dict[str, list[Path]]:
    return {
        CAM_RESULT: files.cam_results,
        LABEL_RESULT: files.label_results,
        SUMMARY: files.summaries,
        RECORD: files.records,
    }


Settings = Mapping[str, Any]

# Key -> what it is called in the table of settings that matter.
SHOWN = {
    "model.backbone": "backbone",
    "model.width": "width",
    "model.pretrained": "initial weights",
    "train.init_from": "started from",
    "seed": "seed",
    "train.epochs": "epochs",
    "train.classify_epochs": "of which plain classification",
    "train.batch_size": "batch size",
    "train.optimizer": "optimiser",
    "train.lr": "learning rate",
    "l2g.input_size": "global view, pixels",
    "l2g.crop_size": "local view, pixels",
    "l2g.patches": "local views",
    "cam.scales": "CAM scales",
    "crf.image": "CRF image mode",
}
DEEPLAB_SHOWN = {
    "model.name": "network",
    "model.backbone": "backbone",
    "model.init_model": "initial weights",
    "seed": "seed",
    "solver.iter_max": "iterations",
    "solver.lr": "learning rate",
    "image.size.train": "crop, pixels",
    "train.loss": "loss",
    "crf.image": "CRF image mode",
}


@dataclass(frozen=True)
class DataPlaces:
    """Where a data set's pictures are, and its label names, background first."""

    image_dir: Path
    saliency_dir: Path | None
    label_dir: Path
    names: Sequence[str]

    @property
    def num_classes(self) -> int:
        return len(self.names) - 1


def read_flat_yaml(path: Path) -> dict[str, Any]:
    """Return dotted key -> value of a YAML file (keys lower case); empty where it is missing or no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return flatten(content) if isinstance(content, dict) else {}


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": 1} for {"a": {"b": 1}}."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{str(key).lower()}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def run_settings(files: RunFiles) -> dict[str, Any]:
    """Return the flat settings of the first stage: of its training, else of any of its programs; empty without."""
    beside = [path.with_suffix(".yaml") for path in (*files.cam_results, *files.label_results)]
    for path in (files.folder / "config.yaml", *beside, *files.configs):
        settings = read_flat_yaml(path)
        if "data.root" in settings:
            return settings
    return {}


def deeplab_settings(files: RunFiles) -> dict[str, Any]:
    """Return the flat settings of the segmentation stage; empty without."""
    for path in files.configs:
        settings = read_flat_yaml(path)
        if "exp.id" in settings and "dataset.root" in settings:
            return settings
    return {}


def shown_settings(settings: Settings, shown: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (name, value) of the settings that matter, as text."""
    return [(title, show_value(settings[key])) for key, title in shown.items() if key in settings]


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


def data_places(first: Settings, second: Settings) -> DataPlaces | None:
    """Return where the pictures are, from the first stage's settings, else from the segmentation stage's; None without.

    Raises:
        UserError: for class names that cannot be read.
    """
    if first:
        root = Path(first["data.root"])
        names = label_names(resolve_class_names(first["data.class_names"], first["data.num_classes"]))
        return DataPlaces(
            image_dir=root / first["data.image_dir"],
            saliency_dir=root / first["data.saliency_dir"],
            label_dir=root / first["data.label_dir"],
            names=names,
        )
    if not second:
        return None
    root = Path(second["dataset.root"])
    return DataPlaces(
        image_dir=root / second.get("dataset.image_dir", "JPEGImages"),
        saliency_dir=None,
        label_dir=root / second.get("dataset.truth_dir", "SegmentationClassAug"),
        names=_deeplab_names(second),
    )


def _deeplab_names(settings: Settings) -> list[str]:
    classes = int(settings["dataset.n_classes"]) - 1
    known = "coco14" if str(settings.get("dataset.name", "")).lower().startswith("coco") else "voc12"
    try:
        return label_names(resolve_class_names(known, classes))
    except UserError:  # another data set; its names stand in the scores, numbers do here
        return label_names([str(index + 1) for index in range(classes)])
