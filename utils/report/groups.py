"""Runs put side by side: those of one setting, which differ in their seeds, form a group, one row of a table."""

import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.report.run import FIRST, MINUTE, Run, Settings, Stage, show_value
from utils.runtime.cards import SEGMENTATION_TRAINING, TRAINING, StageCard

# These differ between runs without saying anything about how they were trained.
NAMES = ("name", "run_dir", "exp.id", "exp.output_dir", "train.resume", "eval.")
# Runs that differ in these alone are of one setting.
ALIKE = ("seed", "device", "threads")
# Key -> word for the folder it names, in other settings that lie inside of it.
FOLDERS = {"run_dir": "<run>", "exp.output_dir": "<run>", "data.root": "<data>", "dataset.root": "<data>"}
NOT_SET = "not set"
# How the weights of a score were chosen, of which a column of its own says so: setting, and values of it.
PICKED = "boxes.picked"
PICKS = {"last": "last epoch", "held_out": "picked on held-out images", "test": "picked on these images (not comparable)"}


@dataclass(frozen=True)
class Group:
    """Runs that one row shows: their mean and standard deviation."""

    label: str
    runs: Sequence[Run]

    def stages(self, key: str) -> list[Stage]:
        """Return the runs' stages of a key."""
        return [stage for run in self.runs for stage in run.stages if stage.card.key == key]

    def scores(self, key: str) -> list[float]:
        """Return the runs' mean IoU, in [0, 1], at a stage."""
        return [stage.card.mean_iou for stage in self.stages(key) if stage.card.mean_iou is not None]

    def seconds(self, key: str) -> list[float]:
        """Return what a stage took in the runs."""
        return [stage.card.seconds for stage in self.stages(key)]

    def class_iou(self, key: str, name: str) -> float | None:
        """Return the runs' mean IoU of a class at a stage; None where it is undefined."""
        known = [value for stage in self.stages(key) if (value := stage.iou.get(name)) is not None]
        return statistics.mean(known) if known else None


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Put runs together whose trainings have equal settings but for seed, name and paths of the run itself.

    Trainings that only some of the runs have (a segmentation stage) keep nothing apart.
    """
    found: list[tuple[dict[str, Any], list[Run]]] = []
    for run in runs:
        mine = _trainings(run)
        for known, members in found:
            shared = known.keys() & mine.keys()
            if shared and all(known[key] == mine[key] for key in shared):
                known.update(mine)
                members.append(run)
                break
        else:
            found.append((mine, [run]))
    return [Group(_label(members), members) for _, members in found]


def all_stages(groups: Sequence[Group]) -> dict[str, StageCard]:
    """Return key -> a card of it, of the stages any run has, in the order of the pipeline."""
    cards = [stage.card for group in groups for run in group.runs for stage in run.stages]
    found: dict[str, StageCard] = {}
    for card in sorted(cards, key=lambda card: (card.order, card.key)):
        if card.key not in found or found[card.key].mean_iou is None:
            found[card.key] = card
    return found


def table(groups: Sequence[Group], ceiling: str = "") -> str:
    """Return a Markdown table: one row a group, mIoU in percent and training times in minutes.

    With `ceiling`, a group's label, what others reach of its mean at a stage follows in brackets ("54.0 (93 %)").
    """
    full = next((group for group in groups if group.label == ceiling), None)
    cards = all_stages(groups).values()
    scored = {c.key: f"{c.title} mIoU" + (f" ({c.split})" if c.split else "") for c in cards if c.mean_iou is not None}
    trained = {c.key: f"{c.title.lower()}, minutes" for c in cards if c.order == TRAINING}
    lines = ["| | " + " | ".join([*scored.values(), *trained.values()]) + " |"]
    lines.append("| --- |" + " --- |" * (len(scored) + len(trained)))
    for group in groups:
        cells = [_score(group, key, None if group is full else full) for key in scored]
        cells += [mean_and_deviation([value / MINUTE for value in group.seconds(key)]) for key in trained]
        lines.append(f"| {group.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _score(group: Group, key: str, full: Group | None) -> str:
    mine, most = group.scores(key), full.scores(key) if full else []
    text = mean_and_deviation([100 * value for value in mine])
    return f"{text} ({statistics.mean(mine) / statistics.mean(most):.0%})".replace("%", " %") if mine and any(most) else text


def further_scores(groups: Sequence[tuple[str, Group]]) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """Return (columns, rows of name and cells) of the cards' other scores, in percent; None where there are none.

    A row a score; a column a labelled group and way its weights were picked (PICKS). Those picked on the scored images are each
    run's best of all it scored, by the first of its scores.
    """
    columns: dict[str, list[StageCard]] = {}
    for label, group in groups:
        for pick, card in (found for run in group.runs for found in _picked(run)):
            columns.setdefault(f"{label}, {pick}", []).append(card)
    names = dict.fromkeys(name for cards in columns.values() for card in cards for name in card.scores)
    if not names:
        return None
    weights = [", ".join(dict.fromkeys(_weights(card) for card in cards)) for cards in columns.values()]
    values = {name: [[100 * c.scores[name] for c in cards if name in c.scores] for cards in columns.values()] for name in names}
    return list(columns), [("weights", weights), *((n, [mean_and_deviation(v) for v in each]) for n, each in values.items())]


def further_table(groups: Sequence[Group]) -> str:
    """Return `further_scores` as a Markdown table, "" where there are none."""
    if (found := further_scores([(group.label, group) for group in groups])) is None:
        return ""
    columns, rows = found
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows)])


def _picked(run: Run) -> list[tuple[str, StageCard]]:
    """Return (column, card) of a run's cards with other scores."""
    stages = [stage for stage in run.stages if stage.card.scores]
    by_pick: dict[str, list[Stage]] = {pick: [] for pick in PICKS}
    for stage in stages:
        by_pick.setdefault(stage.card.settings.get(PICKED, ""), []).append(stage)
    tested = by_pick.pop("test")
    found = [
        (f"{PICKS[pick]} ({stage.title})" if pick and len(alike) > 1 else PICKS.get(pick, stage.title), stage.card)
        for pick, alike in by_pick.items()
        for stage in alike
    ]
    if tested:
        same = [stage.card for stage in stages if stage.card.split == tested[0].card.split]
        found.append((PICKS["test"], max(same, key=lambda card: next(iter(card.scores.values())))))
    return found


