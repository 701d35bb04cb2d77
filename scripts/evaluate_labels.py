"""Score a folder of label maps, of this program or any other, against ground truth.

    python -m scripts.evaluate_labels --config configs/l2g_voc.yaml [key=value ...]                   # the pseudo labels
    python -m scripts.evaluate_labels --config configs/l2g_voc.yaml score.label_dir=theirs/crf data.eval_list=val.txt
    python -m scripts.evaluate_labels --config configs/l2g_coco.yaml score.label_dir='masks/COCO_val2014_{id}.png'
    python -m scripts.evaluate_labels --config configs/l2g_voc.yaml score.label_dir=... score.oracle_from=65x65
    python -m scripts.evaluate_labels --config configs/l2g_voc.yaml score.label_dir=cam_npy_aff pseudo.threshold=0.35

Reads a palette or grey PNG of label values for each image of data.eval_list, and its ground truth. A folder of <id>.npy or
<id>.npz with class maps (of IRNet, AffinityNet, its walk) is read too: they become labels at pseudo.threshold. A missing file,
or a pair of different size, stops it: a smaller set is another score. Writes score.out (scores of each label, means with and
without background), and beside it <out>_counts.json (the confusion matrix), iou_per_class.png, confusion.png, the
configuration and scores.log (for each label its images by TP - FN - FP in pixels, the worst first), and a stage card; prints
the table. With score.vis_dir also <id>.png, label maps and ground truth side by side over the picture.
"""

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.evaluation_schema import ScoreConfig
from configs.schema import Config
from scripts.build import parse_args
from utils.cams.dictionaries import SUFFIXES, read_dictionary
from utils.cams.labels import fuse_threshold
from utils.cams.store import quantised
from utils.config import flat_settings, save_config
from utils.data.classes import label_names, resolve_class_names
from utils.data.folder import DataFolder, check_files
from utils.data.images import read_image, read_label_map, write_png
from utils.data.lists import file_of, read_id_list
from utils.drawing.overlays import label_strip
from utils.errors import UserError, run_program
from utils.evaluation.label_maps import MapCounts, Pair, Reader, count_pairs, find_pairs, score_log
from utils.evaluation.metrics import Scores, absent_as_zero, score
from utils.evaluation.scores import all_means, counts_path, counts_text, score_table, scores_to_dict
from utils.files import write_text_atomic
from utils.runtime.cards import LABELS, StageCard, own_name, set_name, write_card
from utils.runtime.parallel import map_progress

LOG = "scores.log"


