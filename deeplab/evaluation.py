"""What the test and crf commands have in common: the split, continuing, totals, scores, the server's archive."""

import contextlib
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.deeplab_schema import PLAIN, DeepLabConfig
from deeplab.dataset import check_items
from deeplab.labelling import asked
from deeplab.outputs import (
    LOGIT_SUFFIXES,
    TITLES,
    Confusion,
    archive_path,
    experiment,
    logits_dir,
    predictions_dir,
    prepare,
    recount,
    scores_dir,
    split_finished,
    tested_split,
)
from deeplab.weights import read_init
from models.refiners import Chain, Refiner, build_refiner
from utils.config import flat_settings, save_config
from utils.data.classes import class_names
from utils.data.items import Item, evaluation_items
from utils.errors import UserError, user_errors
from utils.evaluation.scores import published_scores, summary, write_scores
from utils.files import atomic_path, lock_folder
from utils.runtime.cards import SEGMENTATION_REFINED, SEGMENTATION_TEST, StageCard, set_name, write_card
from utils.runtime.log import get_logger
from utils.runtime.processes import Dist, barrier, shard
from utils.runtime.provenance import differing, read_source

# The folder the VOC evaluation server expects.
SERVER_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"

# Does the work on some items: writes predictions to the folder (None: nowhere) and counts them.
Work = Callable[[list[Item], Path | None, Confusion], None]


def evaluate(cfg: DeepLabConfig, place: Dist, model_path: Path | None, *, crf: bool, work: Work) -> dict[str, Any]:
    """Predict this process's share of the split with `work`, add up over all processes, write and return the scores.

    Args:
        cfg: configuration.
        place: this process.
        model_path: weights, for the record; None when there are none (logits from files).
        crf: which of the two commands.
        work: called with the items to do.

    Returns:
        what the score file holds; nothing on other processes than the first, or without ground truth.

    Raises:
        UserError: for missing or wrong files, or a folder another program is writing to.
    """
    started = time.monotonic()
    if cfg.test.unlabelled and not cfg.test.save_predictions:
        raise UserError("test.unlabelled=true makes predictions only, but test.save_predictions is false; set it to true")
    items = evaluation_items(cfg.dataset, unlabelled=cfg.test.unlabelled)
    check_items(items)
    names = class_names(cfg.dataset)
    about = describe(cfg, place, model_path, crf=crf)
    folder = predictions_dir(cfg, crf=crf) if cfg.test.save_predictions else None
    with lock_folder(folder) if place.is_main and folder is not None else contextlib.nullcontext():
        counts, images = _count(cfg, place, about, items, folder, work, logits=None if crf else logits_to_save(cfg))
        if not place.is_main:
            return {}
        init = read_init(model_path)
        card = _card(cfg, counts, names, init, crf=crf)
        card.images, card.seconds = images, time.monotonic() - started
        write_card(cfg.exp.output_dir, card, group=experiment(cfg))
        if cfg.test.unlabelled and folder is not None:
            if about.get("Labels"):
                print(f"labels in {folder}")
                return {}
            archive = archive_path(cfg, crf=crf)
            write_archive(archive, folder, items)
            print(f"predictions in {folder}, for the test server in {archive}")
            return {}
        return _report(cfg, "scores_crf" if crf else "scores", counts, names, {**about, "Init": init, "Images": len(items)})


def _card(cfg: DeepLabConfig, counts: NDArray[np.int64], names: Sequence[str], init: str, *, crf: bool) -> StageCard:
    split, scores = set_name(tested_split(cfg)), published_scores(counts)
    crf_facts = [("CRF image", cfg.crf.image), ("CRF iterations", str(cfg.crf.iter_max))] if crf else []
    label_facts = [(key.replace("_", " "), str(value)) for key, value in asked(cfg.test).items()]
    views = ", multi-scale" if cfg.test.flip and len(cfg.test.scales) > 1 else ""
    accuracies = [(key, scores[key]) for key in ("Pixel Accuracy", "Mean Accuracy") if scores[key] is not None]
    return StageCard(
        key=f"deeplab_{'crf' if crf else 'test'}_{split}",
        title=f"{TITLES[cfg.method]}{' + CRF' if crf else ''}{views}",
        program=f"deeplab {'crf' if crf else 'test'}",
        order=SEGMENTATION_REFINED if crf else SEGMENTATION_TEST,
        output=str(scores_dir(cfg)),
        settings=flat_settings(cfg),
        facts=[
            ("split", tested_split(cfg)),
            ("init", init),
            *crf_facts,
            *label_facts,
            *((key.lower(), f"{value:.1%}") for key, value in accuracies),
        ],
        split=split,
        maps=str(predictions_dir(cfg, crf=crf)) if cfg.test.save_predictions else "",
        mean_iou=scores["Mean IoU"],
        names=list(names),
        confusion=counts.tolist() if counts.any() else (),
    )


