"""Write pseudo labels for the segmentation stage from the CAMs of each image's present classes.

    python -m scripts.gen_gt --config configs/l2g_voc.yaml pseudo.fusion=saliency [key=value ...]
    python -m scripts.gen_gt --config configs/l2g_voc.yaml pseudo.fusion=threshold pseudo.threshold=0.25   # published rule
    python -m scripts.gen_gt --config configs/l2g_voc.yaml pseudo.refine=dense_crf [crf.bi_rgb_std=3 ...]
    python -m scripts.gen_gt --config configs/irn_voc.yaml cam.dir=their/cams       # after IRNet: pseudo.refine=random_walk

Reads <pseudo.cam_dir>/<id>_<class>.png, <id>.npz or <id>.npy (and saliency) for the images of data.eval_list. Writes palette
PNGs <pseudo.out_dir>/<id>.png, 0 background, class + 1, 255 ignored, and beside them pseudo_labels.json (counts, and scores
where data.label_dir has ground truth), pseudo_labels_counts.json (its confusion) and pseudo_labels.yaml (the configuration),
and a stage card. Labels that are there already are written anew.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.schema import Config
from models.refiners import refiner_names
from scripts.build import build_refinement, parse_args
from utils.cams.labels import LabelCounts, LabelSource, write_pseudo_labels
from utils.cams.store import read_labelled_ids
from utils.cams.sweep import SALIENCY, best_level, sweep
from utils.config import flat_settings, save_config
from utils.data.classes import label_names, resolve_class_names
from utils.data.folder import DataFolder
from utils.data.images import MAX_GREY
from utils.errors import UserError, run_program
from utils.evaluation.metrics import score
from utils.evaluation.scores import counts_path, counts_text, score_table, scores_to_dict
from utils.files import lock_folder, write_text_atomic
from utils.runtime.cards import LABELS, StageCard, own_name, set_name, write_card

REPORT = "pseudo_labels.json"


def main(argv: list[str]) -> None:
    """Parse the command line and write pseudo labels."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> dict[str, Any]:
    """Write pseudo labels; returns what `<out_dir>/pseudo_labels.json` holds. Raises UserError for wrong input."""
    started = time.monotonic()
    out_dir, cam_dir = Path(cfg.pseudo.out_dir), Path(cfg.pseudo.cam_dir)
    data = DataFolder.of(cfg.data, cfg.data.eval_list)
    source = LabelSource(data, cam_dir, out_dir, cfg.pseudo, build_refinement(cfg.pseudo.refine, cfg))
    _check(source)
    picked: list[tuple[str, str]] = []
    names = label_names(resolve_class_names(cfg.data.class_names, cfg.data.num_classes))
    tasks = read_labelled_ids(cfg, cam_dir)
    source.refinement.check(image_id for image_id, classes in tasks if classes)
    if cfg.pseudo.pick == "saliency" and source.refinement.cams is not None:
        raise UserError(
            "pseudo.pick=saliency looks at the CAMs as they are in pseudo.cam_dir; walk them first (scripts.refine_cams "
            "refine.by=random_walk) and label those, with pseudo.refine=none"
        )
    if cfg.pseudo.pick == "saliency":
        level, _ = best_level(sweep(data, cam_dir, tasks, workers=cfg.pseudo.workers, against=[SALIENCY])[SALIENCY])
        source = replace(source, rule=replace(source.rule, threshold=level / MAX_GREY))
        picked = [("threshold picked by saliency", f"{level / MAX_GREY:.3f}")]
        print(f"background threshold {level / MAX_GREY:.4f}: there CAMs agree most with saliency")
    with lock_folder(out_dir):
        counts = write_pseudo_labels(source, tasks, workers=cfg.pseudo.workers)
        result = _summary(source, counts, names)
        write_text_atomic(out_dir / REPORT, json.dumps(result, indent=2, allow_nan=False) + "\n")
        write_text_atomic(counts_path(out_dir / REPORT), counts_text(names, counts.confusion))
        save_config(cfg, (out_dir / REPORT).with_suffix(".yaml"))
    _report(result, counts, names, source)
    card = _card(cfg, result, counts, names)
    card.facts = [*card.facts, *picked]
    card.seconds = time.monotonic() - started
    write_card(cfg.run_dir, card)
    return result


def _card(cfg: Config, result: dict[str, Any], counts: LabelCounts, names: list[str]) -> StageCard:
    split, fusion = set_name(cfg.data.eval_list), cfg.pseudo.fusion
    refiner = "_".join(refiner_names(cfg.pseudo.refine))
    kind = "_".join(filter(None, ("pseudo", fusion, refiner)))
    title = f"Pseudo labels, {fusion}" + (f" + {refiner.replace('_', ' ')}" if refiner else "")
    usual = ("pseudo_seg_labels", f"pseudo_{fusion}", f"pseudo_{split}", kind, split)
    return StageCard(
        *own_name(f"{kind}_{split}", title, cfg.run_dir, [cfg.pseudo.out_dir], usual),
        program="scripts.gen_gt",
        order=LABELS + bool(refiner),
        output=cfg.pseudo.out_dir,
        images=counts.images,
        settings=flat_settings(cfg),
        facts=[
            ("coverage", f"{result['coverage']:.1%}"),
            ("ignored", f"{result['ignored']:.1%}"),
            ("all ignored", f"{counts.images_ignored} of {counts.images}"),
            ("foreground", f"{result['foreground']:.1%}"),
        ],
        split=split,
        list_file=cfg.data.eval_list,
        maps=cfg.pseudo.out_dir,
        mean_iou=result["mean_iou"],
        names=names,
        confusion=counts.confusion.tolist() if counts.images_compared else (),
    )


def _check(source: LabelSource) -> None:
    """Refuse an output folder that holds inputs: its files would be overwritten."""
    source.data.refuse_output(source.out_dir, "pseudo.out_dir")
    if source.cam_dir.resolve() == source.out_dir.resolve():
        raise UserError(
            f"pseudo.out_dir {source.out_dir} is the folder of pseudo.cam_dir, whose files would be lost; set another"
        )


def _summary(source: LabelSource, counts: LabelCounts, names: list[str]) -> dict[str, Any]:
    scores = scores_to_dict(score(counts.confusion), names)
    return {
        "fusion": source.rule.fusion,
        "refined": source.refinement.settings() if source.refinement else None,
        "images": counts.images,
        "images_ignored": counts.images_ignored,
        "images_compared": counts.images_compared,
        "coverage": 1 - counts.pixels_ignored / counts.pixels,
        "ignored": counts.pixels_ignored / counts.pixels,
        "foreground": counts.pixels_foreground / counts.pixels,
        **scores,
    }


def _report(result: dict[str, Any], counts: LabelCounts, names: list[str], source: LabelSource) -> None:
    rule = f"fusion={result['fusion']}{', refined' if result['refined'] else ''}"
    print(
        f"{result['images']} pseudo labels ({rule}) in {source.out_dir}: {result['foreground']:.1%} foreground, "
        f"{result['ignored']:.1%} ignored, {result['images_ignored']} images ignored entirely"
    )
    if result["mean_iou"] is None:
        print(f"scores skipped: {source.data.label_dir} has no ground truth for these images")
        return
    print(f"against the ground truth of {result['images_compared']} images, over the {result['coverage']:.1%} not ignored:")
    print(score_table(score(counts.confusion), names))


if __name__ == "__main__":
    run_program(main)
