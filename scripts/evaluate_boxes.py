"""Score the maps of any method by the boxes they give: weakly supervised object localisation.

    python -m scripts.evaluate_boxes --config configs/l2g_voc.yaml [key=value ...]               # boxes of the masks
    python -m scripts.evaluate_boxes --config configs/l2g_voc.yaml boxes.file=boxes.txt boxes.size=[224,224] boxes.threshold=0.1

Reads the maps of data.eval_list's images and classes in boxes.cam_dir, and the boxes of boxes.file or of the ground-truth masks
(8-connected regions of a class). Writes boxes.out: GT-known localisation at boxes.threshold; MaxBoxAcc and MaxBoxAccV2, at the
best of all thresholds, which is the fair way to compare methods; pixel average precision where there are masks; and where maps
lie there with the scores of all classes (cam.format=npz cam.top=5), classification and localisation of Top-1 and Top-5 and a
breakdown of the mistakes. Beside it the configuration, a stage card, and with boxes.vis_dir pictures, which the report shows.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.evaluation_schema import BoxConfig
from configs.schema import Config
from scripts.build import parse_args
from utils.cams.store import LabelledId, chunked, read_labelled_ids, read_native
from utils.config import flat_settings, save_config
from utils.data.classes import BACKGROUND_NAME, label_value, resolve_class_names
from utils.data.folder import DataFolder
from utils.data.images import image_size, read_image, read_label_map, write_png
from utils.data.lists import read_boxes
from utils.drawing.overlays import cam_overlay, draw_boxes
from utils.errors import UserError, run_program
from utils.evaluation.boxes import (
    DETAILS,
    BestThreshold,
    Boxes,
    Judgement,
    PixelPrecision,
    box_on_grid,
    grey_map,
    judge,
    largest_box,
)
from utils.files import write_text_atomic
from utils.runtime.cards import SCORED, StageCard, own_name, set_name, write_card
from utils.runtime.parallel import map_progress

CHUNK = 16
RANKED = 5
SHARES = {"cls_top1": "top1", "cls_top5": "top5", "loc_top1": "top1_box", "loc_top5": "top5_box", "gt_known": "known_box"}
# What tables call them; weights picked on the scored images are so by the first there is.
TITLES = {
    "loc_top1": "Top-1 box", "loc_top5": "Top-5 box", "gt_known": "GT-known", "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2", "pixel_average_precision": "PxAP", "cls_top1": "Top-1 class", "cls_top5": "Top-5 class",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where everything is."""

    data: DataFolder
    settings: BoxConfig
    names: Sequence[str]


Listed = dict[str, list[tuple[float, ...]]]  # id -> boxes of the list; empty without one


@dataclass
class Counts:
    """What was found: a judgement of each (image, class) with a box; `ranked`: all images have scores of all classes;
    `overlap`: id -> mean overlap of its boxes."""

    best: BestThreshold = field(default_factory=BestThreshold)
    pixels: PixelPrecision = field(default_factory=PixelPrecision)
    judged: list[Judgement] = field(default_factory=list)
    overlap: dict[str, float] = field(default_factory=dict)
    ranked: bool = True
    without: int = 0

    def add(self, other: "Counts") -> None:
        """Add those of other images."""
        self.best.merge(other.best)
        self.pixels.merge(other.pixels)
        self.judged += other.judged
        self.overlap |= other.overlap
        self.ranked &= other.ranked
        self.without += other.without


