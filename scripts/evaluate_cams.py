"""Score CAMs against ground truth at every background threshold, in one pass over the images.

    python -m scripts.evaluate_cams --config configs/l2g_voc.yaml [key=value ...]
    python -m scripts.evaluate_cams --config configs/l2g_voc.yaml eval.thresholds=[0.1,0.25] eval.out=result.json

Reads <eval.cam_dir>/<id>_<class>.png for the images of data.eval_list and their ground truth in data.label_dir. Writes eval.out
(best threshold of k/255 for k = 0..255, and scores at eval.thresholds; with eval.pick=saliency also the threshold picked by a
rule that sees no ground truth), and beside it <out>_counts.json (mean IoU, false positives and negatives at every threshold,
pixel counts at the best), miou_over_threshold.png, iou_per_class.png and confusion.png (both at the best threshold) and the
configuration, and a stage card; prints the table of the best threshold.
"""

import json
import time
from pathlib import Path
from typing import Any

from configs.schema import Config
from scripts.build import parse_args
from utils.cams.seeds import proposed_thresholds
from utils.cams.store import read_labelled_ids
from utils.cams.sweep import SALIENCY, TRUTH, JointHistogram, best_level, sweep
from utils.config import flat_settings, save_config
from utils.data.classes import label_names, resolve_class_names
from utils.data.folder import DataFolder
from utils.data.images import GREY_VALUES, MAX_GREY
from utils.errors import UserError, run_program
from utils.evaluation.metrics import Scores, score
from utils.evaluation.scores import (
    counts_path,
    counts_text,
    mean_errors,
    published_text,
    score_table,
    scores_to_dict,
)
from utils.files import write_text_atomic
from utils.runtime.cards import SCORED, StageCard, own_name, set_name, write_card


