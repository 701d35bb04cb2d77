"""The stages of a run with their numbers, read from the files their programs wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.cams.store import classes_on_disk
from utils.evaluation.metrics import score
from utils.evaluation.scores import counts_path, number_or_none, scores_to_dict
from utils.report.files import RunFiles, read_flat_yaml, read_json

# Facts of the segmentation stage's card: CRF settings by key, and scores.
CRF_SHOWN = {"image": "CRF image", "iter_max": "CRF iterations"}
ACCURACIES = ("Pixel Accuracy", "Mean Accuracy")
ClassScores = Mapping[str, float | None]


@dataclass(frozen=True)
class LabelMaps:
    """Where a stage's label maps are: PNGs `<folder>/<id>.png`, or with `threshold` CAMs `<folder>/<id>_<class>.png`."""

    folder: Path
    threshold: float | None = None

    def images(self, num_classes: int) -> dict[str, tuple[int, ...]]:
        """Return the images there are maps of: id -> classes (0-based) with a CAM, none for PNGs of all classes."""
        if not self.folder.is_dir():
            return {}
        if self.threshold is None:
            return {path.stem: () for path in self.folder.glob("*.png")}
        return classes_on_disk(self.folder, num_classes)


@dataclass
class Stage:
    """A stage that makes label maps, and how good they are.

    Attributes:
        key: short name, unique in a run and the same in all runs, e.g. "cam", "pseudo_saliency", "deeplab_crf_val".
        title: for people.
        output: what its program wrote, as in stages.json.
        programs: names of the programs that made it, in stages.json.
        mean_iou: in [0, 1]; None without ground truth.
        facts: further (name, value) pairs, as text.
        iou, precision, recall: by label name, in [0, 1], None where undefined.
        confusion: (C + 1, C + 1) pixel counts, rows ground truth.
        curve: mean IoU at background thresholds k / (n - 1).
        split: name of the set of images it was evaluated on, e.g. "train".
        list_file: the list of these images, where there is one.
    """

    key: str
    title: str
    output: str
    programs: tuple[str, ...]
    maps: LabelMaps
    mean_iou: float | None
    facts: list[tuple[str, str]] = field(default_factory=list)
    iou: ClassScores = field(default_factory=dict)
    precision: ClassScores = field(default_factory=dict)
    recall: ClassScores = field(default_factory=dict)
    names: Sequence[str] = ()
    confusion: NDArray[np.int64] | None = None
    curve: tuple[list[float], list[float]] | None = None
    split: str = ""
    list_file: Path | None = None

    @property
    def short(self) -> str:
        """Return the title for captions below small pictures."""
        return self.title.replace("Pseudo labels", "labels").replace("DeepLab + CRF, ", "CRF, ")


def read_stages(files: RunFiles) -> list[Stage]:
    """Return the stages of a run in the order of the pipeline; none is required.

    Raises:
        UserError: for a damaged result file.
    """
    stages = [_cam_stage(files, path) for path in files.cam_results]
    stages += [_label_stage(files, path) for path in files.label_results]
    stages += [_deeplab_stage(files, path) for path in files.deeplab_scores]
    for title in dict.fromkeys(stage.title for stage in stages):
        alike = [stage for stage in stages if stage.title == title]
        if len({stage.split for stage in alike}) > 1:
            for stage in alike:
                stage.title += f", {stage.split}" if stage.split else ""
    keys, titles = _numbered([s.key for s in stages], "{}_{}"), _numbered([s.title for s in stages], "{} ({})")
    for stage, key, title in zip(stages, keys, titles, strict=True):
        stage.key, stage.title = key, title
    return stages


def _numbered(names: Sequence[str], form: str) -> list[str]:
    """Return the names with those that occur before numbered from 2 on."""
    return [form.format(name, n) if (n := names[: i + 1].count(name)) > 1 else name for i, name in enumerate(names)]


def _cam_stage(files: RunFiles, path: Path) -> Stage:
    result, counts = read_json(path), _counts(path)
    best, settings = result["best"], read_flat_yaml(path.with_suffix(".yaml"))
    cam_dir = _cam_dir(path, settings)
    place = _place(files.folder, path.parent.parent)
    stage = Stage(
        key="cam" + place,
        title=_titled("CAM", place),
        output=str(cam_dir),
        programs=("test_l2g",),
        maps=LabelMaps(cam_dir, best["threshold"]),
        mean_iou=best["mean_iou"],
        facts=[("best threshold", f"{best['threshold']:.3f}")],
        **_images(settings),
    )
    listed = result.get("thresholds", [])
    if counts:
        _fill_from_counts(stage, counts)
        levels = len(counts["mean_iou"]) - 1
        stage.curve = ([k / levels for k in range(levels + 1)], counts["mean_iou"])
    elif listed:  # results of earlier versions hold the listed thresholds alone
        nearest = min(listed, key=lambda entry: abs(entry["threshold"] - best["threshold"]))
        _fill_from_dict(stage, nearest)
        stage.curve = ([e["threshold"] for e in listed], [e["mean_iou"] for e in listed])
        stage.facts.append(("per-class scores at", f"threshold {nearest['threshold']:g}"))
    return stage


