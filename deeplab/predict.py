"""Test a segmentation network: palette PNGs of the predictions, scores against ground truth, logits if asked for.

    python -m deeplab test --config-path configs/voc12_resnet_dplv2.yaml [--model-path checkpoint.pth] [key=value ...]
    torchrun --nproc_per_node=2 -m deeplab test --config-path configs/voc12_resnet_dplv2.yaml ...

Without --model-path the weights are checkpoint_final.pth of this experiment. Writes, below exp.output_dir (<place> is
<exp.id>/<model>/<split.val>): scores/<place>/scores.json (published keys, and class names, confusion matrix, settings), a
table and a picture of the confusion; predictions/<place>/<id>.png; with test.save_logits, features/<place>/logit/<id>.npy.
Predictions that are there already, made by the same weights and settings, are not made again. With test.unlabelled=true
there are no scores but an archive for the VOC test server.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from configs.deeplab_schema import DeepLabConfig
from deeplab.evaluation import evaluate, logits_to_save, require_weights
from deeplab.inference import infer, load_network
from deeplab.labelling import Labelling
from deeplab.outputs import Confusion, final_weights, settle, write_logits
from utils.data.images import image_size
from utils.data.items import Item
from utils.runtime.log import progress
from utils.runtime.parallel import BoundedPool, HostCopy
from utils.runtime.processes import Dist, setup


def run(cfg: DeepLabConfig, model_path: Path | None = None) -> dict[str, Any]:
    """Test; returns what scores.json holds, nothing without labels or on later processes. Raises UserError for wrong input."""
    path = require_weights(model_path or final_weights(cfg))
    labelling = Labelling.of(cfg)
    with setup(cfg) as place:
        return evaluate(cfg, place, path, crf=False, work=partial(_predict, cfg, labelling, path, place))


def _predict(
    cfg: DeepLabConfig,
    labelling: Labelling,
    path: Path,
    place: Dist,
    items: list[Item],
    folder: Path | None,
    confusion: Confusion,
) -> None:
    network = load_network(cfg, path, place)
    saved = logits_to_save(cfg)
    inferred = progress(infer(cfg, network, items, place), len(items), "test", show=place.is_main)
    with BoundedPool() as pool:
        for item, logits in inferred:
            width, height = image_size(item.image)
            with torch.inference_mode():
                labels = labelling.labels(item.image_id, logits, (height, width))
            keep = [labels] if saved is None else [labels, logits]
            pool.submit(_finish, cfg, labelling, item, HostCopy(keep), folder, saved, confusion)


def _finish(
    cfg: DeepLabConfig,
    labelling: Labelling,
    item: Item,
    copy: HostCopy,
    folder: Path | None,
    saved: Path | None,
    confusion: Confusion,
) -> None:
    labels, *logits = copy.wait()
    if saved is not None:
        write_logits(saved, item.image_id, logits[0], cfg.test.save_logits)
    confusion.add(settle(item, labelling.filled(item, labels.numpy()), num_classes=cfg.dataset.num_classes, folder=folder))
