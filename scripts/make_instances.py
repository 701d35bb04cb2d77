"""Write masks of single objects from CAMs, as IRNet does: cells that move to the same centre, walked along the boundaries.

    python -m scripts.make_boundaries --config configs/irn_voc.yaml boundaries.displacements=true [key=value ...]
    python -m scripts.make_instances --config configs/irn_voc.yaml data.eval_list=data/voc12/train.txt \\
        instances.truth_dir=VOCdevkit/VOC2012/SegmentationObject

Reads <instances.cam_dir>, in any form scripts.refine_cams takes, and <random_walk.boundary_dir> for the images of
data.eval_list. Writes <instances.out_dir>/<id>.npz (score, mask, class) and instances.json, COCO's annotations with a score
each; where instances.truth_dir has ground truth, also their average precision at a mask IoU of 0.5. Finished images are skipped
unless instances.overwrite=true.
"""

import json
import time
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.irn_schema import InstanceConfig
from configs.schema import Config
from scripts.build import build_refinement, parse_args
from utils.cams.instances import Instances, find_instances, read_instances, run_lengths_of, write_instances
from utils.cams.refinement import CamRefiner, check_boundaries, read_boundary
from utils.cams.store import LabelledId, read_labelled_ids, read_small
from utils.config import flat_settings
from utils.data.classes import label_value, resolve_class_names
from utils.data.folder import DataFolder
from utils.data.images import Size, image_size
from utils.errors import UserError, run_program
from utils.evaluation.instances import Matches, match_instances, read_truth
from utils.files import lock_folder, write_text_atomic
from utils.runtime.cards import LABELS, StageCard, own_name, set_name, write_card
from utils.runtime.parallel import map_progress
from utils.runtime.provenance import claim_folder, read_source

REPORT = "instances.json"


@dataclass(frozen=True)
class InstanceWork:
    """What a worker process needs."""

    data: DataFolder
    rule: InstanceConfig
    walk: CamRefiner


@dataclass
class Found:
    """Of one image: its size (W, H), annotations without their numbers, and matches with ground truth, if there is any."""

    size: Size
    annotations: list[dict[str, Any]]
    matches: Matches | None


