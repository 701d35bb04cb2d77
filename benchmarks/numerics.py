"""Measure what bf16 and compilation change: losses step by step, CAMs, and their mIoU, against float32 from the same start.

    python -m benchmarks.numerics                              # on the first GPU: fp32, bf16, compiled, both
    python -m benchmarks.numerics --device cpu --variants bf16 --pictures 64 --classify 2 --transfer 2   # minutes
    python -m benchmarks.numerics --pictures 400 --classify 13 --transfer 3 --seeds 0,1,2    # the demo's whole schedule

The demo's pictures and configs/l2g_demo.yaml. A float32 training of `--classify` epochs is the common start; each variant then
does the `--transfer` epochs of L2G and writes CAMs, all with the real programs. Printed is, for each variant against fp32, the
largest and the mean relative difference of the total of losses over the steps, the mean difference of the CAMs in grey levels,
and the best mIoU of each variant's CAMs. "fp32 on 2 threads" shows what rounding alone does on a CPU: training amplifies it.
"""

import argparse
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import machine_line
from benchmarks.program_runs import launch, run_module
from utils.data.images import read_cam

CONFIG = "configs/l2g_demo.yaml"
LOSSES = ("kd", "cls_local", "cls_global")
CONTROL = "fp32 on 2 threads"
VARIANTS = {
    "fp32": ("precision=fp32",),
    "bf16": ("precision=bf16",),
    "compile": ("precision=fp32", "compile=true"),
    "bf16+compile": ("precision=bf16", "compile=true"),
    CONTROL: ("precision=fp32", "threads=2"),
}
REFERENCE = "fp32"


@dataclass(frozen=True)
class Outcome:
    """What a variant gave.

    Attributes:
        losses: (steps, len(LOSSES)) as logged (four digits).
        cams: file name -> (H, W) uint8.
        mean_iou: best of the CAMs, percent.
    """

    losses: NDArray[np.float64]
    cams: dict[str, NDArray[np.uint8]]
    mean_iou: float


def run(
    folder: Path, device: str, variants: list[str], *, pictures: int, classify: int, transfer: int, seed: int
) -> dict[str, Outcome]:
    """Train the start and all `variants` (keys of `VARIANTS`) below the empty `folder`; fp32 is always among them."""
    data = folder / "data"
    run_module("scripts.make_demo_data", ["--out", str(data), "--train", str(pictures), "--val", "1"])
    common = [
        f"data.root={data}", f"data.class_names={data / 'classes.txt'}", f"device={device}", f"seed={seed}",
        "train.log_every=1", "train.images_every=0", f"train.classify_epochs={classify}", "cam.overwrite=true",
    ]  # fmt: skip
    start = folder / "start"
    launch("scripts.train", CONFIG, [*common, f"run_dir={start}", f"train.epochs={classify}", *VARIANTS[REFERENCE]])
    outcomes = {}
    for name in dict.fromkeys([REFERENCE, *variants]):
        run_dir = folder / name
        settings = [*common, f"run_dir={run_dir}", f"train.epochs={classify + transfer}", *VARIANTS[name]]
        launch("scripts.train", CONFIG, [*settings, f"train.resume={start / 'model' / 'last.pth'}"])
        launch("scripts.make_cams", CONFIG, settings)
        launch("scripts.evaluate_cams", CONFIG, settings)
        outcomes[name] = _outcome(run_dir)
    return outcomes


def table(outcomes: dict[str, Outcome]) -> str:
    """Return a Markdown table of `run`'s result."""
    lines = [
        "| variant | steps | largest loss difference | mean loss difference | CAMs, mean grey levels | best mIoU |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    reference = outcomes[REFERENCE]
    for name, outcome in outcomes.items():
        totals = [o.losses.sum(axis=1) for o in (outcome, reference)]
        relative = np.abs(totals[0] - totals[1]) / totals[1]
        values = f"{len(relative)} | {relative.max():.2%} | {relative.mean():.2%} | {grey_difference(outcome, reference):.2f}"
        lines.append(f"| {name} | {values} | {outcome.mean_iou:.1f} |")
    return "\n".join(lines)


def grey_difference(one: Outcome, other: Outcome) -> float:
    """Return the mean absolute difference over all pixels of all CAMs, in grey levels."""
    pairs = [(one.cams[name], other.cams[name]) for name in other.cams]
    total = sum(int(np.abs(a.astype(np.int16) - b).sum()) for a, b in pairs)
    return total / sum(a.size for a, _ in pairs)


def _outcome(run_dir: Path) -> Outcome:
    lines = [line for line in (run_dir / "log.txt").read_text(encoding="utf-8").splitlines() if " kd " in line]
    losses = [[float(re.search(rf" {name} (\S+)", line)[1]) for name in LOSSES] for line in lines]  # type: ignore[index]
    cams = {path.name: read_cam(path) for path in sorted((run_dir / "ms" / "attention").glob("*.png"))}
    best = json.loads((run_dir / "ms" / "result.json").read_text(encoding="utf-8"))["best"]["mean_iou"]
    return Outcome(np.array(losses), cams, 100 * best)


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device of all trainings (default cuda)")
    parser.add_argument(
        "--variants",
        default=",".join(name for name in VARIANTS if name != CONTROL),
        help="comma-separated (default %(default)s)",
    )
    parser.add_argument("--pictures", type=int, default=200, help="training pictures (default 200: 13 steps an epoch)")
    parser.add_argument("--classify", type=int, default=4, help="float32 epochs of the common start, >= 1 (default 4)")
    parser.add_argument("--transfer", type=int, default=4, help="epochs of each variant, >= 1 (default 4: 52 steps)")
    parser.add_argument("--seeds", default="0", help="comma-separated (default 0)")
    arguments = parser.parse_args(argv)
    variants = arguments.variants.split(",")
    if unknown := [name for name in variants if name not in VARIANTS]:
        parser.error(f"--variants names '{unknown[0]}', expected some of {', '.join(VARIANTS)}")
    if min(arguments.classify, arguments.transfer, arguments.pictures) < 1:
        parser.error("--classify, --transfer and --pictures must be at least 1")
    print(machine_line(torch.device(arguments.device)))
    for seed in arguments.seeds.split(","):
        with tempfile.TemporaryDirectory(prefix="numerics_") as folder:
            sizes = {"pictures": arguments.pictures, "classify": arguments.classify, "transfer": arguments.transfer}
            print(f"seed {seed}\n{table(run(Path(folder), arguments.device, variants, seed=int(seed), **sizes))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
