"""Measure how much faster two processes (gloo, one CPU thread each) train and infer than one, with the real programs.

    python -m benchmarks.two_processes                         # some minutes on two idle cores
    python -m benchmarks.two_processes --images 16 --epochs 2 --repeat 1    # a check of the program, measures nothing

Both counts take turns on the same made-up pictures with configs/l2g_demo.yaml. Training speed is what the program logs after
its first epoch; inference speed is that of infer.json. Neither holds the start of the processes. Prints a Markdown table:
images/s (medians) and the range of the ratio of neighbouring runs. Other load on the machine takes from two processes more
than from one, so look at the load it prints.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.program_runs import CLASSES, inference, launch, training_speed, write_set

GOAL = 1.6
CONFIG = "configs/l2g_demo.yaml"
SIZE = (128, 96)
COUNTS = (1, 2)

# Stage -> processes -> images/s of each run.
Speeds = dict[str, dict[int, list[float]]]


def run(folder: Path, *, images: int, epochs: int, repeat: int) -> Speeds:
    """Measure training and inference.

    Args:
        folder: empty; gets the pictures and the runs.
        images: how many pictures.
        epochs: of each training, >= 2 (the first does not count).
        repeat: runs of each.
    """
    write_set(folder / "data", images, SIZE)
    overrides = [
        f"run_dir={folder / 'run'}",
        f"data.root={folder / 'data'}",
        f"data.num_classes={CLASSES}",
        "data.class_names=voc12",
        "device=cpu",
        f"train.epochs={epochs}",
        "train.classify_epochs=0",
        f"train.log_every={images}",  # once an epoch
        "train.images_every=0",
        "cam.overwrite=true",
        "train.overwrite=true",
    ]
    speeds: Speeds = {stage: {n: [] for n in COUNTS} for stage in ("training", "CAM inference")}
    for _ in range(repeat):
        for processes in COUNTS:
            launch("scripts.train", CONFIG, overrides, processes=processes)
            speeds["training"][processes].append(training_speed(folder / "run"))
            launch("scripts.make_cams", CONFIG, overrides, processes=processes)
            speeds["CAM inference"][processes].append(inference(folder / "run")["images_per_second"])
    return speeds


def table(speeds: Speeds) -> str:
    """Return a Markdown table of `run`'s result."""
    lines = ["| what | 1 process | 2 processes | ratio | lowest-highest | goal |", "| --- | --- | --- | --- | --- | --- |"]
    for stage, counts in speeds.items():
        one, two = (counts[n] for n in COUNTS)
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        middles = [f"{statistics.median(values):.3g} images/s" for values in (one, two)]
        ratio = f"{statistics.median(ratios):.2f}x | {min(ratios):.2f}-{max(ratios):.2f}"
        lines.append(f"| {stage} | {' | '.join(middles)} | {ratio} | >= {GOAL} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96, help="pictures, >= 2 (default 96)")
    parser.add_argument("--epochs", type=int, default=4, help="of each training, >= 2 (default 4)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, >= 1 (default 3)")
    arguments = parser.parse_args(argv)
    if arguments.images < 2 or arguments.epochs < 2 or arguments.repeat < 1:
        parser.error("--images and --epochs must be at least 2, --repeat at least 1")
    print(f"{os.cpu_count()} CPU cores, load average before {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="two_processes_") as folder:
        print(table(run(Path(folder), images=arguments.images, epochs=arguments.epochs, repeat=arguments.repeat)))
    print(f"load average after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
