"""Refine whole folders of CAMs before they are scored and labelled, by a dense CRF, IRNet's random walk or any other refiner.

    python -m scripts.refine_cams --config configs/l2g_voc.yaml refine.by=dense_crf [key=value ...]
    python -m scripts.evaluate_cams --config configs/l2g_voc.yaml eval.cam_dir=runs/exp_voc/ms/refined eval.out=refined.json
    python -m scripts.gen_gt --config configs/l2g_voc.yaml pseudo.cam_dir=runs/exp_voc/ms/refined pseudo.threshold=0.5
    python -m scripts.refine_cams --config configs/irn_voc.yaml refine.by=random_walk refine.cam_dir=their/cams

Reads <refine.cam_dir>/<id>_<class>.png, <id>.npz or <id>.npy for the images of data.eval_list, and writes
<refine.out_dir>/<id>_<class>.png. A random walk (after scripts.make_boundaries) gives CAMs again, whose background score a
sweep finds. For the other refiners background scores refine.background at every pixel; it and the CAMs, divided by their sum,
go through them, and refined probabilities come out (about 0.5 is then the natural threshold). Finished images are skipped
unless refine.overwrite=true, so a stopped run continues.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.schema import Config
from scripts.build import build_refinement, parse_args
from utils.cams.refinement import ImageRefiner, Refinement
from utils.cams.store import LabelledId, are_whole, cam_path, file_names, quantised, read_labelled_ids
from utils.config import flat_settings, flatten
from utils.data.folder import DataFolder
from utils.data.images import read_image, write_png
from utils.errors import UserError, run_program
from utils.files import lock_folder
from utils.runtime.cards import REFINED, StageCard, own_name, set_name, write_card
from utils.runtime.parallel import map_progress
from utils.runtime.provenance import claim_folder, read_source


@dataclass(frozen=True)
class RefineWork:
    """What a worker process needs: where the data set and CAMs are, and what to do with them."""

    data: DataFolder
    cam_dir: Path
    out_dir: Path
    refinement: Refinement
    background: float


def main(argv: list[str]) -> None:
    """Parse the command line and refine."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> int:
    """Refine as configured; returns how many images were done. Raises UserError for wrong input, or a folder of other maps."""
    started, refine = time.monotonic(), cfg.refine
    cam_dir, out_dir = Path(refine.cam_dir), Path(refine.out_dir)
    if cam_dir.resolve() == out_dir.resolve():
        raise UserError(f"refine.out_dir is refine.cam_dir ({cam_dir}), whose maps would be lost; set another")
    refinement = build_refinement(refine.by, cfg)
    if not refinement:
        raise UserError("refine.by is none, so there is nothing to do; name a refiner, e.g. refine.by=dense_crf")
    tasks = read_labelled_ids(cfg, cam_dir)
    refinement.check(image_id for image_id, classes in tasks if classes)
    with lock_folder(out_dir):
        cams = read_source(cam_dir) or str(cam_dir)
        source = {"cams": cams, **refinement.source(), "background": refine.background}
        claim_folder(out_dir, source, "refine.out_dir", overwrite=refine.overwrite)
        there = set() if refine.overwrite else file_names(out_dir)
        todo = [task for task in tasks if not _finished(task, out_dir, there)]
        work = RefineWork(DataFolder.of(cfg.data, cfg.data.eval_list), cam_dir, out_dir, refinement, refine.background)
        done = sum(map_progress(partial(refine_image, work), todo, workers=refine.workers, what="refine"))
    print(f"CAMs of {done} images refined in {out_dir}, {len(tasks) - done} were finished before")
    _write_card(cfg, refinement, done, time.monotonic() - started)
    return done


def refine_image(work: RefineWork, task: LabelledId) -> int:
    """Refine the CAMs of one image in this process; returns 1."""
    image_id, classes = task
    if classes:
        image = read_image(work.data.image(image_id))
        cams, background = work.refinement.read(work.cam_dir, image_id, classes, image.size)
        given = work.background if background is None else background
        scores = work.refinement.scores
        maps = [quantised(cam) for cam in cams] if scores is None else refined_cams(scores, np.asarray(image), cams, given)
        for k, cam in zip(classes, maps, strict=True):
            write_png(cam_path(work.out_dir, image_id, k), cam)
    return 1


def refined_cams(
    refiner: ImageRefiner,
    image: NDArray[np.uint8],
    cams: Sequence[NDArray[np.float32]],
    background: float | NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Return (K, H, W) 8-bit CAMs: 255 times the refined probabilities, so that about 0.5 is their natural threshold.

    Args:
        refiner: of probabilities.
        image: (H, W, 3) RGB.
        cams: K maps (H, W) in [0, 1].
        background: its score beside theirs, in [0, 1], one or a map (H, W).
    """
    scores = np.stack([np.broadcast_to(np.float32(background), image.shape[:2]), *cams])
    scores /= np.maximum(scores.sum(axis=0), np.finfo(np.float32).tiny)
    return quantised(np.asarray(refiner.refine(scores, image), np.float32)[1:])


def _finished(task: LabelledId, folder: Path, names: set[str]) -> bool:
    image_id, classes = task
    return are_whole([cam_path(folder, image_id, k) for k in classes], names)


def _write_card(cfg: Config, refinement: Refinement, images: int, seconds: float) -> None:
    split, names = set_name(cfg.data.eval_list), refinement.names
    title = f"Refined CAMs, {' + '.join(names).replace('_', ' ')}"
    usual = ("ms", "refined", split)
    card = StageCard(
        *own_name("_".join(("refined", *names, split)), title, cfg.run_dir, [cfg.refine.out_dir], usual),
        program="scripts.refine_cams",
        order=REFINED,
        output=cfg.refine.out_dir,
        images=images,
        seconds=seconds,
        settings=flat_settings(cfg),
        facts=[(key, str(value)) for key, value in flatten(refinement.settings()).items()],
        split=split,
        list_file=cfg.data.eval_list,
    )
    write_card(cfg.run_dir, card, keep=images == 0)


if __name__ == "__main__":
    run_program(main)
