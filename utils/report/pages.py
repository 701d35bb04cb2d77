"""The pages: one run from its cards, and any number of runs side by side, those of one setting in one row."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utils.data.classes import palette
from utils.files import write_text_atomic
from utils.report.figures import confusion_figure, curves_figure, threshold_figure
from utils.report.gallery import GalleryLimits, pair_gallery, run_gallery
from utils.report.groups import Group, all_stages, further_scores, group_runs, mean_and_deviation, setting_differences
from utils.report.run import SHOWN, Confused, Run, confused_pairs, duration, show_value
from utils.runtime.cards import StageCard

TEMPLATES = Path(__file__).with_name("templates")
# Name of the page, and of its template.
PAGE = "index.html"
PAIR = 2


def write_page(template: str, path: Path, names: Sequence[str], context: Mapping[str, Any]) -> None:
    """Render `utils/report/templates/<template>` into one HTML file; all text in `context` is escaped.

    Args:
        template: its name.
        path: the page.
        names: label names, background first.
        context: what the template needs; `sections` is (anchor, title, whether it is there).
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Scores stand in the order of the pipeline, on which the page's "last stage" relies.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["duration"] = duration
    rgb = palette()
    shared = {
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "names": names,
        "colours": [f"rgb({rgb[3 * v]} {rgb[3 * v + 1]} {rgb[3 * v + 2]})" for v in range(len(names))],  # as label maps
        "sections": [(anchor, title) for anchor, title, there in context["sections"] if there],
    }
    write_text_atomic(path, environment.get_template(template).render({**context, **shared}) + "\n")


def write_report(run: Run, page: Path, limits: GalleryLimits) -> None:
    """Write `<page>` and, in folders beside it, its pictures. Raises UserError naming one that is damaged."""
    gallery = run_gallery(run, page, limits) if limits.shown else None
    classes = [name for name in run.names if any(stage.iou.get(name) is not None for stage in run.rated)]
    figures, confusions = _figures({"": run}, rates=True), _confusions(run)
    context = {
        "title": run.name,
        "subtitle": _subtitle(run),
        "folder": str(run.folder),
        "stages": run.stages,
        "rated": run.rated,
        "settings": [
            (heading, [(title, show_value(flat[key])) for key, title in SHOWN.items() if key in flat])
            for heading, flat in run.settings.items()
        ],
        "all_settings": [
            (heading, [(key, show_value(value)) for key, value in flat.items()]) for heading, flat in run.settings.items()
        ],
        "figures": figures,
        "classes": classes,
        "confusions": confusions,
        "gallery": gallery,
        "gallery_missing": "" if gallery or not run.drawn or not limits.shown else _missing(run),
        "links": [(path.name, _link(path.stem)) for path in sorted(page.parent.glob("vs_*.html"))],
        "sections": [
            ("pipeline", "Pipeline", True),
            ("settings", "Settings", True),
            ("curves", "Curves", figures),
            ("classes", "Classes", classes),
            ("confusion", "Confusion", confusions),
            ("images", "Images", gallery),
        ],
    }
    write_page(PAGE, page, run.names, context)


def write_comparison(runs: Sequence[Run], page: Path, limits: GalleryLimits) -> None:
    """Write the page that compares runs, and the pictures it shows: images by gain and loss where there are two sides.

    Runs of equal settings form one row; where all runs do, each has a row of its own above their mean.

    Raises:
        UserError: naming a picture that is damaged or of the wrong size.
    """
    groups = group_runs(runs)
    sides = groups if len(groups) > 1 else [Group(run.name, [run]) for run in runs]
    lettered = {_letter(index): side for index, side in enumerate(sides)}
    pair = list(runs) if len(runs) == PAIR else [side.runs[0] for side in sides] if len(sides) == PAIR else []
    gallery = pair_gallery(pair[0], pair[1], page, limits) if pair and limits.shown else None
    cards, rated = all_stages(sides), _rated_by_all(sides)
    scored = {key: card for key, card in cards.items() if card.mean_iou is not None}
    names, differences = runs[0].names, setting_differences(sides)
    figures = _figures({f"{letter}: ": side.runs[0] for letter, side in lettered.items()}, rates=False)
    cells = {name: [[side.class_iou(key, name) for side in sides] for key in rated] for name in names}
    classes = [(name, stages) for name, stages in cells.items() if any(iou is not None for each in stages for iou in each)]
    context = {
        "title": f"{sides[0].label} against {', '.join(side.label for side in sides[1:])}",
        "subtitle": " · ".join(
            f"{letter}: {', '.join(str(run.folder) for run in side.runs)}" for letter, side in lettered.items()
        ),
        "scored": list(scored.values()),
        "rows": [_row(letter, side, list(scored)) for letter, side in lettered.items()],
        "mean": _row("", Group("mean", runs), list(scored)) if len(groups) == 1 else None,
        "further": further_scores(list(lettered.items())),
        "gains": _gains(sides, list(scored)) if len(sides) == PAIR else [],
        "times": [(_timed(card, cards.values()), _times(sides, key)) for key, card in cards.items()],
        "letters": list(lettered),
        "differences": differences,
        "figures": figures,
        "classes": classes,
        "class_titles": list(rated.values()),
        "gallery": gallery,
        "gallery_missing": "The runs have no image with scores in common." if pair and limits.shown and not gallery else "",
        "links": [(PAGE, f"report of {runs[0].name}")],
        "sections": [
            ("numbers", "Numbers", True),
            ("settings", "Settings", True),
            ("curves", "Curves", figures),
            ("classes", "Classes", classes),
            ("images", "Images", gallery),
        ],
    }
    write_page("compare.html", page, names, context)


