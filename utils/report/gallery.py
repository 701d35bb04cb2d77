"""The gallery of a report: which images, their pictures, and the scores the page sorts and filters by."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.report.images import ImageScores, ImageTask, choose, find_images, pictures_of, score_images, spread
from utils.report.run import Run, Stage
from utils.report.tiles import CONFUSED, INVENTED, MISSED, Tile, TileWriter, write_tiles

FOLDER = "thumbs"
WORST_FIRST = (("up", "worst first"), ("down", "best first"), ("classes", "class"), ("name", "name"))
LOSS_FIRST = (("up", "losses first"), ("down", "gains first"), ("classes", "class"), ("name", "name"))

# A's and B's scores of the same image.
ScoredPair = tuple[ImageScores, ImageScores]
# (title, text, change); change is coloured by its sign.
Badge = tuple[str, str, float]


@dataclass(frozen=True)
class GalleryLimits:
    """`shown` images at most in the gallery, chosen among `scored`; `workers` processes (0: one per core)."""

    shown: int = 200
    scored: int = 2000
    workers: int = 0


@dataclass(frozen=True)
class Item:
    """One image of the gallery; `numbers` is stage key -> [number of the image, {label value: number}] to sort by."""

    image_id: str
    split: str
    values: Sequence[int]
    badges: Sequence[Badge]
    tiles: Sequence[Tile]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Gallery:
    """What the gallery's template needs; `titles` is stage key -> title, `measure` what the numbers are."""

    items: Sequence[Item]
    titles: Mapping[str, str]
    measure: str
    orders: Sequence[tuple[str, str]]
    note: str
    missed: tuple[int, int, int] = MISSED
    invented: tuple[int, int, int] = INVENTED
    confused: tuple[int, int, int] = CONFUSED

    @property
    def data(self) -> list[dict[str, Any]]:
        """Return what the page's script reads, one entry an item."""
        return [
            {"id": item.image_id, "split": item.split, "values": list(item.values), "scores": item.numbers}
            for item in self.items
        ]

    @property
    def stages(self) -> list[tuple[str, str]]:
        """Return (key, title) of the stages with numbers."""
        return [(key, title) for key, title in self.titles.items() if any(key in item.numbers for item in self.items)]

    @property
    def splits(self) -> list[str]:
        """Return the sets of images."""
        return sorted({item.split for item in self.items})

    @property
    def values(self) -> list[tuple[int, int]]:
        """Return (label value, number of images with it)."""
        return sorted(Counter(value for item in self.items for value in item.values).items())


def run_gallery(run: Run, page: Path, limits: GalleryLimits) -> Gallery | None:
    """Score a run's images, choose those to show and write their pictures below the folder of the page.

    Returns:
        None when no stage has maps of an image that is there.

    Raises:
        UserError: naming a file that is damaged or of the wrong size.
    """
    pictures = pictures_of(run)
    tasks = find_images(pictures) if pictures else []
    if pictures is None or not tasks:
        return None
    scored = score_images(pictures, spread_over_splits(tasks, limits.scored), workers=limits.workers)
    chosen = choose(scored, limits.shown)
    titles = {stage.card.key: stage.short for stage in run.drawn}
    writer = TileWriter(pictures, titles, page.parent, FOLDER)
    rows = write_tiles(writer, [item.task for item in chosen], workers=limits.workers)
    items = []
    for one, tiles in zip(chosen, rows, strict=True):
        numbers = {key: [score.mean, dict(score.by_value)] for key, score in one.scores.items()}
        badges = [(titles[k], "–" if s.mean is None else f"{100 * s.mean:.0f}", 0.0) for k, s in one.scores.items()]
        items.append(Item(one.task.image_id, one.task.split, one.values, badges, tiles, numbers))
    has_scores = any(one.scores for one in scored)
    note = _note(len(tasks), len(scored), len(chosen), has_scores)
    full = {stage.card.key: stage.title for stage in run.drawn}
    return Gallery(items, full, "IoU", WORST_FIRST if has_scores else WORST_FIRST[2:], note)


