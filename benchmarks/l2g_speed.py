"""Measure the first stage against a plain version of the published procedure: same inputs, same weights, same run.

    python -m benchmarks.l2g_speed                                   # sizes that a CPU does in some minutes
    python -m benchmarks.l2g_speed --size gpu                        # published sizes, on the first GPU
    python -m benchmarks.l2g_speed --size gpu --only step,cam --no-tf32
    python -m benchmarks.l2g_speed --size tiny                       # seconds; checks the program, measures nothing

Prints a Markdown table of medians (the two versions take turns), and what a full VOC run takes at that rate.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import cv2
import torch

from benchmarks.file_parts import measure_gen_gt, measure_sweep
from benchmarks.measure import Row, machine_line, projection, table
from benchmarks.network_parts import measure_cam, measure_step, measure_target
from benchmarks.sample_parts import measure_sample
from benchmarks.sizes import SIZES, Settings

PARTS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "step": measure_step,
    "cam": measure_cam,
    "target": measure_target,
    "sample": measure_sample,
    "sweep": measure_sweep,
    "gen_gt": measure_gen_gt,
}


def run(size: str, parts: list[str], *, repeat: int, tf32: bool = True, precision: str = "auto", data: str = "") -> list[Row]:
    """Measure the named parts at one of `SIZES`; every part is a key of `PARTS`."""
    settings = Settings(SIZES[size], torch.device(SIZES[size].device), repeat, tf32, precision, data)
    return [row for part in parts for row in PARTS[part](settings)]


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu", help="sizes and device (default cpu)")
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated parts (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=7, help="timings of each version, >= 1 (default 7)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both versions (default 1)")
    parser.add_argument("--no-tf32", action="store_true", help="strict float32 convolutions in the baseline (GPU)")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the project's code (default auto)"
    )
    parser.add_argument("--data", default="", help="VOC folder with train_cls.txt to load samples from (default: made up)")
    arguments = parser.parse_args(argv)
    parts = arguments.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--only names '{unknown[0]}', expected some of {', '.join(PARTS)}")
    if min(arguments.repeat, arguments.threads) < 1:
        parser.error("--repeat and --threads must be at least 1")
    if SIZES[arguments.size].device == "cuda" and not torch.cuda.is_available():
        parser.error("--size gpu needs a CUDA device and none is visible; use --size cpu")
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    rows = run(
        arguments.size,
        parts,
        repeat=arguments.repeat,
        tf32=not arguments.no_tf32,
        precision=arguments.precision,
        data=arguments.data,
    )
    print(f"size {arguments.size}: {SIZES[arguments.size].note}")
    print(machine_line(torch.device(SIZES[arguments.size].device)))
    print(table(rows))
    if lines := projection(rows):
        print(f"a full VOC run at these rates (one process):\n{lines}")


if __name__ == "__main__":
    main(sys.argv[1:])