def comparison_name(runs: Sequence[Run]) -> str:
    """Return the file name of the page that compares the first run with the others."""
    return f"vs_{runs[1].name}.html" if len(runs) == PAIR else f"vs_{len(runs) - 1}_runs.html"


def _link(stem: str) -> str:
    return f"compared with {stem.removeprefix('vs_').replace('_runs', ' runs')}"


def _letter(index: int) -> str:
    """Return A to Z, then A2, B2, ..."""
    turn, letter = divmod(index, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn + 1) if turn else "")


def _row(letter: str, side: Group, keys: Sequence[str]) -> dict[str, Any]:
    cells = [mean_and_deviation([100 * value for value in side.scores(key)]) for key in keys]
    return {"letter": letter, "label": side.label, "runs": len(side.runs), "cells": cells}


def _gains(sides: Sequence[Group], keys: Sequence[str]) -> list[float | None]:
    """Return A's mean score - B's at each stage."""
    pairs = [(sides[0].scores(key), sides[1].scores(key)) for key in keys]
    return [sum(a) / len(a) - sum(b) / len(b) if a and b else None for a, b in pairs]


def _timed(card: StageCard, cards: Collection[StageCard]) -> str:
    alike = [one for one in cards if one.title == card.title]
    return f"{card.title}, {card.split}" if len(alike) > 1 and card.split else card.title


def _times(sides: Sequence[Group], key: str) -> list[str]:
    """Return what a stage took on each side, the mean of its runs."""
    return [duration(sum(taken) / len(taken)) if (taken := side.seconds(key)) else "–" for side in sides]


def _rated_by_all(sides: Sequence[Group]) -> dict[str, str]:
    """Return key -> title of the stages with a score for each class on every side."""
    first = {stage.card.key: stage.title for stage in sides[0].runs[0].rated}
    return {key: title for key, title in first.items() if all(any(s.iou for s in side.stages(key)) for side in sides)}


def _figures(runs: Mapping[str, Run], *, rates: bool) -> list[tuple[str, Markup]]:
    """Return (caption, figure) of losses, shares of pixels, with `rates` the learning rates, and the sweeps.

    Args:
        runs: by legend prefix.
        rates: see above.
    """
    figures = []
    for index, title in enumerate(dict.fromkeys(curves.title for run in runs.values() for curves in run.curves)):
        mine = [(prefix, curves) for prefix, run in runs.items() for curves in run.curves if curves.title == title]
        losses = {prefix + name: curve for prefix, curves in mine for name, curve in curves.losses.items()}
        rate = {prefix + name: curve for prefix, curves in mine for name, curve in curves.rates.items()}
        shares = {prefix + name: curve for prefix, curves in mine for name, curve in curves.shares.items()}
        if losses:
            figures.append((f"{title}: losses", curves_figure(f"loss{index}", losses, "loss")))
        if shares:
            figures.append((f"{title}: labels", curves_figure(f"share{index}", shares, "share of the pixels")))
        if rates and rate:
            figures.append((f"{title}: learning rate", curves_figure(f"rate{index}", rate, "learning rate", log=True)))
    stages = [(prefix, stage) for prefix, run in runs.items() for stage in run.stages if stage.card.curve]
    sweeps = {prefix + stage.title: stage.card.curve for prefix, stage in stages}
    return [*figures, ("CAM: mean IoU over the background threshold", threshold_figure("sweep", sweeps))] if sweeps else figures


def _confusions(run: Run) -> list[tuple[str, Markup, Confused]]:
    return [
        (
            stage.title,
            confusion_figure(f"confusion{index}", stage.card.names, stage.confusion),
            confused_pairs(stage.card.names, stage.confusion),
        )
        for index, stage in enumerate(run.rated)
    ]


def _subtitle(run: Run) -> str:
    values = list(run.settings.values())
    data = next((flat[key] for flat in values for key in ("data.root", "dataset.root") if key in flat), "unknown data")
    seed = next((flat["seed"] for flat in values if "seed" in flat), "?")
    return f"{run.folder} · data {data} · {max(0, len(run.names) - 1)} classes · seed {seed}"


def _missing(run: Run) -> str:
    if run.data is None:
        return "No card of the run says where its pictures are; give --config."
    where = run.data.image_dirs[0]
    return (
        f"No picture to show: {where} or the folders of CAMs and labels are not there (paths start at the working directory)."
    )
