"""A table of what the presets ask of a GPU, as `--estimate` of both trainings tells it one by one: arithmetic, no measurement.

python -m benchmarks.estimates [configs/<name>.yaml ...]
python -m benchmarks.estimates --measure [...]   # beside it what a step on this GPU takes: memory, and time without loading
"""

import gc
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from configs.deeplab_schema import DeepLabConfig
from configs.schema import Config, ValidationConfig
from deeplab import train as segmentation
from deeplab.dataset import blank_batch as blank_crops
from deeplab.network import build_deeplab
from deeplab.settings import deeplab_schema
from scripts import train as classification
from scripts.build import build_method, config_schema
from utils.config import load_schema
from utils.data.samples import blank_batch
from utils.errors import UserError, run_program
from utils.runtime.device import set_up_torch
from utils.runtime.processes import Dist, StopRequest
from utils.training.estimate import CARDS, GIBIBYTE, Estimate, Unread
from utils.training.trainer import Trainer, to_device

PRESETS = (
    "l2g_voc", "l2g_voc_improved", "l2g_voc_resnet101", "l2g_voc_sa_cda", "l2g_coco", "wsfcn_voc", "wsfcn_voc_improved",
    "onestage_voc_resnet38", "crt_voc", "crt_voc_improved", "irn_voc", "wsol_cub", "voc12_resnet_dplv2",
    "voc12_resnet_dplv2_improved", "coco_resnet_dplv2", "voc12_coco_pretrain", "voc12_imageNet_pretrain", "voc12_cdl_improved",
)  # fmt: skip
COLUMNS = ("preset", "precision", "images", "parameters", "peak", "kept activations", "PFLOP", *CARDS)


STEPS = 3
MEASURED = ("measured peak GiB", "ms a mini-batch", "measured hours")


def main(argv: list[str]) -> None:
    """Print a row a configuration."""
    paths = [each for each in argv if each != "--measure"] or [f"configs/{name}.yaml" for name in PRESETS]
    read_in = [read(path) for path in paths]
    # All of them first: an estimate leaves tensors without values in caches.
    beside = [measured(cfg, torch.device("cuda")) for cfg in read_in] if "--measure" in argv else []
    columns = COLUMNS + (MEASURED if beside else ())
    print("|", " | ".join(columns), "|")
    print("|" + " --- |" * len(columns))
    for number, (path, cfg) in enumerate(zip(paths, read_in, strict=True)):
        found = classification.estimated(cfg) if isinstance(cfg, Config) else segmentation.estimated(cfg)
        print("|", " | ".join(row(Path(path).stem, found) + (beside[number] if beside else [])), "|", flush=True)


def read(path: str) -> Config | DeepLabConfig:
    """Return the configuration, of either stage."""
    try:
        cfg: Config = load_schema(path, None, config_schema)
    except UserError:  # of the other stage, or of none
        stage: DeepLabConfig = load_schema(path, None, deeplab_schema)
        return stage
    return cfg


def measured(cfg: Config | DeepLabConfig, device: torch.device) -> list[str]:
    """Return the cells of `MEASURED`: random weights, black pictures, the last phase, after steps that warm up."""
    trainer, batch = prepared(cfg, device)
    plan, state = trainer.course.plan, trainer.state
    state.position = plan.spans[-1].start
    trainer.enter_phase()
    first, behind = plan.window(state.position)
    seen = {**to_device(batch, device), "share": 1.0, "step": plan.step(state.position)[0]}
    for _measured in (False, True):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        for _ in range(STEPS):
            trainer.backward(seen, window=behind - first, steps=True)
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize(device)
        seconds, peak = (time.perf_counter() - started) / STEPS, torch.cuda.max_memory_allocated(device)
    steps = plan.stop - plan.start
    known = not getattr(trainer.course.dataset, "note", "")
    del trainer, state, seen
    gc.collect()
    torch.cuda.empty_cache()
    return [f"{peak / GIBIBYTE:.1f}", f"{seconds * 1e3:.0f}", f"{seconds * steps / 3600:.1f}" if known else "–"]


def prepared(cfg: Config | DeepLabConfig, device: torch.device) -> tuple[Trainer, dict[str, Any]]:
    """Return a training at its beginning, with random weights, and a mini-batch of black pictures."""
    place, log = Dist(rank=0, world=1, local_rank=0, device=device), logging.getLogger("estimates")
    set_up_torch(cfg)
    torch.backends.cudnn.benchmark = True
    if isinstance(cfg, Config):
        cfg = replace(cfg, compile=False, validation=ValidationConfig())
        method, listed = build_method(cfg, device, initial=False), Unread(cfg.data.train_list)
        course = classification.build_course(cfg, method, listed)
        state = classification.build_state(cfg, method, listed, course.plan)
        trainer = Trainer(method, course, state, place, StopRequest(), log)
        return trainer, blank_batch(cfg.data, cfg.settings, min(course.plan.batch_size, course.plan.images))
    network, listed = build_deeplab(cfg).to(device), Unread(cfg.dataset.train_list)
    trained, course = segmentation.Segmentation(cfg, network, place), segmentation.build_course(cfg, listed)
    trainer = Trainer(trained, course, segmentation.build_state(cfg, network, []), place, StopRequest(), log)
    return trainer, blank_crops(cfg, course.plan.batch_size)


def row(name: str, found: Estimate) -> list[str]:
    """Return the cells of a row; hours are left out where the list is not there."""
    memory = found.memory
    hours = ["–" if found.note else f"{found.seconds(card) / 3600:.1f}" for card in CARDS.values()]
    return [
        f"`{name}`",
        found.precision,
        str(found.images),
        f"{found.parameters / 1e6:.0f}",
        f"{memory.peak / GIBIBYTE:.1f}",
        f"{memory.activations / GIBIBYTE:.1f}",
        "–" if found.note else f"{found.flops / 1e15:.0f}",
        *hours,
    ]


if __name__ == "__main__":
    run_program(main)