def main(argv: list[str]) -> None:
    """Parse the command line and score."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> dict[str, Any]:
    """Score as configured; returns what `boxes.out` holds.

    Raises:
        UserError: for wrong input, naming the file; or when no object has a box.
    """
    started = time.monotonic()
    names = resolve_class_names(cfg.data.class_names, cfg.data.num_classes)
    data = DataFolder.of(cfg.data, cfg.data.eval_list)
    listed = read_boxes(cfg.boxes.file) if cfg.boxes.file else {}
    source, tasks = Source(data, cfg.boxes, names), read_labelled_ids(cfg, Path(cfg.boxes.cam_dir))
    _check(source, tasks, listed)
    total = Counts()
    what = f"boxes ({CHUNK} images each)"
    # A worker gets the boxes of its own images only.
    chunks = [(chunk, {name: listed[name] for name, _ in chunk if listed}) for chunk in chunked(tasks, CHUNK)]
    for counts in map_progress(partial(score_chunk, source), chunks, workers=cfg.boxes.workers, what=what):
        total.add(counts)
    if not total.judged:
        raise UserError(f"no object of {cfg.data.eval_list} has a box; check data.label_dir, boxes.file and boxes.least_area")
    result = _summary(cfg, total, len(tasks))
    write_text_atomic(Path(cfg.boxes.out), json.dumps(result, indent=2, allow_nan=False) + "\n")
    save_config(cfg, Path(cfg.boxes.out).with_suffix(".yaml"))
    _report(cfg, result)
    card = _card(cfg, result, names)
    card.image_scores = total.overlap
    card.images, card.seconds = len(tasks), time.monotonic() - started
    write_card(cfg.run_dir, card)
    return result


def score_chunk(source: Source, chunk: tuple[Sequence[LabelledId], Listed]) -> Counts:
    """Score a few images in this process."""
    (tasks, listed), counts = chunk, Counts()
    for image_id, classes in tasks:
        picture = image_size(source.data.image(image_id))
        size = tuple(source.settings.size[::-1]) or picture
        labels = _labels(source, image_id, picture)
        truth = _true_boxes(source, listed.get(image_id), labels, (image_id, classes), picture, (size[0], size[1]))
        maps, scores = read_native(Path(source.settings.cam_dir), image_id, classes)
        ranked = [] if scores is None or len(classes) > 1 else np.argsort(-scores, kind="stable")[:RANKED].tolist()
        if missing := [k for k in ranked if k not in maps]:
            raise UserError(
                f"{source.settings.cam_dir} has no map of class {missing[0]}, one of the most probable of '{image_id}'; "
                f"make the maps anew with cam.top={RANKED} cam.overwrite=true"
            )
        counts.ranked &= bool(ranked)
        greys = {k: grey_map(maps[k].astype(np.float32), (size[0], size[1])) for k in {*classes, *ranked}}
        boxes = {k: largest_box(grey, source.settings.threshold) for k, grey in greys.items()}
        judged = {k: judge(boxes, k, ranked, truth[k]) for k in classes if len(truth[k])}
        counts.without += len(classes) - len(judged)
        for k, one in judged.items():
            counts.best.add(greys[k], truth[k])
            if source.settings.vis_dir:
                _draw(source, image_id, k, greys[k], boxes[k], truth[k], one.overlap)
        if labels is not None:
            for k in classes:
                counts.pixels.add(greys[k], labels, label_value(k))
        if judged:
            counts.judged += judged.values()
            counts.overlap[image_id] = round(float(np.mean([one.overlap for one in judged.values()])), 4)
    return counts


def _check(source: Source, tasks: Sequence[LabelledId], listed: Listed) -> None:
    """Check what would fail or mislead late: boxes of all images, one class where a list of boxes names none."""
    settings = source.settings
    if settings.file:
        if missing := [image_id for image_id, _ in tasks if image_id not in listed]:
            raise UserError(f"{settings.file} has no boxes of {len(missing)} images of data.eval_list, the first: {missing[0]}")
        if several := [image_id for image_id, classes in tasks if len(classes) > 1]:
            raise UserError(
                f"{len(several)} images have several classes (the first: {several[0]}), but {settings.file} does not say whose "
                "boxes it holds; leave boxes.file empty to take those of the masks"
            )
    if settings.vis_dir:
        source.data.refuse_output(Path(settings.vis_dir), "boxes.vis_dir")


def _labels(source: Source, image_id: str, picture: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Return the ground-truth label map; None where boxes come from a list and there is none."""
    path = source.data.truth(image_id)
    return None if source.settings.file and not path.exists() else read_label_map(path, source.data.num_classes, picture)


def _true_boxes(
    source: Source,
    listed: list[tuple[float, ...]] | None,
    labels: NDArray[np.uint8] | None,
    task: LabelledId,
    picture: tuple[int, int],
    size: tuple[int, int],
) -> dict[int, Boxes]:
    """Return class -> (M, 4) boxes on the grid `size` (W, H) of a picture (W, H): the listed ones, or those of the label map.

    Raises:
        UserError: for a box of the list that does not lie in the picture.
    """
    image_id, classes = task
    if listed is not None or labels is None:
        found = listed or []
        if outside := [box for box in found if not _inside(box, picture)]:
            raise UserError(
                f"{source.settings.file}: the box {' '.join(f'{value:g}' for value in outside[0])} (x, y, width, height) of "
                f"'{image_id}' does not lie in its picture of {picture[0]} x {picture[1]} pixels"
            )
        by_class = dict.fromkeys(classes, found)
    else:
        least = source.settings.least_area * labels.size
        by_class = {k: _regions(labels == label_value(k), least) for k in classes}
    on_grid = {k: [box_on_grid(box, picture, size) for box in boxes] for k, boxes in by_class.items()}
    return {k: np.array(boxes, np.int64).reshape(-1, 4) for k, boxes in on_grid.items()}