def pair_gallery(one: Run, other: Run, page: Path, limits: GalleryLimits) -> Gallery | None:
    """Show images by gain and loss of run A (`one`) against run B (`other`), as `run_gallery` does; of A's data set."""
    common = common_stages(one, other)
    sides = [pictures_of(run, [a.card.key for a, _ in common]) for run in (one, other)]
    if sides[0] is None or sides[1] is None or not common:
        return None
    tasks_a, tasks_b = ({task.image_id: task for task in find_images(side)} for side in sides if side)
    shared = spread_over_splits([task for name, task in tasks_a.items() if name in tasks_b], limits.scored)
    scored_a = score_images(sides[0], shared, workers=limits.workers)
    scored_b = score_images(sides[1], [tasks_b[task.image_id] for task in shared], workers=limits.workers)
    pairs = choose_pairs(list(zip(scored_a, scored_b, strict=True)), limits.shown)
    if not pairs:
        return None
    titles = {a.card.key: a.short for a, _ in common}
    rows: list[list[list[Tile]]] = []
    for side, letter in enumerate("AB"):
        captions = {key: f"{letter}: {title}" for key, title in titles.items()}
        kinds = ("image", "truth", "labels", "drawn", "error") if side == 0 else ("labels", "drawn", "error")
        writer = TileWriter(sides[side], captions, page.parent, f"{page.stem}_{letter.lower()}", kinds)  # type: ignore[arg-type]
        rows.append(write_tiles(writer, [pair[side].task for pair in pairs], workers=limits.workers))
    items = [_pair_item(pair, _interleave(a, b), titles) for pair, a, b in zip(pairs, *rows, strict=True)]
    note = f"{len(pairs)} of {len(shared)} images both runs have, sorted by the gain in mean IoU of A over B"
    note += f" (A is {one.name}, B {other.name})"
    note += ": half the largest losses, half the largest gains." if len(pairs) < len(shared) else "."
    return Gallery(items, titles, "gain", LOSS_FIRST, note)


def common_stages(one: Run, other: Run) -> list[tuple[Stage, Stage]]:
    """Return the stages that made maps in both runs, by key."""
    others = {stage.card.key: stage for stage in other.drawn}
    return [(stage, others[stage.card.key]) for stage in one.drawn if stage.card.key in others]


def differences(pair: ScoredPair) -> dict[str, list[Any]]:
    """Return stage key -> [A's mean IoU - B's, {label value: difference}] as the page's script reads it."""
    found: dict[str, list[Any]] = {}
    for key, a in pair[0].scores.items():
        b = pair[1].scores.get(key)
        if b is None or a.mean is None or b.mean is None:
            continue
        both = sorted(a.by_value.keys() & b.by_value.keys())
        found[key] = [round(a.mean - b.mean, 4), {value: round(a.by_value[value] - b.by_value[value], 4) for value in both}]
    return found


def choose_pairs(pairs: Sequence[ScoredPair], most: int) -> list[ScoredPair]:
    """Return at most `most` images, half those that lose most and half those that gain most at the last stage, losses first."""
    ranked = sorted((pair for pair in pairs if differences(pair)), key=lambda pair: list(differences(pair).values())[-1][0])
    if len(ranked) <= most:
        return ranked
    return [*ranked[: most // 2], *ranked[len(ranked) - (most - most // 2) :]]


def spread_over_splits(tasks: Sequence[ImageTask], most: int) -> list[ImageTask]:
    """Return at most about `most` images, as many of each split where there are enough, evenly spread over its list."""
    splits = list(dict.fromkeys(task.split for task in tasks))
    portions = [[task for task in tasks if task.split == split] for split in splits]
    return [task for portion in portions for task in spread(portion, max(1, most // len(splits)))]


def _interleave(first: Sequence[Tile], second: Sequence[Tile]) -> list[Tile]:
    """Return the tiles of A in their order (ground truth second), each followed by the same kind of B."""
    of_b = {(tile.kind, tile.stage): tile for tile in second}
    ordered = sorted(first, key=lambda tile: {"image": 0, "truth": 1}.get(tile.kind, 2))
    return [tile for a in ordered for tile in (a, of_b.get((a.kind, a.stage))) if tile is not None]


def _pair_item(pair: ScoredPair, tiles: Sequence[Tile], titles: Mapping[str, str]) -> Item:
    numbers, task = differences(pair), pair[0].task
    badges = []
    for key, (change, _) in numbers.items():
        a, b = (side.scores[key].mean or 0.0 for side in pair)
        badges.append((titles[key], f"A {100 * a:.0f} · B {100 * b:.0f} ({100 * change:+.0f})", change))
    return Item(task.image_id, task.split, pair[0].values, badges, tiles, numbers)


def _note(found: int, scored: int, shown: int, has_scores: bool) -> str:
    if not has_scores:
        return f"{shown} of {found} images, evenly spread; there is no ground truth to score them with."
    note = f"{shown} of {found} images" if shown < found else f"All {found} images"
    if shown < scored:
        note += ": a third the worst, a third the best, the others evenly between"
    if scored < found:
        note += f", out of {scored} that were scored (evenly spread)"
    return f"{note}. Scores are the mean IoU over the labels in the image; a chosen class sorts by that class's IoU."