def main(argv: list[str]) -> None:
    """Parse the command line and evaluate."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> dict[str, Any]:
    """Evaluate as configured; returns what `eval.out` holds. Raises UserError for wrong input, naming the file."""
    started = time.monotonic()
    cam_dir = Path(cfg.eval.cam_dir)
    names = label_names(resolve_class_names(cfg.data.class_names, cfg.data.num_classes))
    data = DataFolder.of(cfg.data, cfg.data.eval_list)
    tasks = read_labelled_ids(cfg, cam_dir)
    against = (TRUTH,) if cfg.eval.pick == "none" else (TRUTH, SALIENCY)
    histograms = sweep(data, cam_dir, tasks, workers=cfg.eval.workers, against=against)
    histogram = histograms[TRUTH]
    if not histogram.counts.any():
        raise UserError(f"every pixel of {data.label_dir} is 255 (ignored) for {cfg.data.eval_list}; nothing to evaluate")
    every_level = score(histogram.confusions())
    best = int(every_level.mean_iou.argmax())
    result: dict[str, Any] = {
        "best": {"threshold": best / MAX_GREY, "mean_iou": float(every_level.mean_iou[best])},
        "thresholds": [{"threshold": t, **scores_to_dict(score(histogram.confusion(t)), names)} for t in cfg.eval.thresholds],
    }
    if SALIENCY in histograms:
        picked, _ = best_level(histograms[SALIENCY])
        result["picked"] = {"by": SALIENCY, "threshold": picked / MAX_GREY, "mean_iou": float(every_level.mean_iou[picked])}
    _write(cfg, result, histogram, every_level, names)
    _draw(cfg, every_level, best, histogram, names)
    _report(cfg, result, histogram, names, len(tasks))
    card = _card(cfg, result, histogram, every_level, names)
    card.images, card.seconds = len(tasks), time.monotonic() - started
    write_card(cfg.run_dir, card)
    return result


def _card(cfg: Config, result: dict[str, Any], histogram: JointHistogram, every_level: Scores, names: list[str]) -> StageCard:
    split, best, picked = set_name(cfg.data.eval_list), result["best"], result.get("picked")
    without = [("picked by saliency", f"{picked['threshold']:.3f}: {picked['mean_iou']:.1%}")] if picked else []
    usual = ("ms", "result", "attention", split)
    return StageCard(
        *own_name(f"cam_{split}", "CAM", cfg.run_dir, [cfg.eval.out, cfg.eval.cam_dir], usual),
        program="scripts.evaluate_cams",
        order=SCORED,
        output=cfg.eval.out,
        settings=flat_settings(cfg),
        facts=[("best threshold", f"{best['threshold']:.3f}"), *without],
        split=split,
        list_file=cfg.data.eval_list,
        maps=cfg.eval.cam_dir,
        threshold=best["threshold"],
        mean_iou=best["mean_iou"],
        names=names,
        confusion=histogram.confusion(best["threshold"]).tolist(),
        curve=every_level.mean_iou.tolist(),
    )


def _write(cfg: Config, result: dict[str, Any], histogram: JointHistogram, every_level: Scores, names: list[str]) -> None:
    out, best = Path(cfg.eval.out), result["best"]["threshold"]
    curve = {"threshold": best, "mean_iou": every_level.mean_iou.tolist(), **mean_errors(histogram.confusions())}
    write_text_atomic(counts_path(out), counts_text(names, histogram.confusion(best), curve))
    write_text_atomic(out, json.dumps(result, indent=2, allow_nan=False) + "\n")
    save_config(cfg, out.with_suffix(".yaml"))
    if cfg.eval.published_format:
        confusions = [histogram.confusion(t) for t in cfg.eval.thresholds]
        write_text_atomic(Path(cfg.eval.published_format), published_text(cfg.eval.thresholds, confusions))


def _draw(cfg: Config, every_level: Scores, best: int, histogram: JointHistogram, names: list[str]) -> None:
    # Here, not above: worker processes import this module too, and need no plots.
    from utils.evaluation.plots import plot_class_iou, plot_confusion, plot_threshold_curve

    folder, threshold = Path(cfg.eval.out).parent, best / MAX_GREY
    plot_threshold_curve(folder / "miou_over_threshold.png", every_level.mean_iou, cfg.eval.thresholds)
    plot_class_iou(folder / "iou_per_class.png", names, every_level.iou[best], threshold)
    plot_confusion(folder / "confusion.png", names, histogram.confusion(threshold), threshold)


def _report(cfg: Config, result: dict[str, Any], histogram: JointHistogram, names: list[str], images: int) -> None:
    best = result["best"]
    print(
        f"CAMs of {cfg.eval.cam_dir} on {images} images, background threshold {best['threshold']:.4f} (best of {GREY_VALUES})"
    )
    print(score_table(score(histogram.confusion(best["threshold"])), names))
    for entry in result["thresholds"]:
        errors = mean_errors(histogram.confusion(entry["threshold"])[None])
        parts = [f"{name.replace('_', ' ')} {100 * value[0]:.1f}" for name, value in errors.items() if value[0] is not None]
        print(f"mean IoU {100 * entry['mean_iou']:.2f} at threshold {entry['threshold']:g}   {', '.join(parts)}".rstrip())
    if picked := result.get("picked"):
        print(
            f"mean IoU {100 * picked['mean_iou']:.2f} at threshold {picked['threshold']:.4f}, picked without ground "
            f"truth (CAMs agree most with saliency there): {100 * (best['mean_iou'] - picked['mean_iou']):.2f} below the best"
        )
    foreground, background = proposed_thresholds((picked or best)["threshold"])
    print(
        f"for seeds (scripts.make_seeds), by a rule of thumb on the {'picked' if picked else 'best'} threshold: "
        f"seeds.conf_fg={foreground:.2f} seeds.conf_bg={background:.2f}"
    )
    print(f"mean IoU {100 * best['mean_iou']:.2f} at the best threshold {best['threshold']:.4f}; written to {cfg.eval.out}")


if __name__ == "__main__":
    run_program(main)
