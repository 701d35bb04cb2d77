"""Write class activation maps: the mean over scales and mirror images, one PNG per image and present class.

    python -m scripts.make_cams --config configs/l2g_voc.yaml [key=value ...]                  # one GPU, or the CPU
    torchrun --nproc_per_node=2 -m scripts.make_cams --config configs/l2g_voc.yaml             # two GPUs share the list
    python -m scripts.make_cams --config configs/l2g_voc.yaml cam.checkpoint=their_epoch_9.pth cam.scales=[1.0] cam.flip=false
    python -m scripts.make_cams --config configs/l2g_voc.yaml data.infer_list=mine.txt cam.labels=predict

Reads the images of data.infer_list. Writes <cam.dir>/<id>_<class>.png (8-bit grey, class 0-based), or with cam.format=npz
<cam.dir>/<id>.npz (float32), label maps <cam.label_dir>/<id>.png (palette PNGs, 0 background, class + 1), and beside cam.dir
infer.json (counts) and infer.yaml (configuration).
Finished images are skipped unless cam.overwrite=true, so a stopped run continues with the same command.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs.schema import Config
from models.layers.lean import INFERENCE_FORMAT
from scripts.build import build_inference_network, compile_inference, parse_args
from utils.cams.inference import CamSettings, infer_batch
from utils.cams.store import CamWriter, claim, describe_source, unfinished
from utils.config import flat_settings, save_config
from utils.data.folder import DataFolder, read_labels
from utils.data.loading import SizedBatch, build_loader
from utils.errors import run_program, user_errors
from utils.files import lock_folder, write_text_atomic
from utils.runtime.cards import CAMS, StageCard, own_name, set_name, write_card
from utils.runtime.device import autocast_for, convolving
from utils.runtime.log import get_logger, progress
from utils.runtime.processes import Dist, barrier, setup, shard, sum_over_ranks
from utils.training.meters import Waiting
from utils.training.weights import load_weights, read_weights


def main(argv: list[str]) -> None:
    """Parse the command line and write CAMs."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> dict[str, Any]:
    """Write CAMs; returns what infer.json holds (counts over all processes). Raises UserError for wrong input."""
    _check(cfg)
    images = read_labels(cfg.data, cfg.data.infer_list, labels_required=cfg.cam.labels == "list")
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(setup(cfg))
        if place.is_main:
            stack.enter_context(lock_folder(Path(cfg.cam.dir)))
        network = _load_network(cfg, place)
        if place.is_main:
            claim(cfg, describe_source(cfg), images)
        barrier(place.world)  # nobody starts before the folder is known to be free and consistent
        mine = shard(list(images.items()), place.rank, place.world)
        todo = unfinished(cfg, mine)
        started = time.monotonic()
        cams, waited = _write_cams(cfg, place, network, dict(todo))
        counts = _totals([len(mine), len(mine) - len(todo), len(todo), cams], place)
        result = {**_summary(cfg, counts, time.monotonic() - started), "loader_wait": waited}
        if place.is_main:
            _report(cfg, result)
    return result


def _check(cfg: Config) -> None:
    """Refuse label maps that would replace inputs."""
    if cfg.cam.label_dir:
        DataFolder.of(cfg.data, cfg.data.infer_list).refuse_output(Path(cfg.cam.label_dir), "cam.label_dir")


def _load_network(cfg: Config, place: Dist) -> nn.Module:
    network = build_inference_network(cfg, cfg.cam.network)
    checkpoint = cfg.cam.checkpoint
    load_weights(network, read_weights(checkpoint, network=cfg.cam.network), source=checkpoint)
    network = network.eval().to(place.device).to(memory_format=INFERENCE_FORMAT)
    if cfg.compile:
        compile_inference(network, place.device)
    return network


