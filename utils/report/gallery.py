"""The gallery of a report: which images, their pictures, and the scores the page sorts and filters by."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.report.files import DataPlaces
from utils.report.images import ImageScores, ImageTask, Pictures, StageScore, choose, find_images, score_images, spread
from utils.report.stages import Stage
from utils.report.tiles import CONFUSED, INVENTED, MISSED, Tile, TileWriter, write_tiles

FOLDER = "thumbs"
WORST_FIRST = (("up", "worst first"), ("down", "best first"), ("classes", "class"), ("name", "name"))


@dataclass(frozen=True)
class GalleryLimits:
    """`shown` images at most in the gallery, chosen among `scored`; `workers` processes (0: one per core)."""

    shown: int = 200
    scored: int = 2000
    workers: int = 0


@dataclass(frozen=True)
class Item:
    """One image of the gallery; badges are (title, text, change), change coloured by its sign."""

    image_id: str
    split: str
    values: Sequence[int]
    badges: Sequence[tuple[str, str, float]]
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Gallery:
    """What the gallery's template needs; `data` is what the page's script reads, one entry an item."""

    items: Sequence[Item]
    data: Sequence[Mapping[str, Any]]
    stages: Sequence[tuple[str, str]]
    measure: str
    orders: Sequence[tuple[str, str]]
    note: str
    missed: tuple[int, int, int] = MISSED
    invented: tuple[int, int, int] = INVENTED
    confused: tuple[int, int, int] = CONFUSED
    splits: Sequence[str] = field(default_factory=list)
    values: Sequence[tuple[int, int]] = field(default_factory=list)


def build_gallery(
    places: DataPlaces, stages: Sequence[Stage], page: Path, limits: GalleryLimits
) -> tuple[Gallery, list[ImageScores]] | None:
    """Score images, choose those to show and write their pictures below the page's folder.

    Returns:
        The gallery and the scores of all images looked at; None when no stage has maps of an image that is there.

    Raises:
        UserError: naming a file that is damaged or of the wrong size.
    """
    pictures = Pictures(places, {stage.key: stage.maps for stage in stages})
    tasks = find_images(pictures, stages)
    if not tasks:
        return None
    scored = score_images(pictures, spread_over_splits(tasks, limits.scored), workers=limits.workers)
    chosen = choose(scored, limits.shown)
    titles = {stage.key: stage.short for stage in stages}
    writer = TileWriter(pictures, titles, page, FOLDER)
    rows = write_tiles(writer, [item.task for item in chosen], workers=limits.workers)
    items = [_item(item, tiles, titles) for item, tiles in zip(chosen, rows, strict=True)]
    has_scores = any(item.scores for item in scored)
    gallery = make_gallery(
        items,
        [{key: score_entry(score) for key, score in item.scores.items()} for item in chosen],
        [(stage.key, stage.title) for stage in stages if any(stage.key in item.scores for item in chosen)],
        measure="IoU",
        orders=WORST_FIRST if has_scores else WORST_FIRST[2:],
        note=_note(len(tasks), len(scored), len(chosen), has_scores),
    )
    return gallery, scored


def make_gallery(
    items: Sequence[Item],
    scores: Sequence[Mapping[str, Any]],
    stages: Sequence[tuple[str, str]],
    *,
    measure: str,
    orders: Sequence[tuple[str, str]],
    note: str,
) -> Gallery:
    """Put items and their scores (key -> [number of the image, {label value: number}]) together."""
    counts = Counter(value for item in items for value in item.values)
    return Gallery(
        items=items,
        data=[
            {"id": item.image_id, "split": item.split, "values": list(item.values), "scores": entry}
            for item, entry in zip(items, scores, strict=True)
        ],
        stages=stages,
        measure=measure,
        orders=orders,
        note=note,
        splits=list(dict.fromkeys(sorted(item.split for item in items))),
        values=sorted(counts.items()),
    )


def score_entry(score: StageScore) -> list[Any]:
    """Return a stage's score of an image as the page's script reads it."""
    return [score.mean, dict(score.by_value)]


def spread_over_splits(tasks: Sequence[ImageTask], most: int) -> list[ImageTask]:
    """Return at most about `most` images, as many of each split where there are enough, evenly spread over its list."""
    splits = list(dict.fromkeys(task.split for task in tasks))
    portions = [[task for task in tasks if task.split == split] for split in splits]
    return [task for portion in portions for task in spread(portion, max(1, most // len(splits)))]


def _item(item: ImageScores, tiles: Sequence[Tile], titles: Mapping[str, str]) -> Item:
    badges = [
        (titles[key], "–" if score.mean is None else f"{100 * score.mean:.0f}", 0.0) for key, score in item.scores.items()
    ]
    return Item(item.task.image_id, item.task.split, item.values, badges, tiles)


def _note(found: int, scored: int, shown: int, has_scores: bool) -> str:
    if not has_scores:
        return f"{shown} of {found} images, evenly spread; there is no ground truth to score them with."
    note = f"{shown} of {found} images" if shown < found else f"All {found} images"
    if shown < scored:
        note += ": a third the worst, a third the best, the others evenly between"
    if scored < found:
        note += f", out of {scored} that were scored (evenly spread)"
    return f"{note}. Scores are the mean IoU over the labels in the image; a chosen class sorts by that class's IoU."
