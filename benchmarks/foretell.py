"""How long both stages will take on this CPU, before they start: a few steps of each are measured, and multiplied.

    python -m benchmarks.foretell --config data/mine/config.yaml [key=value ...] \\
        -- --config-path configs/own_pictures_cpu_dplv2.yaml [key=value ...]

Weights are random: none are fetched or read. A GPU is too quick to be told this way; its runs show an ETA of their own.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import cast

import torch

from configs.deeplab_schema import DeepLabConfig
from configs.schema import Config
from deeplab.network import build_deeplab
from deeplab.settings import parse_args as parse_segmentation
from models.method import Batch
from scripts.build import build_inference_network, build_method
from scripts.build import parse_args as parse_first_stage
from utils.data.folder import DataFolder
from utils.data.images import read_image
from utils.data.lists import read_id_list
from utils.data.paste import collate_views
from utils.data.samples import ViewDataset
from utils.errors import UserError, run_program
from utils.runtime.device import set_up_torch
from utils.runtime.log import format_seconds
from utils.training.plan import batches_of

MEASURED = 2


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print one line."""
    if "--" not in argv:
        raise UserError("expected the first stage's arguments, --, and the segmentation stage's")
    border = argv.index("--")
    print(foretell(parse_first_stage(argv[:border], __doc__ or ""), parse_segmentation(argv[border + 1 :], __doc__ or "")))


def foretell(cfg: Config, stage: DeepLabConfig) -> str:
    """Return one sentence: the time of training, CAMs and segmentation network."""
    set_up_torch(cfg)
    torch.manual_seed(0)
    seconds = {"training": training(cfg), "CAMs": cams(cfg), "segmentation network": segmentation(stage)}
    parts = ", ".join(f"{name} {format_seconds(value)}" for name, value in seconds.items())
    return f"on this CPU it will take about {format_seconds(sum(seconds.values()))} in all (h:mm:ss; {parts})"


def training(cfg: Config) -> float:
    """Return seconds of all steps of all phases."""
    dataset = ViewDataset(cfg.data, cfg.settings, cfg.seed)
    method = build_method(cfg, torch.device("cpu"), initial=False).train()
    size = min(cfg.train.batch_size, len(dataset))
    started = time.perf_counter()
    batch = collate_views([dataset[(0, index)] for index in range(size)])
    loading = time.perf_counter() - started
    per_epoch = batches_of(len(dataset), cfg.train.batch_size, drop_last=cfg.train.drop_last)
    total = 0.0
    for phase in method.phases():
        module = method.step_module(phase)
        total += (phase.end - phase.start) * per_epoch * (loading + per_call(partial(_train, module, cast(Batch, batch))))
    return total


def cams(cfg: Config) -> float:
    """Return seconds of the score maps of all pictures, by the size of the first."""
    data = DataFolder.of(cfg.data, cfg.data.infer_list)
    network = build_inference_network(cfg).eval()
    ids = read_id_list(cfg.data.infer_list)
    width, height = read_image(data.image(ids[0])).size
    seconds = 0.0
    for scale in cfg.cam.scales:
        picture = torch.rand(1, 3, round(height * scale), round(width * scale))
        with torch.no_grad():
            seconds += per_call(partial(network, picture)) * (1 + cfg.cam.flip)
    return seconds * len(ids)


def segmentation(cfg: DeepLabConfig) -> float:
    """Return seconds of all steps of the segmentation network's training."""
    network, solver, side = build_deeplab(cfg).train(), cfg.solver, cfg.image.size.train
    images = torch.rand(solver.batch_size.train, 3, side, side)
    return per_call(partial(_fit, network, images)) * solver.iter_max * solver.iter_size


def per_call(call: Callable[[], object]) -> float:
    """Return seconds of a call: the mean after a first one that counts for nothing."""
    call()
    started = time.perf_counter()
    for _ in range(MEASURED):
        call()
    return (time.perf_counter() - started) / MEASURED


def _train(module: torch.nn.Module, batch: Batch) -> None:
    module(batch)["loss"].backward()


def _fit(network: torch.nn.Module, images: torch.Tensor) -> None:
    torch.stack([logits.square().mean() for logits in network(images)]).sum().backward()


if __name__ == "__main__":
    run_program(main)