def main(argv: list[str]) -> None:
    """Parse the command line and write instances."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> dict[str, float]:
    """Write instances as configured; returns class name -> average precision in [0, 1], empty without ground truth.

    Raises:
        UserError: for wrong input, naming the file, or a folder that holds others' instances.
    """
    started, rule = time.monotonic(), cfg.instances
    cam_dir, out_dir = Path(rule.cam_dir), Path(rule.out_dir)
    if cam_dir.resolve() == out_dir.resolve():
        raise UserError(f"instances.out_dir is instances.cam_dir ({cam_dir}), whose maps would be lost; set another")
    walk = build_refinement("random_walk", cfg).cams if hasattr(cfg, "random_walk") else None
    if walk is None:
        raise UserError(
            "there is no section random_walk; use a configuration that names the refiner, e.g. configs/irn_voc.yaml"
        )
    data = DataFolder.of(cfg.data, cfg.data.eval_list, saliency=False)
    tasks = read_labelled_ids(cfg, cam_dir)
    data.check_images(image_id for image_id, _ in tasks)
    check_boundaries(Path(walk.boundary_dir), (image_id for image_id, _ in tasks))
    with lock_folder(out_dir):
        source = {
            "cams": read_source(cam_dir) or str(cam_dir),
            "boundaries": read_source(Path(walk.boundary_dir)),
            "walk": walk.settings(),
            "rule": [rule.threshold, rule.steps, rule.still, rule.least_area],
        }
        claim_folder(out_dir, source, "instances.out_dir", overwrite=rule.overwrite)
        work = partial(make_instances, InstanceWork(data, rule, walk))
        found = list(map_progress(work, tasks, workers=rule.workers, what="instances"))
        names = resolve_class_names(cfg.data.class_names, cfg.data.num_classes)
        write_text_atomic(out_dir / REPORT, json.dumps(_coco(tasks, found, names, data)) + "\n")
    return _report(cfg, found, names, time.monotonic() - started)


def make_instances(work: InstanceWork, task: LabelledId) -> Found:
    """Write the objects of one image, if they are not there, and match them with the ground truth."""
    (image_id, classes), rule = task, work.rule
    size, path = image_size(work.data.image(image_id)), Path(rule.out_dir) / f"{image_id}.npz"
    if not rule.overwrite and zipfile.is_zipfile(path):
        found = read_instances(path)
    else:
        found = _find(work, image_id, classes, size)
        write_instances(path, found)
    truth = None
    if rule.truth_dir:
        truth = read_truth(Path(rule.truth_dir), image_id, size, work.data.truth(image_id), work.data.num_classes)
    matches = None if truth is None else match_instances(found.mask, found.classes, found.score, *truth)
    return Found(size, [_annotation(found, number) for number in range(len(found.score))], matches)


def _find(work: InstanceWork, image_id: str, classes: tuple[int, ...], size: Size) -> Instances:
    fields = read_boundary(Path(work.walk.boundary_dir), image_id, size)
    if "displacement" not in fields:
        raise UserError(
            f"{work.walk.boundary_dir} holds no displacements; run scripts.make_boundaries boundaries.displacements=true"
        )
    cams = read_small(Path(work.rule.cam_dir), image_id, classes, size) if classes else np.zeros((0, 1, 1), np.float32)
    return find_instances(classes, cams, fields["boundary"], fields["displacement"], size[::-1], work.rule, work.walk)


def _annotation(found: Instances, number: int) -> dict[str, Any]:
    mask = found.mask[number]
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "category_id": label_value(int(found.classes[number])),
        "score": round(float(found.score[number]), 5),
        "area": int(mask.sum()),
        "bbox": [int(side) for side in box],
        "segmentation": {"size": list(mask.shape), "counts": run_lengths_of(mask)},
        "iscrowd": 0,
    }


def _coco(tasks: list[LabelledId], found: list[Found], names: list[str], data: DataFolder) -> dict[str, Any]:
    """Return COCO's form; images and annotations are numbered from 1 in the list's order, categories are label values."""
    numbered = list(enumerate(zip(tasks, found, strict=True), 1))
    images = [
        {"id": n, "file_name": data.image(task[0]).name, "width": one.size[0], "height": one.size[1]}
        for n, (task, one) in numbered
    ]
    annotations = [{"image_id": n, **annotation} for n, (_, one) in numbered for annotation in one.annotations]
    return {
        "images": images,
        "annotations": [{"id": n, **annotation} for n, annotation in enumerate(annotations, 1)],
        "categories": [{"id": label_value(k), "name": name} for k, name in enumerate(names)],
    }


def _report(cfg: Config, found: list[Found], names: list[str], seconds: float) -> dict[str, float]:
    total, compared = Matches(), 0
    for one in found:
        if one.matches is not None:
            total.add(one.matches)
            compared += 1
    precision = {names[k]: value for k, value in total.average_precision().items()}
    objects = sum(len(one.annotations) for one in found)
    print(f"{objects} objects of {len(found)} images in {cfg.instances.out_dir}")
    facts = [("objects", str(objects))]
    if precision:
        mean = sum(precision.values()) / len(precision)
        facts.append(("AP50", f"{mean:.1%}"))
        print(f"average precision at a mask IoU of 0.5 on {compared} images: {mean:.1%}")
        print("\n".join(f"{name:<14}{value:6.1%}" for name, value in precision.items()))
    split = set_name(cfg.data.eval_list)
    card = StageCard(
        *own_name(f"instances_{split}", "Instances", cfg.run_dir, [cfg.instances.out_dir], ("instances", split)),
        program="scripts.make_instances",
        order=LABELS + 2,
        output=cfg.instances.out_dir,
        images=len(found),
        seconds=seconds,
        settings=flat_settings(cfg),
        facts=facts,
        split=split,
    )
    write_card(cfg.run_dir, card)
    return precision


if __name__ == "__main__":
    run_program(main)