def _cam_dir(result: Path, settings: Mapping[str, Any]) -> Path:
    """Return the folder of the CAMs a result was made from, as its configuration says, or (moved runs) beside it."""
    configured = settings.get("eval.cam_dir", "")
    return Path(configured) if configured and Path(configured).is_dir() else result.parent / "attention"


def _images(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `split` and `list_file` of a first-stage program's settings: train_aug.txt is the set "train"."""
    path = Path(str(settings.get("data.eval_list", "")))
    return {"split": split_name(path.stem), "list_file": path if path.is_file() else None}


def split_name(name: str) -> str:
    """Return the name of a set of images without the suffixes by which the lists of one set differ."""
    return name.removesuffix("_aug").removesuffix("_cls")


def _label_stage(files: RunFiles, path: Path) -> Stage:
    result, counts = read_json(path), _counts(path)
    folder, fusion = path.parent, str(result.get("fusion", ""))
    place = _place(files.folder, folder.parent)
    facts = [
        ("coverage", f"{100 * result['coverage']:.1f}\u00a0%"),
        ("ignored", f"{100 * result['ignored']:.1f}\u00a0%"),
        ("all ignored", f"{result['images_ignored']} of {result['images']}"),
        ("foreground", f"{100 * result['foreground']:.1f}\u00a0%"),
    ]
    stage = Stage(
        key=f"pseudo_{fusion}{place}",
        title=_titled(f"Pseudo labels, {fusion}", place),
        output=str(folder),
        programs=("gen_gt",),
        maps=LabelMaps(folder),
        mean_iou=result.get("mean_iou"),
        facts=facts,
        **_images(read_flat_yaml(path.with_suffix(".yaml"))),
    )
    _fill_from_dict(stage, result)
    if counts:
        _fill_from_counts(stage, counts)
    return stage


def _deeplab_stage(files: RunFiles, path: Path) -> Stage:
    """Read `<output_dir>/scores/<id>/<model>/<split>/scores[_crf].json`."""
    result, crf = read_json(path), path.stem.endswith("_crf")
    experiment, model, split = path.parts[-4:-1]
    names = list(result.get("Class Names", [str(index) for index in result["Class IoU"]]))
    settings = result.get("CRF") or {}
    facts = [("split", split)]
    if crf:
        facts += [(name, str(settings[key])) for key, name in CRF_SHOWN.items() if key in settings]
    facts += [(name.lower(), f"{100 * result[name]:.1f}\u00a0%") for name in ACCURACIES if result.get(name) is not None]
    output = Path(*path.parts[:-5])
    predictions = output / "predictions" / experiment / model / (f"{split}_crf" if crf else split)
    stage = Stage(
        key=f"deeplab_{'crf' if crf else 'test'}_{split_name(split)}",  # the set too: runs are compared by key
        title="DeepLab + CRF" if crf else "DeepLab",
        output=str(predictions),
        programs=("deeplab_crf",) if crf else ("deeplab_train", "deeplab_test"),
        maps=LabelMaps(predictions),
        mean_iou=_defined(result["Mean IoU"]),
        facts=facts,
        iou={names[int(index)]: _defined(value) for index, value in result["Class IoU"].items()},
        split=split_name(split),
    )
    if result.get("Confusion Matrix"):
        _fill_from_counts(stage, {"names": names, "confusion": result["Confusion Matrix"]})
    return stage


def _fill_from_counts(stage: Stage, counts: Mapping[str, Any]) -> None:
    stage.names, stage.confusion = counts["names"], np.array(counts["confusion"], np.int64)
    _fill_from_dict(stage, scores_to_dict(score(stage.confusion), stage.names))


def _fill_from_dict(stage: Stage, scores: Mapping[str, Any]) -> None:
    stage.iou, stage.precision, stage.recall = (dict(scores.get(key) or {}) for key in ("iou", "precision", "recall"))


def _counts(result: Path) -> dict[str, Any]:
    path = counts_path(result)
    return dict(read_json(path)) if path.exists() else {}


def _defined(value: float | None) -> float | None:
    return None if value is None else number_or_none(float(value))


def _place(folder: Path, path: Path) -> str:
    """Return "_train" for <folder>/train, and nothing for the folder itself or one outside of it."""
    inside = path.resolve().relative_to(folder.resolve()).parts if path.resolve().is_relative_to(folder.resolve()) else ()
    return "".join(f"_{part}" for part in inside)


def _titled(title: str, place: str) -> str:
    return f"{title} ({place[1:].replace('_', '/')})" if place else title
