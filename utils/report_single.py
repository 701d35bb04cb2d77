"""The report of one run: index.html."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from utils.report_figures import confusion_figure, curves_figure, threshold_figure
from utils.report_gallery import Gallery, GalleryLimits, build_gallery
from utils.report_overview import Confused, class_rows, confused_pairs, stage_card, training_card
from utils.report_page import label_css_colours, write_page
from utils.report_run import Run
from utils.report_settings import DEEPLAB_SHOWN, SHOWN, show_value, shown_settings

# Name of the page, and of its template.
PAGE = "index.html"


def write_report(run: Run, page: Path, limits: GalleryLimits) -> None:
    """Write `<page>` and, in folders beside it, the pictures it shows.

    Raises:
        UserError: naming a picture that is damaged or of the wrong size.
    """
    gallery, missing = _gallery(run, page.parent, limits)
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
        "figures": _figures(run),
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


def _gallery(run: Run, folder: Path, limits: GalleryLimits) -> tuple[Gallery | None, str]:
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


def _figures(run: Run) -> list[tuple[str, Markup]]:
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