def _inside(box: Sequence[float], picture: tuple[int, int]) -> bool:
    """Return whether a box begins in its picture and ends in it, but for a pixel that some annotations lie beyond."""
    x, y, width, height = box
    return 0 <= x < picture[0] and 0 <= y < picture[1] and x + width <= picture[0] + 1 and y + height <= picture[1] + 1


def _regions(mask: NDArray[np.bool_], least: float) -> list[tuple[float, ...]]:
    """Return x, y, width, height of the 8-connected regions of a mask (H, W) with at least `least` pixels."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return [tuple(row[:4].tolist()) for row in stats[1:] if row[cv2.CC_STAT_AREA] >= least]


def _draw(
    source: Source, image_id: str, k: int, grey: NDArray[np.uint8], box: Sequence[int], truth: Boxes, overlap: float
) -> None:
    height, width = grey.shape
    image = cv2.resize(np.asarray(read_image(source.data.image(image_id))), (width, height), interpolation=cv2.INTER_AREA)
    heat, caption = cam_overlay(np.asarray(image, np.uint8), grey), f"IoU {overlap:.2f}, {source.names[k]}"
    page = draw_boxes(heat, [box], truth.tolist(), caption)
    write_png(Path(source.settings.vis_dir) / f"{image_id}_{k}.png", page)


def _summary(cfg: Config, counts: Counts, images: int) -> dict[str, Any]:
    shown = SHARES if counts.ranked else {"gt_known": SHARES["gt_known"]}
    shares = {name: float(np.mean([getattr(one, key) for one in counts.judged])) for name, key in shown.items()}
    details = {name: sum(one.detail == name for one in counts.judged) for name in DETAILS} if counts.ranked else None
    return {
        "images": images,
        "objects": len(counts.judged),
        "classes_without_box": counts.without,
        "size": list(cfg.boxes.size),
        "at_threshold": {"threshold": cfg.boxes.threshold, **shares, "details": details},
        "at_best_threshold": counts.best.summary(),
        "pixel_average_precision": counts.pixels.value(),
    }


def _report(cfg: Config, result: dict[str, Any]) -> None:
    fixed, best = dict(result["at_threshold"]), dict(result["at_best_threshold"])
    details = fixed.pop("details")
    print(f"boxes of {cfg.boxes.cam_dir}: {result['objects']} classes of {result['images']} images with a box")
    print(f"at threshold {fixed.pop('threshold'):g}: " + ", ".join(f"{name} {value:.3f}" for name, value in fixed.items()))
    if details:
        print("Top-1 " + ", ".join(f"{name} {count}" for name, count in details.items()))
    at = best.pop("threshold")
    print(f"at the best of all thresholds ({at:.3f}): " + ", ".join(f"{name} {value:.3f}" for name, value in best.items()))
    if (precision := result["pixel_average_precision"]) is not None:
        print(f"pixel average precision {precision:.3f}")
    print(f"written to {cfg.boxes.out}" + (f", pictures to {cfg.boxes.vis_dir}" if cfg.boxes.vis_dir else ""))


def _card(cfg: Config, result: dict[str, Any], names: Sequence[str]) -> StageCard:
    split = set_name(cfg.data.eval_list)
    values = {**result, **result["at_threshold"], **result["at_best_threshold"]}
    usual = ("boxes", "result", "ms", "attention", split)
    facts = {"threshold": f"{cfg.boxes.threshold:g}, at best {values['threshold']:.3f}"}
    if cfg.boxes.vis_dir:
        facts["pictures"] = "true box red, found box green"
    return StageCard(
        *own_name(f"boxes_{split}", "Boxes", cfg.run_dir, [cfg.boxes.out, cfg.boxes.cam_dir], usual),
        program="scripts.evaluate_boxes",
        order=SCORED + 1,
        output=cfg.boxes.out,
        settings=flat_settings(cfg),
        facts=list(facts.items()),
        split=split,
        list_file=cfg.data.eval_list,
        pictures=cfg.boxes.vis_dir,
        scores={title: values[name] for name, title in TITLES.items() if values.get(name) is not None},
        names=[BACKGROUND_NAME, *names],
    )


if __name__ == "__main__":
    run_program(main)
