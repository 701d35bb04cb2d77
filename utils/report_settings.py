"""The settings of a run as its own files hold them: for the tables of a report, and to find the data set's pictures.

Read as plain YAML, not against the schema, so that runs of other versions of the program can be shown too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.classes import resolve_class_names
from utils.errors import UserError
from utils.report_files import RunFiles
from utils.score_report import label_names

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
