"""What the test and crf commands have in common: the split, continuing, totals, scores, the server's archive."""

import dataclasses
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from configs.deeplab_schema import DeepLabConfig
from deeplab.dataset import check_items
from deeplab.lists import Item, evaluation_items
from deeplab.names import class_names
from deeplab.places import archive_path, predictions_dir, scores_dir
from deeplab.predictions import Confusion, prepare, recount, split_finished
from deeplab.scores import summary, write_scores
from utils.config import save_config
from utils.crf import resolve_backend
from utils.distributed import Dist, barrier, shard
from utils.errors import UserError
from utils.files import atomic_path, lock_folder
from utils.run_log import get_logger
from utils.stage_record import record_stage

# The folder the VOC evaluation server expects.
SERVER_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"

Work = Callable[[Sequence[Item], Path | None], Iterable[Any]]


def evaluate(
    cfg: DeepLabConfig, place: Dist, model_path: Path | None, *, crf: bool, work: Callable[..., None]
) -> dict[str, Any]:
    """Predict this process's share of the split with `work`, add up over all processes, write and return the scores.

    Args:
        cfg: configuration.
        place: this process.
        model_path: weights, for the record.
        crf: which of the two commands.
        work: called with (items to do, folder of predictions or None, confusion to add to).

    Raises:
        UserError: for missing or wrong files.
    """
    started = time.monotonic()
    items = evaluation_items(cfg.dataset, unlabelled=cfg.test.unlabelled)
    check_items(items)
    names = class_names(cfg.dataset)
    about = describe(cfg, place, model_path, crf=crf)
    if cfg.test.unlabelled and not cfg.test.save_predictions:
        raise UserError("test.unlabelled=true makes predictions only, but test.save_predictions is false; set it to true")
    folder = predictions_dir(cfg, crf=crf) if cfg.test.save_predictions else None
    if place.is_main and folder is not None:
        with lock_folder(folder):
            prepare(folder, about)
    barrier(place.world)
    mine = shard(items, place.rank, place.world)
    done, todo = split_finished(folder, mine)
    log = get_logger(rank=place.rank)
    log.info("%d images, %d of them finished before, on %s, %d process(es)", len(mine), len(done), place.device, place.world)
    confusion = Confusion(cfg.dataset.n_classes)
    for item in done:
        if folder is not None:
            confusion.add(recount(item, n_classes=cfg.dataset.n_classes, folder=folder))
    if todo:
        work(todo, folder, confusion)
    counts = confusion.total(place)
    if not place.is_main:
        return {}
    program, seconds = "deeplab_crf" if crf else "deeplab_test", time.monotonic() - started
    record_stage(cfg.exp.output_dir, program, seconds, output=folder or scores_dir(cfg), images=len(todo))
    if cfg.test.unlabelled and folder is not None:
        archive = archive_path(cfg, crf=crf)
        write_archive(archive, folder, items)
        log.info("predictions in %s, for the test server in %s", folder, archive)
        return {}
    stem = "scores_crf" if crf else "scores"
    result = write_scores(scores_dir(cfg), stem, counts, names, {**about, "Images": len(items)})
    save_config(cfg, scores_dir(cfg) / f"{stem}.yaml")
    print((scores_dir(cfg) / f"{stem}.txt").read_text(encoding="utf-8"), end="")
    print(f"{summary(result)}: {scores_dir(cfg) / f'{stem}.json'}")
    return result


def describe(cfg: DeepLabConfig, place: Dist, model_path: Path | None, *, crf: bool) -> dict[str, Any]:
    """Return what predictions follow from: weights (path, size, time), views, CRF settings."""
    stat = model_path.stat() if model_path is not None else None
    weights = None if stat is None else {"Path": str(model_path), "Bytes": stat.st_size, "Modified": stat.st_mtime_ns}
    settings = dataclasses.asdict(cfg.crf)
    settings.pop("workers")
    if crf:
        settings["backend"] = resolve_backend(cfg.crf.backend, place.device)
    return {
        "Weights": weights,
        "Model": cfg.model.name,
        "Views": {"scales": list(cfg.test.scales), "flip": cfg.test.flip, "msc_scales": list(cfg.model.msc_scales)},
        "CRF": settings if crf else None,
    }


def write_archive(path: Path, folder: Path, items: Sequence[Item]) -> None:
    """Pack predictions as the VOC evaluation server takes them (results/VOC2012/Segmentation/comp6_test_cls/<id>.png)."""
    with atomic_path(path) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for item in items:
            name = f"{item.image_id}.png"
            archive.add(folder / name, f"{SERVER_FOLDER}/{name}")


def require_weights(path: Path) -> Path:
    """Return `path` if it is a file.

    Raises:
        UserError: when it is not.
    """
    if not path.is_file():
        raise UserError(f"--model-path {path} is not a file; give a checkpoint, e.g. .../checkpoint_final.pth")
    return path
