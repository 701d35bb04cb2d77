"""What a run's folder holds that a report can show: found by file name, whatever stages there are."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.stage_record import RECORD

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
