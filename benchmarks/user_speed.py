"""Measure training and CAM inference as a user runs them: real programs, loaders, JPEGs on disk, PNG writing.

    python -m benchmarks.user_speed                      # published VOC setting on the first GPU, about 3 minutes
    python -m benchmarks.user_speed --size tiny          # about half a minute on a CPU; checks the program, measures nothing
    python -m benchmarks.user_speed train.batch_size=6 cam.batch_size=4     # with other settings

Prints a Markdown table: images/s, GPU busy share (nvidia-smi, sampled), peak memory of the training, and what a full VOC run
(10 epochs of 10582 images, then their CAMs) takes at that rate.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.program_runs import inference_speed, launch, logged_values, training_speed, write_set

VOC_IMAGES, VOC_EPOCHS = 10582, 10
CONFIG = "configs/l2g_voc.yaml"
SAMPLE_MS = 200


@dataclass(frozen=True)
class Size:
    """`images` made-up pictures of `picture` (W, H) pixels, `epochs` over them (the first does not count), and settings."""

    images: int
    picture: tuple[int, int]
    epochs: int
    overrides: tuple[str, ...]


SIZES = {
    "gpu": Size(96, (500, 375), 4, ("device=cuda",)),
    "tiny": Size(
        6,
        (64, 48),
        2,
        ("device=cpu", "model.width=0.0625", "l2g.input_size=48", "l2g.crop_size=32", "l2g.short_side=48", "data.workers=0"),
    ),
}


def run(name: str, settings: list[str]) -> str:
    """Measure at one of `SIZES` with further `key=value` settings; returns the table."""
    size = SIZES[name]
    with tempfile.TemporaryDirectory(prefix="user_speed_") as path:
        folder = Path(path)
        write_set(folder / "data", size.images, size.picture)
        overrides = [
            f"run_dir={folder / 'run'}",
            f"data.root={folder / 'data'}",
            "model.pretrained=''",
            f"train.epochs={size.epochs}",
            f"train.log_every={size.images}",
            "train.images_every=0",
            *size.overrides,
            *settings,
        ]
        with _gpu_busy(folder / "train.txt") as training_busy:
            launch("scripts.train_l2g", CONFIG, overrides)
        with _gpu_busy(folder / "infer.txt") as inference_busy:
            launch("scripts.test_l2g", CONFIG, overrides)
        memory = f"{max(logged_values(folder / 'run', 'memory_gib')):.1f} GiB"
        rows = [
            ("training", training_speed(folder / "run"), training_busy, memory, VOC_IMAGES * VOC_EPOCHS),
            ("CAM inference", inference_speed(folder / "run"), inference_busy, "", VOC_IMAGES),
        ]
    lines = ["| what | images/s | GPU busy (whole program) | peak memory | full VOC run |", "| --- | --- | --- | --- | --- |"]
    for what, speed, busy, peak, total in rows:
        share = f"{statistics.mean(busy):.0f} %" if busy else "not measured"
        full = f"{total / speed / 3600:.2g} h" if name == "gpu" else "not projected"
        lines.append(f"| {what} | {speed:.3g} | {share} | {peak} | {full} |")
    return "\n".join(lines)


@contextmanager
def _gpu_busy(samples: Path) -> Iterator[list[float]]:
    """Yield a list that holds, at the end, the GPU's busy percentages sampled meanwhile; empty without nvidia-smi."""
    busy: list[float] = []
    if shutil.which("nvidia-smi") is None:
        yield busy
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0", "-lms", str(SAMPLE_MS)]
    with samples.open("w") as out:
        sampler = subprocess.Popen(query, stdout=out, stderr=subprocess.DEVNULL)
        try:
            yield busy
        finally:
            sampler.terminate()
            sampler.wait()
    busy += [float(line) for line in samples.read_text().splitlines() if line.strip().isdigit()]


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="gpu", help="sizes and device (default gpu)")
    parser.add_argument("settings", nargs="*", help="key=value settings of both programs")
    arguments = parser.parse_args(argv)
    print(run(arguments.size, arguments.settings))


if __name__ == "__main__":
    main(sys.argv[1:])
