"""Measure the segmentation stage against a plain version of the published procedure: same inputs, same weights, same run.

    python -m benchmarks.deeplab_speed                  # sizes that a CPU does in some minutes
    python -m benchmarks.deeplab_speed --size gpu       # batch 10 at 321 px, on the first GPU
    python -m benchmarks.deeplab_speed --size tiny      # seconds; checks the program, measures nothing

Prints a Markdown table of medians (the two versions take turns), and what 20 000 iterations take at that rate.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import plain_deeplab, plain_segment
from benchmarks.l2g_inputs import make_deeplab, write_files
from benchmarks.measure import Row, machine_line, projection, table, time_both
from configs.deeplab_schema import DeepLabConfig, SolverConfig
from deeplab.dataset import CropDataset
from deeplab.inference import image_logits
from deeplab.labelling import Labelling
from deeplab.losses import LossModule
from deeplab.network import MultiScale, segmentation_groups
from models.layers.lean import INFERENCE_FORMAT, training_format
from utils.data.items import Item
from utils.data.samplers import sample_rng
from utils.evaluation.metrics import confusion_matrix
from utils.runtime.device import autocast_for
from utils.training.optim import build_optimizer

CLASSES, IGNORED = 21, 255
# 20 000 iterations of two mini-batches of 5, which is one of 10; images of val.
ITERATIONS, VAL_IMAGES = 20_000, 1449
STEP_GOAL_GPU = 4
SAMPLES = 10


@dataclass(frozen=True)
class Size:
    """Bottlenecks a stage, images a step, crop side, (H, W) of tested images, (H, W, crop side) of loaded samples.

    `full` allows a projection.
    """

    device: str
    blocks: tuple[int, ...]
    batch: int
    crop: int
    image: tuple[int, int]
    sample: tuple[int, int, int]
    full: bool = False


SIZES = {
    "cpu": Size("cpu", (3, 4, 23, 3), 2, 129, (188, 250), (375, 500, 321)),
    "gpu": Size("cuda", (3, 4, 23, 3), 10, 321, (375, 500), (375, 500, 321), full=True),
    "tiny": Size("cpu", (1, 1, 1, 1), 2, 33, (40, 52), (40, 52, 33)),
}


def run(name: str, *, repeat: int, precision: str = "auto") -> list[Row]:
    """Measure all parts at one of `SIZES`."""
    size = SIZES[name]
    return [*_sample(size, repeat), *_step(size, repeat, precision), *_test(size, repeat, precision)]


def _sample(size: Size, repeat: int) -> Iterator[Row]:
    """Load training samples as one loader process does, JPEG and label PNG to finished tensors; both draw alike."""
    cfg = DeepLabConfig()
    height, width, crop = size.sample
    cfg.image.size.train = crop
    with tempfile.TemporaryDirectory(prefix="deeplab_speed_") as folder:
        root = Path(folder)
        names = list(write_files(root, SAMPLES, (width, height), CLASSES - 1))
        items = [Item(n, root / f"JPEGImages/{n}.jpg", root / f"SegmentationClassAug/{n}.png") for n in names]
        dataset, crops = CropDataset(items, cfg.dataset, cfg.image, seed=0), plain_segment.Crops(root, names, crop)

        def plain() -> list[tuple[Tensor, Tensor]]:
            return [crops.load(index, sample_rng(0, 0, index).python) for index in range(SAMPLES)]

        def ours() -> list[dict[str, Any]]:
            return [dataset[0, index] for index in range(SAMPLES)]

        pairs = list(zip(plain(), ours(), strict=True))
        difference = max(float((a - b["images"]).abs().max()) for (a, _), b in pairs)
        labels = sum(int((a != b["labels"]).sum()) for (_, a), b in pairs)
        timing = time_both(plain, ours, repeat=repeat, device=torch.device("cpu")).per_unit(SAMPLES)
    what = f"training sample, {width}x{height}, {crop} px crop, one process"
    yield Row(what, timing, f"{difference:.1e} grey levels, {labels} labels", runs=size.batch * ITERATIONS if size.full else 0)


def _network(size: Size) -> tuple[MultiScale, dict[str, Tensor]]:
    network = make_deeplab(list(size.blocks), torch.device(size.device))
    return network, {key: value.clone() for key, value in network.base.state_dict().items()}


def _step(size: Size, repeat: int, precision: str) -> Iterator[Row]:
    device = torch.device(size.device)
    network, weights = _network(size)
    layout = training_format(network, device)
    network.to(memory_format=layout)
    generator = torch.Generator().manual_seed(1)
    images = 50 * torch.randn(size.batch, 3, size.crop, size.crop, generator=generator)
    labels = torch.randint(0, CLASSES, (size.batch, size.crop, size.crop), generator=generator)
    trainer = plain_deeplab.Trainer(weights, size.blocks)
    module = LossModule(network, balanced=False, reduce_counts=lambda counts: counts).train()
    solver = SolverConfig()
    groups = segmentation_groups(network, solver.weight_decay)
    optimizer = build_optimizer(groups, kind="sgd", lr=solver.lr, weight_decay=0.0, momentum=solver.momentum)
    torch.backends.cudnn.benchmark = True

    def ours() -> Tensor:
        moved = images.to(device, non_blocking=True, memory_format=layout)
        optimizer.zero_grad(set_to_none=True)
        with autocast_for(precision, device):
            loss: Tensor = module({"images": moved, "labels": labels.to(device, non_blocking=True), "share": 1.0})["loss"]
        loss.backward()
        optimizer.step()
        return loss.detach()

    def plain() -> float:
        return trainer.step(images.to(device), labels)

    first, second = plain(), ours().item()
    timing = time_both(plain, ours, repeat=repeat, device=device)
    what = f"training step, batch {size.batch}, {size.crop} px, three scales"
    difference = f"{abs(first - second) / abs(first):.1e} of the loss"
    yield Row(what, timing, difference, goal=STEP_GOAL_GPU if size.full else 0, runs=ITERATIONS if size.full else 0)


def _test(size: Size, repeat: int, precision: str) -> Iterator[Row]:
    device = torch.device(size.device)
    network, weights = _network(size)
    network.eval().to(memory_format=INFERENCE_FORMAT)
    generator = torch.Generator().manual_seed(2)
    image = 50 * torch.randn(1, 3, *size.image, generator=generator)
    truth = np.random.default_rng(3).integers(0, CLASSES, size.image).astype(np.uint8)
    truth[:3] = IGNORED

    def ours() -> np.ndarray:
        moved = image.to(device).contiguous(memory_format=INFERENCE_FORMAT)
        with torch.inference_mode(), autocast_for(precision, device):
            logits = image_logits(network, moved, [1.0], flip=False)[0]
        return confusion_matrix(truth, Labelling(CLASSES - 1).labels("", logits, size.image).cpu().numpy(), CLASSES - 1)

    def plain() -> np.ndarray:
        return plain_deeplab.test_image(weights, image.to(device), truth, size.blocks)[1]

    changed = int(np.abs(plain() - ours()).sum()) // 2
    timing = time_both(plain, ours, repeat=repeat, device=device)
    what = f"test of an image of {size.image[1]}x{size.image[0]} px, prediction and counting"
    yield Row(what, timing, f"{changed} of {truth.size} pixels", runs=VAL_IMAGES if size.full else 0)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu", help="sizes and device (default cpu)")
    parser.add_argument("--repeat", type=int, default=5, help="timings of each version, >= 1 (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both versions (default 1)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the project's code")
    arguments = parser.parse_args(argv)
    if SIZES[arguments.size].device == "cuda" and not torch.cuda.is_available():
        parser.error("--size gpu needs a CUDA device and none is visible; use --size cpu")
    if min(arguments.repeat, arguments.threads) < 1:
        parser.error("--repeat and --threads must be at least 1")
    torch.set_num_threads(arguments.threads)
    rows = run(arguments.size, repeat=arguments.repeat, precision=arguments.precision)
    print(machine_line(torch.device(SIZES[arguments.size].device)))
    print(table(rows))
    print(projection(rows))


if __name__ == "__main__":
    main()
