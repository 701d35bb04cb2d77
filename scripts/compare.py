"""Put the measured mIoU of runs side by side, as a Markdown table.

    python -m scripts.compare "plain CAM=runs/demo_plain" "L2G=runs/demo_l2g"
    python -m scripts.compare "plain CAM=runs/a_seed0,runs/a_seed1,runs/a_seed2" ... --out table.md

Each argument is LABEL=RUN[,RUN...]; several runs (seeds) of a row give mean ± standard deviation. Columns are the result
files found below the runs: <...>/ms/result.json (best CAM mIoU over all thresholds), <...>/pseudo_labels.json, and
scores.json and scores_crf.json of segmentation networks.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError, run_program
from utils.files import write_text_atomic

SECONDS_PER_MINUTE = 60
# Published file names of the segmentation stage.
SEGMENTATION = {"scores.json": "DeepLab mIoU", "scores_crf.json": "DeepLab + CRF mIoU"}


def main(argv: list[str]) -> None:
    """Parse the command line, print the table and write it to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="LABEL=RUN[,RUN...]", help="a row: label and run folders of its seeds")
    parser.add_argument("--out", default="", help="also write the table to this file")
    arguments = parser.parse_args(argv)
    table = run(dict(_row(text) for text in arguments.rows))
    print(table)
    if arguments.out:
        write_text_atomic(Path(arguments.out), table + "\n")


def run(rows: Mapping[str, list[Path]]) -> str:
    """Return a Markdown table: one row per label, one column per kind of result file; mIoU in percent, times in minutes.

    Raises:
        UserError: for a run folder without any result.
    """
    measured = {label: [read_scores(folder) for folder in folders] for label, folders in rows.items()}
    columns = list(dict.fromkeys(name for runs in measured.values() for scores in runs for name in scores))
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for label, runs in measured.items():
        cells = [_cell([scores[c] for scores in runs if c in scores]) for c in columns]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read_scores(folder: Path) -> dict[str, float]:
    """Return column name -> value of every result file below a run folder, and the training minutes."""
    scores: dict[str, float] = {}
    for path in sorted(folder.rglob("result.json")):
        place = path.parent.parent.relative_to(folder).as_posix()
        scores["CAM mIoU" if place == "." else f"CAM mIoU ({place})"] = 100 * _read(path)["best"]["mean_iou"]
    for path in sorted(folder.rglob("pseudo_labels.json")):
        value = _read(path).get("mean_iou")
        if value is not None:
            scores[f"labels mIoU ({path.parent.relative_to(folder).as_posix()})"] = 100 * value
    for name, column in SEGMENTATION.items():
        for path in sorted(folder.rglob(name)):
            value = _read(path).get("Mean IoU")
            if value is not None:
                scores[f"{column} ({path.parent.name})"] = 100 * value
    if not scores:
        raise UserError(f"{folder} holds no ms/result.json, pseudo_labels.json or scores.json; run test_l2g and gen_gt first")
    summary = folder / "model" / "summary.json"
    if summary.exists():
        scores["training, minutes"] = _read(summary)["seconds"] / SECONDS_PER_MINUTE
    return scores


def _row(text: str) -> tuple[str, list[Path]]:
    label, separator, folders = text.partition("=")
    if not separator or not folders:
        raise UserError(f"'{text}' is not LABEL=RUN[,RUN...]")
    return label, [Path(folder) for folder in folders.split(",")]


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); write it again with its program") from error


if __name__ == "__main__":
    run_program(main)
