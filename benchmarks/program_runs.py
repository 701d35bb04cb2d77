"""Running the stage programs on made-up pictures, as a user would, and reading the speed they report."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.l2g_inputs import write_files
from utils.runtime.cards import read_cards

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 20
LIST_NAME = "train_cls.txt"
# What of a failed program's output is shown.
SHOWN = 2000
# Of the files a program writes the first so many do not count: processes start, kernels are chosen.
WARM_UP = 0.25
SAMPLE_MS = 200


def write_set(root: Path, images: int, size: tuple[int, int], classes: int = CLASSES) -> None:
    """Write `images` JPEGs of `size` (W, H) with saliency, labels and `train_cls.txt` (20 or 80 classes) as VOC does."""
    labels = write_files(root, images, size, classes)
    lines = [" ".join([name, *map(str, present)]) for name, present in labels.items()]
    (root / LIST_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def launch(program: str, config: str, overrides: list[str], *, processes: int = 1) -> None:
    """Run `python -m <program> --config <config> <overrides>`; see `run_module`."""
    run_module(program, ["--config", config, *overrides], processes=processes)


def run_module(module: str, arguments: list[str], *, processes: int = 1) -> str:
    """Run `python -m <module> <arguments>`, through torchrun with several processes; returns what it printed.

    Raises:
        RuntimeError: when it fails, with the end of what it printed.
    """
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *start, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-SHOWN:]}")
    return done.stdout


def logged_values(run_dir: Path, name: str) -> list[float]:
    """Return the values of `name` (e.g. images_per_second) in the log of the folder's last training, first epoch left out.

    A log without epochs (the segmentation stage) counts from its first line.
    """
    lines = [line for line in (run_dir / "log.txt").read_text(encoding="utf-8").splitlines() if " images_per_second " in line]
    last_start = max((i for i, line in enumerate(lines) if "epoch 0 " in line), default=-1)
    found = [re.search(rf"{name} ([\d.e+-]+)", line) for line in lines[last_start + 1 :] if "epoch 0 " not in line]
    return [float(match.group(1)) for match in found if match]


def training_speed(run_dir: Path) -> float:
    """Return the median images/s of the folder's last training."""
    return statistics.median(logged_values(run_dir, "images_per_second"))


def inference(run_dir: Path) -> dict[str, Any]:
    """Return what the folder's last CAM inference wrote about itself (images_per_second, loader_wait, ...)."""
    result: dict[str, Any] = json.loads((run_dir / "ms" / "infer.json").read_text(encoding="utf-8"))
    return result


def rate_of_files(folder: Path) -> float:
    """Return the files a second the folder's PNGs were written at, the first `WARM_UP` of them left out."""
    times = sorted(path.stat().st_mtime_ns for path in folder.glob("*.png"))
    first = int(WARM_UP * len(times))
    return 1e9 * (len(times) - 1 - first) / (times[-1] - times[first])


def repeat_set(data: Path, cams: Path, out: Path, repeats: int) -> None:
    """Write a set of `repeats` links to each picture, ground truth and CAM."""
    lines = []
    for folder in ("JPEGImages", "SegmentationClassAug", "cams"):
        (out / folder).mkdir(parents=True)
    for line in (data / LIST_NAME).read_text(encoding="utf-8").splitlines():
        name, *classes = line.split()
        for copy in range(repeats):
            new = f"{name}_{copy:04d}"
            lines.append(" ".join([new, *classes]))
            (out / f"JPEGImages/{new}.jpg").symlink_to(data / f"JPEGImages/{name}.jpg")
            (out / f"SegmentationClassAug/{new}.png").symlink_to(data / f"SegmentationClassAug/{name}.png")
            for k in classes:
                (out / f"cams/{new}_{k}.png").symlink_to(cams / f"{name}_{k}.png")
    (out / LIST_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def recorded(run_dir: Path, program: str) -> tuple[int, float]:
    """Return how many images a program worked on and its peak memory (GPU where used, GiB), from its latest stage card."""
    cards = [card for card in read_cards(run_dir) if card.program == program]
    card = max(cards, key=lambda one: one.finished)
    gpu = card.peak_gpu_memory_gib
    return card.images, card.peak_memory_gib if gpu is None else gpu


@contextmanager
def gpu_busy(samples: Path) -> Iterator[list[float]]:
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
