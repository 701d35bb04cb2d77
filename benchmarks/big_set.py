"""Show that a set as large as COCO's train2014 is handled in linear time and flat memory: 82,000 entries, tiny pictures.

    python -m benchmarks.big_set                            # 8,200, 20,500 and 82,000 entries: minutes, about 1 GB of disk
    python -m benchmarks.big_set --entries 82000 --folder /scratch --workers 16
    python -m benchmarks.big_set --entries 400              # seconds; checks the program, measures nothing

Every part runs in a process of its own at a tenth, a quarter and all of the entries: start-up of training (cheap check,
data set, first sample), the data check cold and with nothing changed, sharding of inference over eight processes with
finding out what is done, and the threshold sweep. Prints seconds, processor seconds (which others' work on the machine
touches less), these per entry and relative to the smallest size (1.00x is linear), and the largest memory of the process,
of it before the work, and of its
largest worker (0 without). Pictures share their bytes but for a comment, maps are hard links.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from configs.schema import Config
from scripts.build import load_config

SIDE, NUM_CLASSES = 16, 80
# Hard links to one file are limited (65,000 on ext4), so that maps come in several copies.
COPIES = 64
LABELS = 3  # classes an image, as in COCO
SHARDS = 8
CONFIG = Path(__file__).parents[1] / "configs" / "l2g_coco.yaml"


def make_set(root: Path, entries: int) -> None:
    """Write `entries` pictures, saliency maps, masks and CAMs, and their lists."""
    rng = np.random.default_rng(0)
    folders = {name: root / name for name in ("JPEGImages", "Sal", "SegmentationClass", "cams", "models")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(stream, "JPEG")
    values = rng.integers(0, 255, (COPIES, SIDE, SIDE), dtype=np.uint8)
    for n, grey in enumerate(values):
        Image.fromarray(grey).save(folders["models"] / f"grey_{n}.png")
        classes = _classes(n)
        mask = np.array([0, *(k + 1 for k in classes)], np.uint8)[np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % (LABELS + 1)]
        Image.fromarray(mask).save(folders["models"] / f"mask_{n}.png")
    lines = []
    for i in range(entries):
        name, n = f"COCO_train2014_{i:012d}", i % COPIES
        # What follows a JPEG's end is no part of the picture: every file has bytes of its own.
        (folders["JPEGImages"] / f"{name}.jpg").write_bytes(stream.getvalue() + name.encode())
        os.link(folders["models"] / f"grey_{n}.png", folders["Sal"] / f"{name}.png")
        os.link(folders["models"] / f"mask_{n}.png", folders["SegmentationClass"] / f"{name}.png")
        for j, k in enumerate(_classes(n)):
            os.link(folders["models"] / f"grey_{(n + 7 * j) % COPIES}.png", folders["cams"] / f"{name}_{k}.png")
        lines.append(" ".join([name, *map(str, _classes(n))]) + "\n")
    (root / "train_cls.txt").write_text("".join(lines))


def _classes(n: int) -> list[int]:
    return sorted({(n + 11 * j) % NUM_CLASSES for j in range(LABELS)})


def config(root: Path, workers: int) -> Config:
    """Return the COCO configuration for the set."""
    settings = [
        f"data.root={root}", f"run_dir={root}/run", f"cam.dir={root}/cams", "cam.label_dir=", "device=cpu",
        f"eval.workers={workers}", f"check.workers={workers}", "model.width=0.0625", "model.pretrained=",
    ]  # fmt: skip
    return load_config(CONFIG, settings)


def start_up(cfg: Config) -> None:
    """What training does before its first batch, networks apart."""
    from scripts.check_data import parameter_count
    from utils.data.samplers import EpochBatchSampler
    from utils.data.samples import ViewDataset
    from utils.prepare.disk import check_cheaply

    dataset = ViewDataset(cfg.data, cfg.settings, cfg.seed)
    check_cheaply(cfg, dataset.labels, parameter_count(cfg))
    sampler = EpochBatchSampler(len(dataset), cfg.train.batch_size, shuffle=True, seed=0)
    dataset[next(iter(sampler))[0]]


def check(cfg: Config) -> None:
    """The whole data check; the second time nothing has changed."""
    from scripts import check_data

    result = check_data.run(cfg)
    if not result["training_can_start"]:
        raise RuntimeError(result["findings"])


def sharding(cfg: Config) -> None:
    """What every process of inference does before its first picture: read, share, find out what is done."""
    from utils.cams.store import unfinished
    from utils.data.lists import read_label_list
    from utils.runtime.processes import shard

    images = list(read_label_list(Path(cfg.data.infer_list), NUM_CLASSES).items())
    shares = [shard(images, rank, SHARDS) for rank in range(SHARDS)]
    if sum(map(len, shares)) != len(images) or unfinished(cfg, shares[0]):
        raise RuntimeError("the shares are not the whole list, or finished images are not seen")


def sweep(cfg: Config) -> None:
    """The threshold sweep."""
    from utils.cams.store import read_labelled_ids
    from utils.cams.sweep import TRUTH
    from utils.cams.sweep import sweep as run_sweep
    from utils.data.folder import DataFolder

    cam_dir = Path(cfg.eval.cam_dir)
    tasks = read_labelled_ids(cfg, cam_dir)
    histogram = run_sweep(DataFolder.of(cfg.data), cam_dir, tasks, workers=cfg.eval.workers)[TRUTH]
    if not histogram.counts.any():
        raise RuntimeError("nothing was counted")


PARTS: dict[str, Callable[[Config], None]] = {
    "start-up": start_up, "check, cold": check, "check, unchanged": check, "sharding": sharding, "sweep": sweep,
}  # fmt: skip


def measure(part: str, root: Path, workers: int) -> dict[str, float]:
    """Run one part in a process of its own; returns seconds and MiB (largest of the process and of one worker)."""
    command = [sys.executable, "-m", "benchmarks.big_set", "--part", part, "--folder", str(root), "--workers", str(workers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1])


def run_part(part: str, root: Path, workers: int) -> None:
    """Do one part here and print what it took, as JSON."""
    cfg = config(root, workers)
    _load_libraries()
    children = _peak(resource.RUSAGE_CHILDREN)  # libraries start a process or two while they are imported
    before, busy, started = _peak(resource.RUSAGE_SELF), _processor_seconds(), time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):
        PARTS[part](cfg)
    result = {
        "seconds": time.monotonic() - started,
        "processor": _processor_seconds() - busy,
        "before": before,
        "peak": _peak(resource.RUSAGE_SELF),
        "worker": peak if (peak := _peak(resource.RUSAGE_CHILDREN)) > children else 0,
    }
    print(json.dumps(result))


def _load_libraries() -> None:
    """Import what the parts import, so that only their work is timed."""
    import utils.cams.sweep  # noqa: F401


def _processor_seconds() -> float:
    """Return the processor time of this process and of its ended workers."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _peak(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def table(results: dict[str, dict[int, dict[str, float]]]) -> str:
    """Return the measurements as a Markdown table."""
    head = ["part", "entries", "seconds", "processor, s", "per entry", "relative", "memory, MiB", "of it before", "worker, MiB"]
    lines = [head, ["---"] * len(head)]
    for part, sizes in results.items():
        least = min(sizes)
        for entries, r in sizes.items():
            each = r["processor"] / entries
            relative = each / (sizes[least]["processor"] / least)
            times = [f"{r['seconds']:.2f}", f"{r['processor']:.2f}", f"{1000 * each:.3f} ms", f"{relative:.2f}x"]
            lines.append([part, str(entries), *times, *(f"{r[key]:.0f}" for key in ("peak", "before", "worker"))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run(folder: Path | None, entries: int, workers: int) -> dict[str, dict[int, dict[str, float]]]:
    """Measure every part on sets of three sizes, made below `folder` (the system's temporary folder without) and removed."""
    results: dict[str, dict[int, dict[str, float]]] = {part: {} for part in PARTS}
    for size in sorted({max(1, entries // 10), max(1, entries // 4), entries}):
        with tempfile.TemporaryDirectory(prefix="big_set_", dir=folder) as name:
            started = time.monotonic()
            make_set(Path(name), size)
            print(f"{size} entries written in {time.monotonic() - started:.0f} s", flush=True)
            for part in PARTS:
                results[part][size] = measure(part, Path(name), workers)
    return results


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=82000, help="entries of the largest list (default %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes of check and sweep; 0 is one per core (default)")
    parser.add_argument("--folder", type=Path, help="where to make the set (default: the system's temporary folder)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part:
        run_part(arguments.part, arguments.folder, arguments.workers)
    else:
        print(table(run(arguments.folder, arguments.entries, arguments.workers)))


if __name__ == "__main__":
    main(sys.argv[1:])