def _write_cams(cfg: Config, place: Dist, network: nn.Module, todo: dict[str, tuple[int, ...]]) -> tuple[int, float | None]:
    """Write the CAMs of id -> classes; returns how many, and the part of the time this process waited for pictures."""
    label_dir = Path(cfg.cam.label_dir) if cfg.cam.label_dir else None
    for folder in (Path(cfg.cam.dir), label_dir):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    log = get_logger(rank=place.rank)
    log.info("%d images to do on %s, %d process(es)", len(todo), place.device, place.world)
    if not todo:
        return 0, None
    loader = Waiting(build_loader(cfg.data, cfg.cam, todo, pin_memory=place.device.type == "cuda"))
    refine_dir = Path(cfg.cam.refine_dir) if cfg.cam.refine_dir else None
    npz = cfg.cam.format == "npz"
    with CamWriter(Path(cfg.cam.dir), label_dir, npz=npz, refine_dir=refine_dir) as writer, torch.inference_mode():
        written = _images(cfg, place, network, loader, writer)
        return sum(progress(written, len(todo), "CAMs", show=place.is_main)), round(loader.share(), 3)


def _images(cfg: Config, place: Dist, network: nn.Module, loader: Iterable[SizedBatch], writer: CamWriter) -> Iterator[int]:
    """Infer and queue for writing; yields each image's number of CAMs."""
    cam, masks = cfg.cam, cfg.cam.merge == "mean"
    settings = CamSettings(
        flip=cam.flip,
        score_threshold=cam.score_threshold if cam.labels == "predict" else None,
        label_threshold=cam.label_threshold if cam.label_dir else None,
        refine=bool(cam.refine_dir),
        background=cfg.data.num_classes if masks or cam.activation == "softmax" else None,
        masks=masks,
        summed=cam.merge == "sum",
        label_power=cam.label_power,
        pad_size=tuple(cam.pad_size),
        crop_size=tuple(cam.crop_size),
        crop_grid=tuple(cam.crop_grid),
        any_view=cam.score_views == "any",
        top=cam.top,
        native=cam.size == "network",
    )
    for batch in loader:
        scales = [s.to(place.device, non_blocking=True).contiguous(memory_format=INFERENCE_FORMAT) for s in batch.scales]
        precision = autocast_for(cfg.precision, place.device)
        with user_errors(), convolving(batch.alike, place.device):
            done = infer_batch(network, scales, batch.size, batch.classes, settings, precision)
        for image_id, image in zip(batch.ids, done, strict=True):
            writer.write(image_id, image)
            yield len(image.classes)


def _totals(counts: list[int], place: Dist) -> list[int]:
    values = torch.tensor(counts, device=place.device)
    return [int(v) for v in sum_over_ranks(values, place.world).tolist()]


def _summary(cfg: Config, counts: list[int], seconds: float) -> dict[str, Any]:
    images, skipped, done, cams = counts
    return {
        "images": images,
        "skipped": skipped,
        "done": done,
        "cams_written": cams,
        "seconds": round(seconds, 1),
        "images_per_second": round(done / seconds, 2) if done else None,
        "checkpoint": cfg.cam.checkpoint,
        "network": cfg.cam.network,
        "scales": list(cfg.cam.scales),
        "flip": cfg.cam.flip,
        "labels": cfg.cam.labels,
    }


def _report(cfg: Config, result: dict[str, Any]) -> None:
    out = Path(cfg.cam.dir).parent / "infer.json"
    write_text_atomic(out, json.dumps(result, indent=2) + "\n")
    save_config(cfg, out.with_suffix(".yaml"))
    split = set_name(cfg.data.infer_list)
    name = own_name(f"cams_{split}", "CAM inference", cfg.run_dir, [cfg.cam.dir], ("ms", "attention", split))
    card = StageCard(*name, "scripts.make_cams", CAMS, cfg.cam.dir, result["done"], result["seconds"], split=split)
    card.settings = flat_settings(cfg)
    write_card(cfg.run_dir, card, keep=result["done"] == 0)
    print(
        f"{result['cams_written']} CAMs of {result['done']} images in {cfg.cam.dir} ({result['skipped']} images were "
        f"finished before), {result['seconds']} s"
    )


if __name__ == "__main__":
    run_program(main)