def logits_to_save(cfg: DeepLabConfig) -> Path | None:
    """Return the folder `test` writes logits to; None when it writes none."""
    return logits_dir(cfg) if cfg.test.save_logits != "none" else None


def usable_logits(cfg: DeepLabConfig, place: Dist, model_path: Path | None) -> Path | None:
    """Return the folder of logits that `test` left; None when other weights or views made those.

    Logits of unknown origin (the published program's) are taken, and so are all when there are no weights to make others.
    """
    folder = logits_dir(cfg)
    about = read_source(folder)
    if about is None or model_path is None:
        return folder
    wanted = describe(cfg, place, model_path, crf=False)
    if not differing(about, wanted, ignored=("Kind", "Labels")):
        return folder
    get_logger(rank=place.rank).info("logits in %s are of other weights or views: not used", folder)
    return None


def _count(
    cfg: DeepLabConfig,
    place: Dist,
    about: Mapping[str, Any],
    items: Sequence[Item],
    folder: Path | None,
    work: Work,
    *,
    logits: Path | None,
) -> tuple[NDArray[np.int64], int]:
    """Do what is not done yet; return the confusion over all processes, and how many images this one did."""
    if place.is_main and folder is not None:
        prepare(folder, about, [".png"])
    if place.is_main and logits is not None:
        prepare(logits, {**about, "Kind": cfg.test.save_logits}, LOGIT_SUFFIXES)
    barrier(place.world)  # nobody looks before what is outdated is gone
    mine = shard(items, place.rank, place.world)
    done, todo = split_finished(mine, folder, logits)
    log = get_logger(rank=place.rank)
    log.info("%d images, %d of them finished before, on %s, %d process(es)", len(mine), len(done), place.device, place.world)
    confusion = Confusion(cfg.dataset.num_classes)
    if folder is not None:
        for item in done:
            confusion.add(recount(item, num_classes=cfg.dataset.num_classes, folder=folder))
    if todo:
        work(todo, folder, confusion)
    return confusion.total(place), len(todo)


def _report(
    cfg: DeepLabConfig, stem: str, counts: NDArray[np.int64], names: Sequence[str], about: Mapping[str, Any]
) -> dict[str, Any]:
    folder = scores_dir(cfg)
    result = write_scores(folder, stem, counts, names, about)
    save_config(cfg, folder / f"{stem}.yaml")
    print((folder / f"{stem}.txt").read_text(encoding="utf-8"), end="")
    print(f"{summary(result)}: {folder / f'{stem}.json'}")
    return result


def describe(cfg: DeepLabConfig, place: Dist, model_path: Path | None, *, crf: bool) -> dict[str, Any]:
    """Return what predictions follow from: weights (path, size, time), views, settings of the refiner."""
    stat = model_path.stat() if model_path is not None else None
    weights = None if stat is None else {"Path": str(model_path), "Bytes": stat.st_size, "Modified": stat.st_mtime_ns}
    labels = asked(cfg.test)
    return {
        "Weights": weights,
        "Model": cfg.model.name,
        **({} if cfg.method == PLAIN else {"Method": [cfg.method, cfg.cdl.output_divisor]}),
        "Views": {"scales": list(cfg.test.scales), "flip": cfg.test.flip, "msc_scales": list(cfg.model.msc_scales)},
        "CRF": build_configured(cfg, place).settings() if crf else None,
        **({"Labels": labels} if labels else {}),
    }


def build_configured(cfg: DeepLabConfig, place: Dist) -> Refiner | Chain:
    """Return the refiner of the crf command, its picture made with the network's mean; on the GPU where there is one.

    Raises:
        UserError: when `refine` names none or an unknown one, and for their settings.
    """
    mean, device = cfg.image.mean, str(place.device) if place.device.type == "cuda" else None
    with user_errors():
        refiner = build_refiner(cfg.refine, cfg, mean=(mean.r, mean.g, mean.b), device=device)
    if refiner is None:
        raise UserError("refine is none, so there is nothing for crf to do; name a refiner, e.g. refine=dense_crf")
    return refiner


def write_archive(path: Path, folder: Path, items: Sequence[Item]) -> None:
    """Pack predictions as the VOC evaluation server takes them (results/VOC2012/Segmentation/comp6_test_cls/<id>.png)."""
    with atomic_path(path) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for item in items:
            name = f"{item.image_id}.png"
            archive.add(folder / name, f"{SERVER_FOLDER}/{name}")


def require_weights(path: Path) -> Path:
    """Return `path` if it is a file. Raises UserError when it is not."""
    if not path.is_file():
        raise UserError(f"--model-path {path} is not a file; give a checkpoint, e.g. .../checkpoint_final.pth")
    return path
