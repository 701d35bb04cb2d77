"""Trunks with frozen BatchNorm, forward and backward, torch's BatchNorm against `freeze_norms`: time, and what is kept.

python -m benchmarks.norms_speed [--case resnet101x161x2] [--precision bf16] [--device cuda] [--repeat 5] [--threads 1]
"""

import argparse
import copy
import sys
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, asked_device, machine_line, table, time_both
from models.backbones import build_trunk
from models.layers.lean import batch_norms, freeze_norms, training_format
from utils.runtime.device import autocast_for

CASES = ("resnet101x161x2", "resnet38x161x1", "timm:tf_efficientnet_lite0x225x4")
MEBIBYTE = 2**20


def run(case: str, precision: str, device: torch.device, repeat: int) -> Row:
    """Return the row of <trunk>x<side>x<pictures>."""
    name, side, pictures = case.rsplit("x", 2)
    torch.manual_seed(0)
    ours = build_trunk(name, dropout=False, output_stride=16 if name.startswith("timm:") else 8).to(device)
    ours.to(memory_format=training_format(ours, device))
    theirs = copy.deepcopy(ours)
    freeze_norms(ours)
    for norm in batch_norms(theirs):
        norm.requires_grad_(False)
    images = torch.randn(int(pictures), 3, int(side), int(side), device=device).to(memory_format=torch.channels_last)
    steps = [partial(_step, network.eval(), images, precision) for network in (theirs, ours)]
    (first, kept), (second, kept_ours) = (step() for step in steps)
    sizes = f"kept {kept / MEBIBYTE:.0f} and {kept_ours / MEBIBYTE:.0f} MiB, weights included"
    timing = time_both(*steps, repeat=repeat, device=device)
    what = f"{name}, {pictures} x {side} px, {precision}, {sizes}"
    return Row(what, timing, f"{float((first - second).abs().max() / first.abs().max()):.1e} of the largest gradient")


def _step(network: nn.Module, images: Tensor, precision: str) -> tuple[Tensor, int]:
    """Return the gradient of the first weights that learn, and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    network.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast_for(precision, images.device):
        loss = network(images)[-1].float().square().mean()
    loss.backward()
    return [p.grad for p in network.parameters() if p.grad is not None][0].clone(), sum(kept.values())


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help=f"<trunk>x<side>x<pictures>, repeatable (default {' '.join(CASES)})")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<n> (default cpu)")
    parser.add_argument("--repeat", type=int, default=5, help="timings of each (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args(argv)
    device = asked_device(parser, arguments.device)
    torch.set_num_threads(arguments.threads)
    rows = [run(case, arguments.precision, device, arguments.repeat) for case in arguments.case or CASES]
    print(machine_line(device), table(rows), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
