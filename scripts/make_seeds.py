"""Write labels where CAMs are sure, and 255 elsewhere: what IRNet learns from.

    python -m scripts.make_seeds --config configs/irn_voc.yaml [cam.dir=runs/exp_voc/ms/attention] [key=value ...]
    python -m scripts.make_seeds --config configs/irn_voc.yaml seeds.cam_dir=their/cams seeds.conf_fg=0.3 seeds.conf_bg=0.05

Reads <seeds.cam_dir>/<id>_<class>.png, <id>.npz or <id>.npy for the images of data.train_list, the pictures, and for the
classes data.label_list. Writes palette PNGs <seeds.out_dir>/<id>.png, 0 background, class + 1, 255 unsure, and a stage card
with their scores where data.label_dir has ground truth. Finished images are skipped unless seeds.overwrite=true.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from configs.irn_schema import SeedConfig
from configs.schema import Config
from models.refiners.dense_crf import DenseCrf
from scripts.build import parse_args
from utils.cams.labels import LabelCounts, LabelSource, count_labels, no_counts
from utils.cams.refinement import ImageRefiner
from utils.cams.seeds import confident_labels
from utils.cams.store import LabelledId, read_labelled_ids, read_scores
from utils.config import flat_settings
from utils.data.classes import label_names, palette, resolve_class_names
from utils.data.folder import DataFolder
from utils.data.images import is_whole_png, read_image, read_label_map, write_png
from utils.errors import UserError, run_program, user_errors
from utils.evaluation.metrics import score
from utils.evaluation.scores import score_table, scores_to_dict
from utils.files import lock_folder
from utils.runtime.cards import LABELS, StageCard, own_name, set_name, write_card
from utils.runtime.parallel import map_progress
from utils.runtime.provenance import claim_folder, read_source


@dataclass(frozen=True)
class SeedWork:
    """What a worker process needs."""

    source: LabelSource
    rule: SeedConfig
    crf: ImageRefiner


def main(argv: list[str]) -> None:
    """Parse the command line and write seeds."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> LabelCounts:
    """Write seeds; returns counts, of finished images too. Raises UserError for wrong input, or a folder of other labels."""
    started, rule = time.monotonic(), cfg.seeds
    cam_dir, out_dir = Path(rule.cam_dir), Path(rule.out_dir)
    data = DataFolder.of(cfg.data, cfg.data.train_list, saliency=False)
    data.refuse_output(out_dir, "seeds.out_dir")
    if cam_dir.resolve() == out_dir.resolve():
        raise UserError(f"seeds.out_dir is seeds.cam_dir ({cam_dir}), whose maps would be lost; set another")
    with user_errors():
        crf = DenseCrf.from_settings(rule.crf)
    tasks = read_labelled_ids(replace(cfg, data=replace(cfg.data, eval_list=cfg.data.train_list)), cam_dir)
    data.check_images(image_id for image_id, _ in tasks)
    work = SeedWork(LabelSource(data, cam_dir, out_dir, cfg.pseudo), rule, crf)
    counts = no_counts(cfg.data.num_classes)
    with lock_folder(out_dir):
        source = {
            "cams": read_source(cam_dir) or str(cam_dir),
            "thresholds": [rule.conf_fg, rule.conf_bg],
            "crf": {"confidence": rule.confidence, **crf.settings()},
        }
        claim_folder(out_dir, source, "seeds.out_dir", overwrite=rule.overwrite)
        for one in map_progress(partial(make_seed, work), tasks, workers=rule.workers, what="seeds"):
            counts.add(one)
    _report(cfg, counts, time.monotonic() - started)
    return counts


def make_seed(work: SeedWork, task: LabelledId) -> LabelCounts:
    """Write the seeds of one image, if they are not there, and count them."""
    image_id, classes = task
    source, counts = work.source, no_counts(work.source.data.num_classes)
    path = source.out_dir / f"{image_id}.png"
    if not work.rule.overwrite and is_whole_png(path):
        labels = read_label_map(path, source.data.num_classes)
    else:
        image = read_image(source.data.image(image_id))
        cams, _ = read_scores(source.cam_dir, image_id, classes, image.size) if classes else ([], None)
        labels = confident_labels(classes, cams, np.asarray(image), work.rule, work.crf)
        write_png(path, labels, palette())
    count_labels(source, counts, image_id, labels)
    return counts


def _report(cfg: Config, counts: LabelCounts, seconds: float) -> None:
    names = label_names(resolve_class_names(cfg.data.class_names, cfg.data.num_classes))
    unsure, found = counts.pixels_ignored / counts.pixels, counts.pixels_foreground / counts.pixels
    print(f"seeds of {counts.images} images in {cfg.seeds.out_dir}: {found:.1%} foreground, {unsure:.1%} unsure")
    mean = None
    if counts.images_compared:
        result = score(counts.confusion)
        mean = scores_to_dict(result, names)["mean_iou"]
        print(f"against the ground truth of {counts.images_compared} images, over the {1 - unsure:.1%} that are sure:")
        print(score_table(result, names))
    split = set_name(cfg.data.train_list)
    card = StageCard(
        *own_name(f"seeds_{split}", "Seeds", cfg.run_dir, [cfg.seeds.out_dir], ("seeds", split)),
        program="scripts.make_seeds",
        order=LABELS,
        output=cfg.seeds.out_dir,
        images=counts.images,
        seconds=seconds,
        settings=flat_settings(cfg),
        facts=[("foreground", f"{found:.1%}"), ("unsure", f"{unsure:.1%}")],
        split=split,
        list_file=cfg.data.train_list,
        maps=cfg.seeds.out_dir,
        mean_iou=mean,
        names=names,
        confusion=counts.confusion.tolist() if counts.images_compared else (),
    )
    write_card(cfg.run_dir, card)


if __name__ == "__main__":
    run_program(main)
