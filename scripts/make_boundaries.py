"""Write what IRNet says of pictures: the boundaries its random walk follows, and displacements to the centres of objects.

    python -m scripts.make_boundaries --config configs/irn_voc.yaml [key=value ...]             # one GPU, or the CPU
    torchrun --nproc_per_node=2 -m scripts.make_boundaries --config configs/irn_voc.yaml        # two GPUs share the list
    python -m scripts.make_boundaries --config configs/irn_voc.yaml boundaries.checkpoint=sess/res50_irn.pth

Reads the images of boundaries.image_list. Writes <boundaries.dir>/<id>.npz: boundary (h, w) in [0, 1], one value for 4 x 4
pixels, and with boundaries.displacements=true displacement (2, h, w). Once written they serve scripts.gen_gt and
scripts.refine_cams (random_walk) and scripts.make_instances, on any number of processes. Finished images are skipped, so a
stopped run continues.
"""

import contextlib
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from configs.schema import Config
from models.irn import IrnSettings, boundary_fields
from models.layers.lean import INFERENCE_FORMAT
from scripts.build import build_boundary_network, parse_args
from utils.cams.refinement import boundary_path, write_boundary
from utils.cams.store import checksum
from utils.config import flat_settings
from utils.data.lists import read_id_list
from utils.data.loading import build_loader
from utils.errors import run_program
from utils.files import lock_folder
from utils.runtime.cards import CAMS, StageCard, own_name, set_name, write_card
from utils.runtime.device import autocast_for
from utils.runtime.log import get_logger, progress
from utils.runtime.processes import Dist, barrier, setup, shard
from utils.runtime.provenance import claim_folder
from utils.training.weights import load_weights, read_weights


def main(argv: list[str]) -> None:
    """Parse the command line and write boundaries."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> int:
    """Write boundaries; returns how many pictures this process did. Raises UserError for wrong input or a folder of others."""
    folder, started = Path(cfg.boundaries.dir), time.monotonic()
    ids = read_id_list(cfg.boundaries.image_list)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(setup(cfg))
        if place.is_main:
            stack.enter_context(lock_folder(folder))
        network = _load_network(cfg, place)
        if place.is_main:
            _claim(cfg, folder)
        barrier(place.world)  # nobody starts before the folder is known to be free and consistent
        mine = shard(ids, place.rank, place.world)
        todo = [i for i in mine if cfg.boundaries.overwrite or not zipfile.is_zipfile(boundary_path(folder, i))]
        get_logger(rank=place.rank).info("%d images to do on %s, %d process(es)", len(todo), place.device, place.world)
        done = sum(progress(_boundaries(cfg, place, network, todo), len(todo), "boundaries", show=place.is_main))
        barrier(place.world)
        if place.is_main and done:
            _write_card(cfg, len(ids), time.monotonic() - started)
        print(f"boundaries of {done} images in {folder}, {len(mine) - done} were finished before")
    return done


def _load_network(cfg: Config, place: Dist) -> nn.Module:
    network = build_boundary_network(cfg)
    load_weights(network, read_weights(cfg.boundaries.checkpoint), source=cfg.boundaries.checkpoint)
    return network.eval().to(place.device).to(memory_format=INFERENCE_FORMAT)


def _claim(cfg: Config, folder: Path) -> None:
    settings = cast(IrnSettings, cfg.settings)
    source = {
        "checkpoint": checksum(Path(cfg.boundaries.checkpoint)),
        "displacements": cfg.boundaries.displacements,
        "pad_size": settings.pad_size,
        "mean": list(cfg.data.mean),
        "std": list(cfg.data.std),
    }
    claim_folder(folder, source, "boundaries.dir", overwrite=cfg.boundaries.overwrite)


def _boundaries(cfg: Config, place: Dist, network: nn.Module, ids: list[str]) -> Iterator[int]:
    """Look at pictures and write what is found; yields 1 for each."""
    pad_size, folder = cast(IrnSettings, cfg.settings).pad_size, Path(cfg.boundaries.dir)
    cam = replace(cfg.cam, scales=[1.0], batch_size=cfg.boundaries.batch_size)
    data = replace(cfg.data, infer_list=cfg.boundaries.image_list)
    loader = build_loader(data, cam, dict.fromkeys(ids, ()), pin_memory=place.device.type == "cuda") if ids else ()
    for batch in loader:
        images = batch.scales[0].to(place.device, non_blocking=True).contiguous(memory_format=INFERENCE_FORMAT)
        with torch.inference_mode(), autocast_for(cfg.precision, place.device):
            found = [field.cpu().numpy() for field in boundary_fields(network, images, pad_size)]
        for image_id, boundary, moved in zip(batch.ids, *found, strict=True):
            write_boundary(boundary_path(folder, image_id), boundary[0], moved if cfg.boundaries.displacements else None)
            yield 1


def _write_card(cfg: Config, images: int, seconds: float) -> None:
    split = set_name(cfg.boundaries.image_list)
    name = own_name(f"boundaries_{split}", "Boundaries", cfg.run_dir, [cfg.boundaries.dir], ("boundaries", split))
    card = StageCard(*name, "scripts.make_boundaries", CAMS, cfg.boundaries.dir, images, seconds, split=split)
    card.settings = flat_settings(cfg)
    write_card(cfg.run_dir, card)


if __name__ == "__main__":
    run_program(main)
