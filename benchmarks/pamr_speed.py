"""Measure PAMR against its plain form, which copies picture and mask once a neighbour: same inputs, same run.

    python -m benchmarks.pamr_speed                                     # one CPU thread, three sizes
    python -m benchmarks.pamr_speed --case 1024x1024x21x1 --no-plain    # memory of ours alone
    python -m benchmarks.pamr_speed --device cuda --repeat 20
    python -m benchmarks.pamr_speed --case 40x30x3x1 --repeat 1         # seconds; checks the program, measures nothing

Prints a Markdown table of medians (the two versions take turns), and the peak memory of each beyond its inputs (on a CPU of a
process that does nothing else). Pictures are noise in 8-bit steps; the time does not depend on what is in them.
"""

import argparse
import sys
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from benchmarks.measure import Row, asked_device, machine_line, peak_memory, table, time_both
from models.refiners.pamr import PAMR, PamrConfig

# A VOC picture with two classes and the background, with all classes; WS-FCN's masks of a batch of training pictures.
CASES = ("500x375x3x1", "500x375x21x1", "81x81x21x16")
TIME_GOAL, MEMORY_GOAL = 3.0, 5.0
DILATIONS, ITERATIONS = (1, 2, 4, 8, 12, 24), 10


class Case(NamedTuple):
    """Sizes: pixels, classes (background included), pictures."""

    width: int
    height: int
    classes: int
    batch: int


def plain(images: Tensor, masks: Tensor) -> Tensor:
    """Return the refined masks straight from the description: neighbours stacked (B, C, N, H, W), then weighed and summed."""
    near = _neighbours(images)
    inside = images[:, :, None].expand(-1, -1, len(DILATIONS), -1, -1)
    deviation = torch.cat([near, inside], dim=2).std(dim=2, keepdim=True)
    weights = (-(images[:, :, None] - near).abs() / (1e-8 + 0.1 * deviation)).mean(dim=1, keepdim=True).softmax(dim=2)
    for _ in range(ITERATIONS):
        masks = (_neighbours(masks) * weights).sum(dim=2)
    return masks


def _neighbours(values: Tensor) -> Tensor:
    height, width = values.shape[2:]
    found = []
    for d in DILATIONS:
        padded = pad(values, [d] * 4, mode="replicate")
        steps = [(y, x) for y in (0, d, 2 * d) for x in (0, d, 2 * d) if (y, x) != (d, d)]
        found += [padded[:, :, y : y + height, x : x + width] for y, x in steps]
    return torch.stack(found, dim=2)


def ours(images: Tensor, masks: Tensor) -> Tensor:
    """Return what the project makes of them."""
    refined: Tensor = PAMR(PamrConfig(list(DILATIONS), ITERATIONS))(images, masks)
    return refined


def inputs(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return pictures (B, 3, H, W) in [0, 1] and soft-max masks (B, D, H, W)."""
    width, height, classes, batch = case
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(batch, 3, height, width, generator=generator) * 255).round() / 255
    masks = torch.randn(batch, classes, height, width, generator=generator).softmax(dim=1)
    return images.to(device), masks.to(device)


SMALL = partial(inputs, Case(8, 8, 1, 1))


def run(case: Case, *, device: torch.device, repeat: int, with_plain: bool = True) -> tuple[Row | None, str]:
    """Return the row of times (None without the plain form) and a line about memory."""
    what = f"{case.width}x{case.height}, {case.classes} classes, batch {case.batch}"
    used = peak_memory(ours, partial(inputs, case), SMALL, device)
    if not with_plain:
        return None, f"{what}: ours {used / 2**20:.0f} MiB"
    given = inputs(case, device)
    difference = float((plain(*given) - ours(*given)).abs().max())
    timing = time_both(partial(plain, *given), partial(ours, *given), repeat=repeat, device=device)
    base = peak_memory(plain, partial(inputs, case), SMALL, device)
    sizes = f"plain {base / 2**20:.0f} MiB, ours {used / 2**20:.0f} MiB"
    memory = f"{what}: {sizes}, {base / max(used, 1):.1f} times less (goal >= {MEMORY_GOAL:g})"
    return Row(f"{what}, per picture", timing.per_unit(case.batch), f"{difference:.1e}", goal=TIME_GOAL), memory


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help=f"WxHxCLASSESxBATCH, repeatable (default {' '.join(CASES)})")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<n> (default cpu)")
    parser.add_argument("--repeat", type=int, default=5, help="timings of each version, >= 1 (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--no-plain", action="store_true", help="only the memory of ours")
    arguments = parser.parse_args(argv)
    if min(arguments.repeat, arguments.threads) < 1:
        parser.error("--repeat and --threads must be at least 1")
    device = asked_device(parser, arguments.device)
    try:
        cases = [Case(*(int(part) for part in case.split("x"))) for case in arguments.case or CASES]
    except (TypeError, ValueError):
        parser.error("--case takes four numbers like 500x375x21x1")
    torch.set_num_threads(arguments.threads)
    found = [run(case, device=device, repeat=arguments.repeat, with_plain=not arguments.no_plain) for case in cases]
    print(f"dilations {DILATIONS}, {ITERATIONS} iterations; {machine_line(device)}")
    if not arguments.no_plain:
        print(table([row for row, _ in found if row is not None]))
    print("Peak memory of a call beyond its inputs", *(line for _, line in found), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
