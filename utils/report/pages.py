"""The comparison of two runs: numbers side by side, and images by gain and loss of run A against run B."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utils.data.classes import palette
from utils.files import write_text_atomic
from utils.report.figures import confusion_figure, curves_figure, threshold_figure
from utils.report.files import DEEPLAB_SHOWN, SHOWN, show_value, shown_settings
from utils.report.gallery import Gallery, GalleryLimits, Item, build_gallery, make_gallery, spread_over_splits
from utils.report.images import ImageScores, ImageTask, Pictures, find_images, score_images
from utils.report.run import Confused, Run, class_rows, confused_pairs, duration, stage_card, training_card
from utils.report.stages import Stage
from utils.report.tiles import Tile, TileWriter, write_tiles

TEMPLATES = Path(__file__).with_name("templates")


def write_page(template: str, path: Path, context: Mapping[str, Any]) -> None:
    """Render `utils/report/templates/<template>` into one HTML file; all text in `context` is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Scores stand in the order of the pipeline, on which the page's "last stage" relies.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["duration"] = duration
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text = environment.get_template(template).render(written=written, **context)
    write_text_atomic(path, text + "\n")


def label_css_colours(names: Sequence[str]) -> list[str]:
    """Return the CSS colour of each label value, as label maps are drawn."""
    colours = palette()
    return [f"rgb({colours[3 * v]} {colours[3 * v + 1]} {colours[3 * v + 2]})" for v in range(len(names))]


LOSS_FIRST = (("up", "losses first"), ("down", "gains first"), ("classes", "class"), ("name", "name"))
# Paths and names follow from the run's own name.
SAME_BY_NATURE = ("name", "run_dir", "cam.checkpoint", "cam.dir", "cam.label_dir", "eval.", "pseudo.cam_dir", "pseudo.out_dir")

# A's and B's scores of the same image.
ScoredPair = tuple[ImageScores, ImageScores]


def write_comparison(one: Run, other: Run, page: Path, limits: GalleryLimits) -> None:
    """Write the page that compares run A (`one`) with run B (`other`) and the pictures it shows.

    Raises:
        UserError: naming a picture that is damaged or of the wrong size.
    """
    common = common_stages(one, other)
    gallery = _gallery(one, other, page, limits)
    names = one.names
    rated = [(a, b) for a, b in common if a.iou and b.iou]
    context: dict[str, Any] = {
        "title": f"{one.name} against {other.name}",
        "subtitle": f"A: {one.files.folder} · B: {other.files.folder}",
        "name_a": one.name,
        "name_b": other.name,
        "numbers": [(a.title, a.mean_iou, b.mean_iou) for a, b in common],
        "times": _times(one, other),
        "differences": setting_differences(one.settings, other.settings),
        "figures": _figures(one, other),
        "classes": [
            (name, [(a.iou.get(name), b.iou.get(name)) for a, b in rated])
            for name in names
            if any(a.iou.get(name) is not None or b.iou.get(name) is not None for a, b in rated)
        ],
        "class_titles": [a.title for a, _ in rated],
        "names": names,
        "colours": label_css_colours(names),
        "gallery": gallery,
        "gallery_missing": "" if gallery else "The runs have no image with scores in common.",
        "links": [("index.html", f"report of {one.name}")],
        "sections": [("numbers", "Numbers"), ("settings", "Settings")],
    }
    context["sections"] += [
        (key, key.capitalize()) for key in ("curves", "classes") if context[{"curves": "figures"}.get(key, key)]
    ]
    context["sections"] += [("images", "Images")] if gallery else []
    write_page("compare.html", page, context)


def common_stages(one: Run, other: Run) -> list[tuple[Stage, Stage]]:
    """Return the stages both runs have, by key."""
    others = {stage.key: stage for stage in other.stages}
    return [(stage, others[stage.key]) for stage in one.stages if stage.key in others]


def setting_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (key, A's value, B's value) of the settings that differ, but for names and paths of the runs themselves."""
    keys = [key for key in dict.fromkeys([*one, *other]) if not key.startswith(SAME_BY_NATURE)]
    shown = [(key, *(_without_run(show_value(s[key]), s) if key in s else "not set" for s in (one, other))) for key in keys]
    return [(key, a, b) for key, a, b in shown if a != b]


def _without_run(value: str, settings: Mapping[str, Any]) -> str:
    """Return a shown value with the run's own folder, which is another in every run, taken out."""
    folder = str(settings.get("run_dir") or "")
    return value.replace(folder, "<run>") if folder else value