def _weights(card: StageCard) -> str:
    return Path(str(card.settings.get("cam.checkpoint", ""))).stem or "–"


def expected_table(groups: Sequence[Group], expected: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of what others reached, mIoU in percent, beside these groups' scores; a dash where there is none.

    Args:
        groups: rows of the comparison.
        expected: `stage`, a title; `program` and `list` (a list's name without .txt, or a split), which find the card; `miou`;
            `source`.
    """
    lines = [
        "| stage | images | " + " | ".join(group.label for group in groups) + " | expected | from |",
        "| --- | --- |" + " --- |" * len(groups) + " --- | --- |",
    ]
    for row in expected:
        cells = [mean_and_deviation([100 * value for value in _scores_of(group, row)]) for group in groups]
        title = row["stage"] + (" + CRF" if row["program"] == "deeplab crf" else "")
        lines.append(" | ".join([f"| {title}", row["list"], *cells, f"{row['miou']:.1f}", f"{row['source']} |"]))
    return "\n".join(lines)


def _scores_of(group: Group, row: Mapping[str, Any]) -> list[float]:
    cards = [stage.card for run in group.runs for stage in run.stages]
    found = [card for card in cards if card.program == row["program"] and _list_of(card) == row["list"]]
    return [card.mean_iou for card in found if card.mean_iou is not None]


def _list_of(card: StageCard) -> str:
    return Path(card.list_file).stem if card.list_file and not card.program.startswith("deeplab") else card.split


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return "60.0 ± 10.0" (standard deviation of a sample), "60.0" of one value, or a dash of none."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "–"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def setting_differences(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return (key, each group's value) of the settings that differ between groups, but for names and paths of the runs."""
    rows = []
    for heading in dict.fromkeys(heading for group in groups for run in group.runs for heading in run.settings):
        flat = [[comparable(run, run.settings[heading]) for run in group.runs if heading in run.settings] for group in groups]
        for key in dict.fromkeys(key for runs in flat for settings in runs for key in settings):
            values = [", ".join(dict.fromkeys(s.get(key, NOT_SET) for s in runs)) for runs in flat if runs]
            if len(set(values)) > 1:
                name = key if heading == FIRST else f"{heading}: {key}"
                rows.append((name, [values.pop(0) if runs else "–" for runs in flat]))
    return rows


def comparable(run: Run, settings: Settings) -> dict[str, str]:
    """Return settings as text, without a run's names, and its own folders taken out of the paths."""
    words = {str(flat[key]): word for key, word in FOLDERS.items() for flat in run.settings.values() if flat.get(key)}
    return {
        key: show_value(value) if key in FOLDERS else _without_folders(show_value(value), words)
        for key, value in settings.items()
        if not key.startswith(NAMES)
    }


def _without_folders(text: str, words: Mapping[str, str]) -> str:
    for folder, word in words.items():
        if text.startswith(f"{folder}/"):
            return word + text.removeprefix(folder)
    return text


def _trainings(run: Run) -> dict[str, dict[str, str]]:
    """Return stage key -> what trainings (of a run without any: its first stage) follow from; data by its folder's name."""
    cards = [stage.card for stage in run.stages if stage.card.settings]
    trainings = [card for card in cards if card.order in (TRAINING, SEGMENTATION_TRAINING)] or cards[:1]
    return {
        card.key: {
            key: Path(text).name if key in FOLDERS else text
            for key, text in comparable(run, card.settings).items()
            if key not in ALIKE and not key.endswith("workers")
        }
        for card in trainings
    }


def _label(runs: Sequence[Run]) -> str:
    """Return what names of runs share: "l2g" of l2g_seed0 and l2g_seed1, "demo*_l2g" of demo0_l2g and demo1_l2g."""
    names = [run.name for run in runs]
    start = os.path.commonprefix(names)
    end = os.path.commonprefix([name.removeprefix(start)[::-1] for name in names])[::-1]
    common = f"{start}*{end}" if end else re.sub(r"[_\-. ]*(seed|s)?[_\-. ]*$", "", start)
    return common if common and len(names) > 1 else names[0]
