"""Measure what CDL adds to a training step against its plain form: refresh, affinity and Dice from the heads' outputs on.

    python -m benchmarks.cdl_speed                  # 161 px on a CPU, seven scales, batch 4
    python -m benchmarks.cdl_speed --size step      # and the whole step of ResNet-101; --precision bf16: ours in it
    python -m benchmarks.cdl_speed --size memory    # ours alone at 321 px, batch 8: time and peak memory
    python -m benchmarks.cdl_speed --size gpu       # 321 px, batch 2, on the first GPU
    python -m benchmarks.cdl_speed --size tiny      # seconds; checks the program, measures nothing

Both get the same logits, features and labels and go back to them; the trunk, the same in both, is in the last row of sizes step
and gpu only: forward and backward of the whole network with the one or the other.
"""

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from benchmarks import plain_cdl
from benchmarks.measure import Row, machine_line, table, time_both
from configs.deeplab_schema import DeepLabConfig
from deeplab.cdl import ExpertLosses
from deeplab.losses import resize_labels
from deeplab.network import ExpertMaps, MultiScaleExperts, build_deeplab
from models.layers.lean import training_format
from utils.runtime.device import autocast_for, peak_resident
from utils.runtime.processes import Dist

CLASSES, FEATURES, IGNORED = 21, 128, 255
SCALES = (0.5, 0.75, 1.25, 1.5, 1.75, 2.0)
# After the warm-up of a run of a hundred steps.
STEP, STEPS = 50, 100


@dataclass(frozen=True)
class Size:
    """Images a step, crop side, bottlenecks a stage of the whole step (none: no such row), whether the plain form runs."""

    device: str
    batch: int
    crop: int
    blocks: tuple[int, ...] = ()
    plain: bool = True


SIZES = {
    "cpu": Size("cpu", 4, 161),
    "step": Size("cpu", 4, 161, (3, 4, 23, 3)),
    "memory": Size("cpu", 8, 321, plain=False),
    "gpu": Size("cuda", 2, 321, (3, 4, 23, 3)),
    "tiny": Size("cpu", 2, 33),
}


def run(name: str, *, repeat: int, precision: str = "auto") -> list[Row]:
    """Measure at one of `SIZES`."""
    size = SIZES[name]
    cfg = DeepLabConfig(method="cdl_b")
    cfg.thresholds.scales, cfg.solver.iter_max = list(SCALES), STEPS
    if size.blocks:
        cfg.model.n_blocks = list(size.blocks)
    device = torch.device(size.device)
    with torch.device("cpu" if size.blocks else "meta"):
        network = build_deeplab(cfg).train()
    if size.blocks:
        network.to(device)
    module = ExpertLosses(cfg, cast(MultiScaleExperts, network), Dist(0, 1, 0, device))
    rows = [_losses(size, module, device, repeat)]
    return [*rows, *(_step(size, module, device, repeat, precision) if size.blocks else [])]


def _losses(size: Size, module: ExpertLosses, device: torch.device, repeat: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    cells = [side // 8 + 1 for side in (size.crop, *(int(size.crop * s) for s in SCALES), size.crop)]
    labels = torch.randint(0, 4, (size.batch, size.crop, size.crop), generator=generator)
    labels[:, ::7] = IGNORED
    labels = labels.to(device)
    items = [_maps(size.batch, side, generator, device) for side in cells]
    given = [resize_labels(labels, (side, side)) for side in cells]

    def ours() -> tuple[Tensor, list[Tensor]]:
        refreshed = module.refreshed(items, given)
        loss = module.total(module.losses(items, given, refreshed, STEP, 1.0), STEP)
        loss.backward()
        return loss.detach(), [each.labels for each in refreshed]

    def plain() -> tuple[Tensor, list[Tensor]]:
        loss, refreshed = plain_cdl.losses(items, given)
        loss.backward()
        return loss.detach(), refreshed

    what = f"refresh and losses of CDL-b, {size.crop} px, {len(cells)} maps, batch {size.batch}"
    if not size.plain:
        before = peak_resident()
        ours()
        timing = time_both(ours, ours, repeat=repeat, device=device)
        return Row(what, timing, f"no plain form; peak memory {peak_resident():.2f} GiB, {before:.2f} GiB before")
    (first, theirs), (second, mine) = plain(), ours()
    changed = sum(int((a != b).sum()) for a, b in zip(theirs, mine, strict=True))
    difference = f"{float((first - second).abs() / first.abs()):.1e} of the loss, {changed} labels"
    return Row(what, time_both(plain, ours, repeat=repeat, device=device), difference, goal=2)


def _maps(batch: int, side: int, generator: torch.Generator, device: torch.device) -> ExpertMaps:
    """Return heads' outputs of which a third is confident and a third is unsure."""
    sure = torch.randint(0, 3, (batch, 1, side, side), generator=generator) * 4.0
    logits = [torch.randn(batch, CLASSES, side, side, generator=generator) * sure for _ in range(2)]
    features = torch.randn(batch, FEATURES, side, side, generator=generator)
    first, second, compared = ((each.to(device)).requires_grad_() for each in (*logits, features))
    return ExpertMaps([first, second], compared)


def _step(size: Size, module: ExpertLosses, device: torch.device, repeat: int, precision: str) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(1)
    images = (50 * torch.randn(size.batch, 3, size.crop, size.crop, generator=generator)).to(device)
    labels = torch.randint(0, 4, (size.batch, size.crop, size.crop), generator=generator).to(device)
    contiguous = copy.deepcopy(module.network)
    module.network.to(memory_format=training_format(module.network, device))  # as the trainer does

    def ours() -> float:
        with autocast_for(precision, device):
            loss: Tensor = module({"images": images, "labels": labels, "share": 1.0, "step": STEP})["loss"]
        loss.backward()
        return loss.item()

    def plain() -> float:
        items = contiguous(images)
        given = [resize_labels(labels, (item.logits[0].shape[2], item.logits[0].shape[3])) for item in items]
        loss, _ = plain_cdl.losses(items, given)
        loss.backward()
        return loss.item()

    first, second = plain(), ours()
    what = f"forward and backward of the whole network, {size.crop} px, batch {size.batch}, blocks {size.blocks}"
    yield Row(what, time_both(plain, ours, repeat=repeat, device=device), f"{abs(first - second) / abs(first):.1e} of the loss")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu", help="sizes and device (default cpu)")
    parser.add_argument("--repeat", type=int, default=3, help="timings of each version, >= 1 (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both versions (default 1)")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of our whole step (default auto)"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    print(machine_line(torch.device(SIZES[arguments.size].device)))
    print(table(run(arguments.size, repeat=arguments.repeat, precision=arguments.precision)))


if __name__ == "__main__":
    main()
