"""Measure IRNet's random walk against its published form, which squares the matrix of all cells: same inputs, same run.

    python -m benchmarks.walk_speed                                  # one CPU thread; about a minute
    python -m benchmarks.walk_speed --case 500x375x2 --squarings 1   # VOC size; the plain form does one of its eight squarings
    python -m benchmarks.walk_speed --case 2048x2048x3 --no-plain    # ours alone
    python -m benchmarks.walk_speed --device cuda --case 500x375x2

A case is the picture's width x height x classes; cells have 4 pixels. Boundaries are noise, smoothed; the time does not depend
on what is in them. Prints a Markdown table (the plain form is timed once) and the peak memory of each beyond its inputs (on a
CPU of a process that does nothing else). With fewer squarings than eight ours still takes all 256 steps, so that the ratio is a
lower bound, and results are not compared.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Row, Timing, asked_device, format_seconds, machine_line, peak_memory, table, wait
from benchmarks.plain_walk import dense_walk
from models.layers.pixel_pairs import CELL
from models.refiners.random_walk import random_walk

CASES = ("320x240x2",)
BETA, SQUARINGS = 10.0, 8
TIME_GOAL, MEMORY_GOAL = 4.0, 10.0


class Case(NamedTuple):
    """Sizes: pixels of the picture, classes."""

    width: int
    height: int
    classes: int


def inputs(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return CAMs (K, h, w) and boundaries (1, h, w) in [0, 1]."""
    height, width = -(-case.height // CELL), -(-case.width // CELL)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 1, height, width, generator=generator) ** 3
    cams = torch.rand(case.classes, height, width, generator=generator)
    return cams.to(device), F.avg_pool2d(noise, 3, 1, 1)[0].to(device)


SMALL = partial(inputs, Case(64, 64, 1))


def ours(cams: Tensor, boundary: Tensor) -> Tensor:
    """Return what the project makes of them."""
    return random_walk(cams[None], boundary[None], beta=BETA)[0]


def run(case: Case, *, device: torch.device, repeat: int, squarings: int, with_plain: bool) -> tuple[Row | str, str]:
    """Return the row of times, or a line without the plain form, and a line about memory."""
    what, given = f"{case.width}x{case.height}, {case.classes} classes", inputs(case, device)
    walked = ours(*given)
    times = [_seconds(partial(ours, *given), device)[0] for _ in range(repeat)]
    median = statistics.median(times)
    used = peak_memory(ours, partial(inputs, case), SMALL, device)
    if not with_plain:
        return f"{what}: ours {format_seconds(median)}", f"{what}: ours {used / 2**20:.0f} MiB"
    dense = partial(dense_walk, beta=BETA, exp_times=squarings)
    seconds, found = _seconds(partial(dense, *given), device)
    difference = f"{float((found - walked).abs().max()):.1e}" if squarings == SQUARINGS else "not compared"
    base = peak_memory(dense, partial(inputs, case), SMALL, device)
    sizes = f"plain {base / 2**20:.0f} MiB, ours {used / 2**20:.0f} MiB"
    memory = f"{what}: {sizes}, {base / max(used, 1):.1f} times less (goal >= {MEMORY_GOAL:g})"
    timing = Timing(seconds, median, seconds / max(times), seconds / min(times))
    return Row(f"{what}, {squarings} of 8 squarings", timing, difference, goal=TIME_GOAL), memory


def _seconds(form: partial[Tensor], device: torch.device) -> tuple[float, Tensor]:
    wait(device)
    started = time.perf_counter()
    found = form()
    wait(device)
    return time.perf_counter() - started, found


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help=f"WxHxCLASSES, repeatable (default {' '.join(CASES)})")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<n> (default cpu)")
    parser.add_argument("--repeat", type=int, default=5, help="timings of ours, >= 1 (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--squarings", type=int, default=SQUARINGS, help="of the plain form, 1 to 8 (default 8)")
    parser.add_argument("--no-plain", action="store_true", help="ours alone")
    arguments = parser.parse_args(argv)
    if min(arguments.repeat, arguments.threads) < 1 or not 1 <= arguments.squarings <= SQUARINGS:
        parser.error("--repeat and --threads must be at least 1, --squarings 1 to 8")
    device = asked_device(parser, arguments.device)
    try:
        cases = [Case(*(int(part) for part in case.split("x"))) for case in arguments.case or CASES]
    except (TypeError, ValueError):
        parser.error("--case takes three numbers like 500x375x2")
    torch.set_num_threads(arguments.threads)
    options = {"repeat": arguments.repeat, "squarings": arguments.squarings, "with_plain": not arguments.no_plain}
    found = [run(case, device=device, **options) for case in cases]
    print(f"256 steps, beta {BETA:g}; {machine_line(device)}")
    rows = [row for row, _ in found if isinstance(row, Row)]
    print(table(rows) if rows else "\n".join(str(line) for line, _ in found))
    print("Peak memory of a call beyond its inputs", *(line for _, line in found), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
