"""A run as a report sees it: its files, stages, settings, curves and times, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.report_curves import Curves, read_curves
from utils.report_files import RunFiles, find_files
from utils.report_overview import Timing, read_timings
from utils.report_settings import (
    DEEPLAB_SHOWN,
    SHOWN,
    DataPlaces,
    data_places,
    deeplab_settings,
    read_flat_yaml,
    run_settings,
    show_value,
)
from utils.report_stages import Stage, read_stages

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