def differences(pair: ScoredPair) -> dict[str, list[Any]]:
    """Return stage key -> [A's mean IoU - B's, {label value: difference}] as the page's script reads it."""
    found: dict[str, list[Any]] = {}
    for key, a in pair[0].scores.items():
        b = pair[1].scores.get(key)
        if b is None or a.mean is None or b.mean is None:
            continue
        both = a.by_value.keys() & b.by_value.keys()
        found[key] = [
            round(a.mean - b.mean, 4),
            {value: round(a.by_value[value] - b.by_value[value], 4) for value in sorted(both)},
        ]
    return found


def choose_pairs(pairs: Sequence[ScoredPair], most: int) -> list[ScoredPair]:
    """Return at most `most` images, half those that lose most and half those that gain most at the last stage, losses first."""
    ranked = sorted((pair for pair in pairs if differences(pair)), key=_last_difference)
    if len(ranked) <= most:
        return ranked
    return [*ranked[: most // 2], *ranked[len(ranked) - (most - most // 2) :]]


def _last_difference(pair: ScoredPair) -> float:
    return float(list(differences(pair).values())[-1][0])


def _gallery(one: Run, other: Run, page: Path, limits: GalleryLimits) -> Gallery | None:
    common = common_stages(one, other)
    if one.places is None or other.places is None or not common or not limits.shown:
        return None
    places = one.places
    sides = [Pictures(places, {s.key: s.maps for s in stages}) for stages in zip(*common, strict=True)]
    tasks_a, tasks_b = (
        {task.image_id: task for task in find_images(side, stages)}
        for side, stages in zip(sides, zip(*common, strict=True), strict=True)
    )
    shared = spread_over_splits([task for name, task in tasks_a.items() if name in tasks_b], limits.scored)
    scored_a = score_images(sides[0], shared, workers=limits.workers)
    scored_b = score_images(sides[1], [tasks_b[task.image_id] for task in shared], workers=limits.workers)
    pairs = choose_pairs(list(zip(scored_a, scored_b, strict=True)), limits.shown)
    if not pairs:
        return None
    rows = _tiles(sides, common, page, pairs, limits.workers)
    titles = {a.key: a.short for a, _ in common}
    note = f"{len(pairs)} of {len(shared)} images both runs have, sorted by the gain in mean IoU of A over B" + (
        ": half the largest losses, half the largest gains." if len(pairs) < len(shared) else "."
    )
    return make_gallery(
        [_item(pair, tiles, titles) for pair, tiles in zip(pairs, rows, strict=True)],
        [differences(pair) for pair in pairs],
        [(key, title) for key, title in titles.items() if any(key in differences(pair) for pair in pairs)],
        measure="gain",
        orders=LOSS_FIRST,
        note=note,
    )


def _tiles(
    sides: Sequence[Pictures], common: Sequence[tuple[Stage, Stage]], page: Path, pairs: Sequence[ScoredPair], workers: int
) -> list[list[Tile]]:
    """Return for each image: photo and ground truth, then each stage of A beside the same of B, errors beside errors."""
    rows: list[list[list[Tile]]] = []
    for side, letter in enumerate("AB"):
        titles = {stages[side].key: f"{letter}: {stages[side].short}" for stages in common}
        kinds = ("image", "truth", "labels", "error") if side == 0 else ("labels", "error")
        writer = TileWriter(sides[side], titles, page.parent, f"{page.stem}_{letter.lower()}", kinds)
        rows.append(write_tiles(writer, [pair[side].task for pair in pairs], workers=workers))
    return [_interleave(a, b) for a, b in zip(*rows, strict=True)]


def _interleave(first: Sequence[Tile], second: Sequence[Tile]) -> list[Tile]:
    """Return the tiles of A in their order (ground truth second), each followed by the same kind of B."""
    of_b = {(tile.kind, tile.stage): tile for tile in second}
    ordered = sorted(first, key=lambda tile: {"image": 0, "truth": 1}.get(tile.kind, 2))
    mixed: list[Tile] = []
    for tile in ordered:
        mixed.append(tile)
        if (tile.kind, tile.stage) in of_b:
            mixed.append(of_b[tile.kind, tile.stage])
    return mixed


def _item(pair: ScoredPair, tiles: Sequence[Tile], titles: Mapping[str, str]) -> Item:
    task: ImageTask = pair[0].task
    badges = []
    for key, (change, _) in differences(pair).items():
        a, b = (side.scores[key].mean or 0.0 for side in pair)
        badges.append((titles[key], f"A {100 * a:.0f} · B {100 * b:.0f} ({100 * change:+.0f})", change))
    return Item(task.image_id, task.split, pair[0].values, badges, tiles)


def _times(one: Run, other: Run) -> list[tuple[str, str, str]]:
    rows = []
    for program in dict.fromkeys(timing.program for timing in one.timings):
        a, b = (sum(t.seconds for t in run.timings if t.program == program) for run in (one, other))
        rows.append((f"time of {program}", duration(a), duration(b) if b else "–"))
    return rows


def _figures(one: Run, other: Run) -> list[tuple[str, Markup]]:
    figures = []
    titles = dict.fromkeys(curves.title for curves in one.curves)
    for index, title in enumerate(titles):
        losses = {
            f"{letter}: {name}": curve
            for letter, run in (("A", one), ("B", other))
            for curves in run.curves
            if curves.title == title
            for name, curve in curves.losses.items()
        }
        if losses:
            figures.append((f"{title}: losses", curves_figure(f"loss{index}", losses, "loss")))
    sweeps = {
        f"{letter}: {stage.title}": stage.curve
        for letter, run in (("A", one), ("B", other))
        for stage in run.stages
        if stage.curve is not None
    }
    if sweeps:
        figures.append(("CAM: mean IoU over the background threshold", threshold_figure("sweep", sweeps)))
    return figures


# Name of the page, and of its template.
PAGE = "index.html"


def write_report(run: Run, page: Path, limits: GalleryLimits) -> None:
    """Write `<page>` and, in folders beside it, the pictures it shows.

    Raises:
        UserError: naming a picture that is damaged or of the wrong size.
    """
    gallery, missing = _single_gallery(run, page.parent, limits)
    names = run.names
    cards = [stage_card(stage, run.timings) for stage in run.stages]
    training = training_card(run.files, run.settings, run.timings)
    context: dict[str, Any] = {
        "title": run.name,
        "subtitle": _subtitle(run),
        "folder": str(run.files.folder),
        "cards": [*([training] if training else []), *cards],
        "settings": [
            (heading, rows)
            for heading, rows in (
                ("First stage", shown_settings(run.settings, SHOWN)),
                ("DeepLab", shown_settings(run.deeplab, DEEPLAB_SHOWN)),
            )
            if rows
        ],
        "all_settings": [
            (heading, [(key, show_value(value)) for key, value in flat.items()])
            for heading, flat in (("First stage", run.settings), ("DeepLab", run.deeplab))
            if flat
        ],
        "timings": run.timings,
        "figures": _single_figures(run),
        "stages": [stage for stage in run.stages if stage.iou],
        "classes": class_rows([stage for stage in run.stages if stage.iou], names) if any(s.iou for s in run.stages) else [],
        "confusions": _confusions(run),
        "names": names,
        "colours": label_css_colours(names),
        "gallery": gallery,
        "gallery_missing": missing,
        "links": [
            (path.name, f"compared with {path.stem.removeprefix('vs_')}") for path in sorted(page.parent.glob("vs_*.html"))
        ],
    }
    context["sections"] = [
        (anchor, title)
        for anchor, title, there in (
            ("pipeline", "Pipeline", True),
            ("settings", "Settings", True),
            ("curves", "Curves", context["figures"]),
            ("classes", "Classes", context["classes"]),
            ("confusion", "Confusion", context["confusions"]),
            ("images", "Images", gallery),
        )
        if there
    ]
    write_page(PAGE, page, context)


def _single_gallery(run: Run, folder: Path, limits: GalleryLimits) -> tuple[Gallery | None, str]:
    if run.places is None:
        return None, "The run holds no configuration that says where its pictures are; give --config."
    if not run.stages or not limits.shown:
        return None, ""
    built = build_gallery(run.places, run.stages, folder, limits)
    if built is None:
        where = run.places.image_dir
        why = f"No picture to show: {where} or the folders of CAMs and labels are not there"
        return None, f"{why} (paths start at the working directory)."
    return built[0], ""


def _subtitle(run: Run) -> str:
    data = run.settings.get("data.root") or run.deeplab.get("dataset.root") or "unknown data"
    seed = run.settings.get("seed", run.deeplab.get("seed", "?"))
    return f"{run.files.folder} · data {data} · {max(0, len(run.names) - 1)} classes · seed {seed}"


def _single_figures(run: Run) -> list[tuple[str, Markup]]:
    figures = []
    for index, curves in enumerate(run.curves):
        if curves.losses:
            figures.append((f"{curves.title}: losses", curves_figure(f"loss{index}", curves.losses, "loss")))
        if curves.rates:
            figure = curves_figure(f"rate{index}", curves.rates, "learning rate", log=True)
            figures.append((f"{curves.title}: learning rate", figure))
    sweeps = {stage.title: stage.curve for stage in run.stages if stage.curve is not None}
    if sweeps:
        figures.append(("CAM: mean IoU over the background threshold", threshold_figure("sweep", sweeps)))
    return figures


def _confusions(run: Run) -> list[tuple[str, Markup, Confused]]:
    return [
        (
            stage.title,
            confusion_figure(f"confusion{index}", stage.names, stage.confusion),
            confused_pairs(stage.names, stage.confusion),
        )
        for index, stage in enumerate(run.stages)
        if stage.confusion is not None and stage.confusion.any()
    ]