def main(argv: list[str]) -> None:
    """Parse the command line and score."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> dict[str, Any]:
    """Score as configured; returns what `score.out` holds. Raises UserError for wrong input, naming the file."""
    started = time.monotonic()
    names = label_names(resolve_class_names(cfg.data.class_names, cfg.data.num_classes))
    ids = read_id_list(cfg.data.eval_list)
    data = DataFolder.of(cfg.data, cfg.data.eval_list)
    pairs = find_pairs(data, ids, cfg.score)
    if cfg.score.vis_dir:
        _check_pictures(data, cfg.score, pairs)
    read = partial(read_labels, cfg.pseudo.threshold)
    counts = count_pairs(pairs, cfg.data.num_classes, cfg.score, read)
    if not counts.confusion.any():
        raise UserError(f"no pixel of {cfg.score.label_dir} and its ground truth is without 255 (ignored); nothing to score")
    scores = score(counts.confusion)
    scores = absent_as_zero(scores) if cfg.score.absent == "zero" else scores
    result = {"images": len(pairs), "missing": len(ids) - len(pairs), **_summary(counts, scores, names)}
    _write(cfg, result, counts, scores, names)
    if cfg.score.vis_dir:
        list(map_progress(partial(_draw, data, cfg.score, read), pairs, workers=cfg.score.workers, what="pictures"))
    _report(cfg, result, scores, names)
    card = _card(cfg, result, counts.confusion, names)
    card.images, card.seconds = len(pairs), time.monotonic() - started
    write_card(cfg.run_dir, card)
    return result


def _maps(settings: ScoreConfig, pair: Pair) -> list[Path]:
    """Return the label maps of an image, the ground truth last."""
    image_id, truth, labels = pair
    return [labels, *(file_of(Path(where), image_id, ".png") for where in settings.vis_also), truth]


def _check_pictures(data: DataFolder, settings: ScoreConfig, pairs: Sequence[Pair]) -> None:
    """Check that what is drawn is there, and that no picture replaces a label map."""
    folder = Path(settings.vis_dir)
    data.refuse_output(folder, "score.vis_dir")
    if folder.resolve() in {path.parent.resolve() for path in _maps(settings, pairs[0])}:
        raise UserError(f"score.vis_dir {folder} is a folder of label maps, which would be lost; set another")
    check_files([path for pair in pairs for path in _maps(settings, pair)[1:-1]], "label map", "score.vis_also")
    data.check_images(image_id for image_id, _, _ in pairs)


def read_labels(threshold: float, path: Path, num_classes: int) -> NDArray[np.uint8]:
    """Return the label map (H, W) in a file, or of the class maps in it with `threshold` as background's score.

    Raises:
        UserError: for a damaged file, or one of other classes.
    """
    if path.suffix not in SUFFIXES:
        return read_label_map(path, num_classes)
    found = read_dictionary(path)
    if not all(0 <= k < num_classes for k in found.classes):
        raise UserError(f"{path} holds classes {list(found.classes)}, the data set has 0 to {num_classes - 1}")
    order = sorted(range(len(found.classes)), key=found.classes.__getitem__)
    maps = [quantised(found.full[k]) for k in order]
    return fuse_threshold(sorted(found.classes), maps, found.full.shape[1:], threshold)


def _draw(data: DataFolder, settings: ScoreConfig, read: Reader, pair: Pair) -> None:
    """Write the picture of one image."""
    image = read_image(data.image(pair[0]))
    others = (read_label_map(path, data.num_classes, image.size) for path in _maps(settings, pair)[1:])
    maps = [read(pair[2], data.num_classes), *others]
    write_png(Path(settings.vis_dir) / f"{pair[0]}.png", label_strip(np.asarray(image), maps))


def _summary(counts: MapCounts, scores: Scores, names: list[str]) -> dict[str, Any]:
    labelled = int(counts.confusion.sum())
    return {
        "labelled": labelled / counts.pixels,
        "pixel_accuracy": float(np.trace(counts.confusion) / labelled),
        "pixels": dict(zip(names, counts.confusion.sum(axis=1).tolist(), strict=True)),
        **all_means(scores),
        **scores_to_dict(scores, names),
    }


def _write(cfg: Config, result: dict[str, Any], counts: MapCounts, scores: Scores, names: list[str]) -> None:
    # Here, not above: worker processes import this module too, and need no plots.
    from utils.evaluation.plots import plot_class_iou, plot_confusion

    out = Path(cfg.score.out)
    write_text_atomic(counts_path(out), counts_text(names, counts.confusion))
    write_text_atomic(out, json.dumps(result, indent=2, allow_nan=False) + "\n")
    write_text_atomic(out.with_name(LOG), score_log(counts, names))
    save_config(cfg, out.with_suffix(".yaml"))
    plot_class_iou(out.with_name("iou_per_class.png"), names, scores.iou)
    plot_confusion(out.with_name("confusion.png"), names, counts.confusion)


def _report(cfg: Config, result: dict[str, Any], scores: Scores, names: list[str]) -> None:
    oracle = f", on a grid of {cfg.score.oracle_from}" if cfg.score.oracle_from else ""
    print(f"label maps of {cfg.score.label_dir} on {result['images']} images{oracle} (absent classes: {cfg.score.absent})")
    print(score_table(scores, names, list(result["pixels"].values())))
    means = [
        f"{key.replace('_', ' ')} {_percent(result[key])}" for key in ("mean_iou_foreground", "mean_iou", "pixel_accuracy")
    ]
    print(", ".join(means))
    if result["labelled"] < 1:
        print(f"of the pixels with ground truth {result['labelled']:.1%} are scored: the label maps say 255 on the others")
    if result["missing"]:
        print(f"{result['missing']} images of {cfg.data.eval_list} lack a file and are left out")
    print(f"written to {cfg.score.out}" + (f", pictures to {cfg.score.vis_dir}" if cfg.score.vis_dir else ""))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _card(cfg: Config, result: dict[str, Any], confusion: NDArray[np.int64], names: list[str]) -> StageCard:
    split, label_dir = set_name(cfg.data.eval_list), Path(cfg.score.label_dir)
    oracle = f"_oracle_{cfg.score.oracle_from}" if cfg.score.oracle_from else ""
    usual = ("label_scores", "result", "pseudo_seg_labels", split)
    shown = [("images missing", str(result["missing"])), ("labelled", f"{result['labelled']:.1%}")]
    means = [(key.replace("_", " "), _percent(result[key])) for key in ("mean_iou_foreground", "pixel_accuracy")]
    return StageCard(
        *own_name(f"labels_{split}{oracle}", f"Label maps{oracle.replace('_', ' ')}", cfg.run_dir, [label_dir], usual),
        program="scripts.evaluate_labels",
        order=LABELS + 5,
        output=cfg.score.out,
        settings=flat_settings(cfg),
        facts=[*shown, *means, ("absent classes", cfg.score.absent)],
        split=split,
        list_file=cfg.data.eval_list,
        # A report finds <id>.png in folders, and would show the map itself for what the grid made of it.
        maps=cfg.score.label_dir if not oracle and any(label_dir.glob("*.png")) else "",
        mean_iou=result["mean_iou"],
        names=names,
        confusion=confusion.tolist(),
    )


if __name__ == "__main__":
    run_program(main)
