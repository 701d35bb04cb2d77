"""Write the training labels as CDL's experts correct them, and score both beside ground truth where there is one.

    python -m deeplab refresh --config-path configs/voc12_coco_pretrain.yaml [--model-path checkpoint.pth] [key=value ...]
    torchrun --nproc_per_node=2 -m deeplab refresh --config-path configs/voc12_coco_pretrain.yaml ...

The rule is the training's (sections thresholds and cdl), on whole pictures at their own size. Without --model-path the weights
are checkpoint_final.pth of this experiment. Writes, below exp.output_dir, predictions/<exp.id>/<model>/<split.train>_refreshed/
<id>.png, to look at or to train on, and two stages of the report: the labels as given and as refreshed, class by class. A
stopped run continues.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.deeplab_schema import IGNORE_LABEL, PLAIN, DeepLabConfig
from deeplab.cdl import RefreshRule, refresh
from deeplab.dataset import CLASSES, check_items, training_labels
from deeplab.evaluation import describe, require_weights
from deeplab.inference import load_network
from deeplab.losses import resize_labels
from deeplab.network import Experts, MultiScale
from deeplab.outputs import TITLES, Confusion, experiment, final_weights, prepare, refreshed_dir, split_finished
from utils.config import flat_settings
from utils.data.classes import class_names, palette
from utils.data.images import image_size, read_label_map, write_png
from utils.data.items import Item, labelled_items, training_items
from utils.data.loading import whole_images
from utils.errors import UserError
from utils.evaluation.metrics import confusion_matrix
from utils.evaluation.scores import published_scores
from utils.files import lock_folder
from utils.runtime.cards import SEGMENTATION_TRAINING, StageCard, set_name, write_card
from utils.runtime.device import autocast_for, convolving
from utils.runtime.log import get_logger, progress
from utils.runtime.processes import Dist, barrier, setup, shard

Labels = NDArray[np.uint8]
Counts = tuple[Confusion, Confusion]  # of the labels as given and as refreshed


def run(cfg: DeepLabConfig, model_path: Path | None = None) -> dict[str, float]:
    """Refresh as configured; return mean IoU of the labels "given" and "refreshed" in [0, 1], nothing without ground truth.

    Raises:
        UserError: for method=plain, wrong input, naming the file, or weights that do not fit.
    """
    if cfg.method == PLAIN:
        raise UserError("method is plain, which has no experts to refresh labels; set method=cdl_b or method=cdl_e")
    path, folder, started = require_weights(model_path or final_weights(cfg)), refreshed_dir(cfg), time.monotonic()
    listed, sources = training_items(cfg.dataset, fully_supervised=cfg.fully_supervised)
    items = labelled_items(cfg.dataset, listed, fully_supervised=cfg.fully_supervised)
    check_items(items)
    with setup(cfg) as place, lock_folder(folder) if place.is_main else contextlib.nullcontext():
        rule = flat_settings(cfg)
        about = describe(cfg, place, path, crf=False) | {
            "Labels": [str(source) for source in sources],
            "Rule": {key: rule[key] for key in rule if key.startswith(("thresholds.", "cdl."))},
        }
        if place.is_main:
            prepare(folder, about, [".png"])
        barrier(place.world)
        done, todo = split_finished(shard(items, place.rank, place.world), folder, None)
        get_logger(rank=place.rank).info("%d images, %d of them finished before", len(done) + len(todo), len(done))
        counts = Confusion(cfg.dataset.num_classes), Confusion(cfg.dataset.num_classes)
        for item in done:
            given, new = _given(cfg, item), read_label_map(folder / f"{item.image_id}.png", cfg.dataset.num_classes)
            _count(cfg, item, given, new, counts)
        if todo:
            with torch.inference_mode():
                _refresh(cfg, load_network(cfg, path, place), todo, folder, place, counts)
        before, after = (each.total(place) for each in counts)
        if not place.is_main:
            return {}
        return _write_cards(cfg, before, after, sources, folder, len(items), time.monotonic() - started)


def _refresh(
    cfg: DeepLabConfig,
    network: MultiScale,
    items: Sequence[Item],
    folder: Path,
    place: Dist,
    counts: Counts,
) -> None:
    base, rule = cast(Experts, network.base), RefreshRule.of(cfg)
    loader = whole_images(
        items, cfg.image, batch_size=1, workers=cfg.dataloader.num_workers, pin_memory=place.device.type == "cuda"
    )
    for batch in progress(loader, len(items), "refresh", show=place.is_main):
        with autocast_for(cfg.precision, place.device), convolving(batch.alike, place.device):
            said = base.opinions(batch.images.to(place.device))
        first, second = (logits.float() for logits in said.logits)
        given = _given(cfg, batch.items[0])
        cells = resize_labels(_tensor(given, place), (first.shape[2], first.shape[3]))
        new = refresh(first, second, cells, said.features.float(), rule).labels
        changed = resize_labels(torch.where(new != cells, new, -1), given.shape)[0].cpu().numpy()
        labels = np.where(changed >= 0, changed, given).astype(np.uint8)
        _count(cfg, batch.items[0], given, labels, counts)
        write_png(folder / f"{batch.items[0].image_id}.png", labels, palette())


def _tensor(labels: Labels, place: Dist) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))[None].to(place.device)


def _given(cfg: DeepLabConfig, item: Item) -> Labels:
    return training_labels(item, cfg.dataset, image_size(item.image))


def _count(cfg: DeepLabConfig, item: Item, given: Labels, new: Labels, counts: Counts) -> None:
    """Count both where there is a given label, so that they are about the same pixels."""
    if item.truth is None:
        return
    truth = read_label_map(item.truth, cfg.dataset.num_classes, image_size(item.image), key=CLASSES)
    for labels, confusion in zip((given, np.where(given == IGNORE_LABEL, given, new)), counts, strict=True):
        confusion.add(confusion_matrix(truth, labels, cfg.dataset.num_classes))


def _write_cards(
    cfg: DeepLabConfig,
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    sources: Sequence[Path],
    folder: Path,
    images: int,
    seconds: float,
) -> dict[str, float]:
    split, names, found = set_name(cfg.dataset.split.train), class_names(cfg.dataset), {}
    gains = _gains(before, after, names)
    rows = [
        ("given", before, sources[0] if len(sources) == 1 else None, []),
        ("refreshed", after, folder, [("against the given labels", text) for text in gains]),
    ]
    for order, (kind, counts, maps, facts) in enumerate(rows, 1):
        score = published_scores(counts)["Mean IoU"] if counts.any() else None
        card = StageCard(
            key=f"deeplab_{kind}_{split}",
            title=f"Labels {kind}" if kind == "given" else f"Labels of {TITLES[cfg.method]}",
            program="deeplab refresh",
            order=SEGMENTATION_TRAINING + order,
            output=str(maps or folder),
            images=images,
            seconds=seconds,
            settings=flat_settings(cfg),
            facts=facts,
            split=split,
            maps=str(maps) if maps else "",
            mean_iou=score,
            names=list(names),
            confusion=counts.tolist() if counts.any() else (),
        )
        write_card(cfg.exp.output_dir, card, group=experiment(cfg))
        if score is not None:
            found[kind] = float(score)
    scores = ", ".join(f"{kind} {value:.2%}" for kind, value in found.items())
    print(f"refreshed labels in {folder}" + (f"; mIoU {scores}; {'; '.join(gains)}" if found else ""))
    return found


def _gains(before: NDArray[np.int64], after: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Return what each class won or lost in IoU, points, largest first."""
    ious: list[Mapping[str, Any]] = [published_scores(counts)["Class IoU"] for counts in (before, after)]
    pairs = [(name, ious[0][key], ious[1][key]) for name, key in zip(names, ious[0], strict=True)]
    gains = [(name, 100 * (new - old)) for name, old, new in pairs if old is not None and new is not None]
    return [f"{name} {gain:+.1f}" for name, gain in sorted(gains, key=lambda row: -row[1]) if gain == gain]
