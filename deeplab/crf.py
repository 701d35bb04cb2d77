"""Refine a network's predictions by a dense CRF, or any refiner, and score them; no logits need to be on disk.

    python -m deeplab crf --config-path configs/voc12_resnet_dplv2.yaml [--model-path checkpoint.pth] [key=value ...]
    python -m deeplab crf --config-path configs/voc12_resnet_dplv2.yaml crf.image=true crf.backend=torch
    python -m deeplab crf --config-path configs/voc12_resnet_dplv2.yaml refine=NAME        # see models/refiners

Logits come from the files `test` left (test.save_logits) where all are there and of these weights, else from the network:
without --model-path, of checkpoint_final.pth. Network, CRF, writing and scoring overlap: on a CPU the CRF runs on crf.workers
processes of one thread each; on a GPU (backend torch) in batches beside the network. Writes scores_crf.json, its table and
picture, and predictions/<exp.id>/<model>/<split.val>_crf/<id>.png; a stopped run continues.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.deeplab_schema import DeepLabConfig
from deeplab.evaluation import build_configured, evaluate, require_weights, usable_logits
from deeplab.inference import infer, load_network
from deeplab.labelling import Labelling
from deeplab.outputs import Confusion, final_weights, find_logits, read_logits, settle
from models.refiners import Chain, Refiner
from models.refiners.dense_crf import DenseCrf
from utils.data.images import read_image
from utils.data.items import Item
from utils.runtime.log import progress
from utils.runtime.parallel import BoundedPool, HostCopy, cores, map_progress
from utils.runtime.processes import Dist, setup

# Images refined at once on a GPU.
GPU_BATCH = 8

Task = tuple[Item, "Path | NDArray[np.float32]", Labelling]


def run(cfg: DeepLabConfig, model_path: Path | None = None) -> dict[str, Any]:
    """Refine and score; returns what scores_crf.json holds. Raises UserError when there are neither logits nor weights."""
    labelling = Labelling.of(cfg)
    with setup(cfg) as place:
        refiner = build_configured(cfg, place)
        path = model_path or final_weights(cfg)
        recorded = path if path.is_file() else None
        work = partial(_refine_all, cfg, refiner, labelling, path, usable_logits(cfg, place, recorded), place)
        return evaluate(cfg, place, recorded, crf=True, work=work)


def refined_labels(
    refiner: Refiner | Chain, logits: Tensor, image: NDArray[np.uint8], labelling: Labelling, image_id: str = ""
) -> NDArray[np.uint8]:
    """Return the (H, W) label map a refiner makes of (classes, h, w) logits and an (H, W, 3) RGB picture."""
    probabilities = labelling.probabilities(image_id, logits, (image.shape[0], image.shape[1]))
    refined = torch.from_numpy(refiner.refine(probabilities.numpy(), image))
    return np.asarray(labelling.decide(image_id, refined).numpy())


def _refine_all(
    cfg: DeepLabConfig,
    refiner: Refiner | Chain,
    labelling: Labelling,
    path: Path,
    saved: Path | None,
    place: Dist,
    items: list[Item],
    folder: Path | None,
    confusion: Confusion,
) -> None:
    """Refine `items`: logits from the files in `saved` where all are there, else from the network with weights `path`."""
    found = {} if saved is None else {item.image_id: find_logits(saved, item.image_id) for item in items}
    files = {image_id: file for image_id, file in found.items() if file is not None}
    logits: Iterable[tuple[Item, Any]]
    if len(files) == len(items):
        logits = ((item, files[item.image_id]) for item in items)
    else:
        network = load_network(cfg, require_weights(path), place)
        logits = infer(cfg, network, items, place)
    if place.device.type == "cuda" and isinstance(refiner, DenseCrf) and refiner.backend == "torch":
        _on_gpu(labelling, refiner, place, progress(logits, len(items), "CRF", show=place.is_main), folder, confusion)
        return
    sources = ((item, one if isinstance(one, Path) else one.float().cpu().numpy()) for item, one in logits)
    tasks = ((item, source, labelling.of_image(item.image_id)) for item, source in sources)
    work = partial(_refine_one, refiner, folder)
    workers = cfg.crf.workers or max(1, cores() // place.world)
    for counts in map_progress(work, tasks, workers=workers, what="CRF", total=len(items)):
        confusion.add(counts)


def _refine_one(refiner: Refiner | Chain, folder: Path | None, task: Task) -> NDArray[np.int64]:
    item, source, labelling = task
    num_classes = labelling.num_classes
    logits = read_logits(source, num_classes) if isinstance(source, Path) else torch.from_numpy(source)
    labels = refined_labels(refiner, logits, _read_picture(item), labelling, item.image_id)
    return settle(item, labelling.filled(item, labels), num_classes=num_classes, folder=folder)


def _on_gpu(
    labelling: Labelling,
    crf: DenseCrf,
    place: Dist,
    logits: Iterator[tuple[Item, Any]],
    folder: Path | None,
    confusion: Confusion,
) -> None:
    num_classes = labelling.num_classes

    def finish(item: Item, copy: HostCopy) -> None:
        confusion.add(settle(item, labelling.filled(item, copy.wait()[0].numpy()), num_classes=num_classes, folder=folder))

    with BoundedPool() as pool, ThreadPoolExecutor(GPU_BATCH) as readers:
        # Pictures are decoded while the batch's further logits are made or read.
        read = ((item, one, readers.submit(_read_picture, item)) for item, one in logits)
        while batch := list(islice(read, GPU_BATCH)):
            values = [_on_device(one, num_classes, place) for _, one, _ in batch]
            ids = [item.image_id for item, *_ in batch]
            labels = _batch_labels(crf, values, [picture.result() for *_, picture in batch], labelling, ids)
            for (item, *_), one in zip(batch, labels, strict=True):
                pool.submit(finish, item, HostCopy([one]))


def _read_picture(item: Item) -> NDArray[np.uint8]:
    return np.asarray(read_image(item.image))


def _on_device(source: "Path | Tensor", num_classes: int, place: Dist) -> Tensor:
    return read_logits(source, num_classes).to(place.device) if isinstance(source, Path) else source


def _batch_labels(
    crf: DenseCrf, logits: Sequence[Tensor], pictures: Sequence[NDArray[np.uint8]], labelling: Labelling, ids: Sequence[str]
) -> list[Tensor]:
    with torch.inference_mode():
        sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        probabilities = [labelling.probabilities(*parts) for parts in zip(ids, logits, sizes, strict=True)]
        return [labelling.decide(name, refined) for name, refined in zip(ids, crf.batch(probabilities, pictures), strict=True)]
