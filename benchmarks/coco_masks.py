"""Speed of COCO masks against the plain annToMask loop, and memory of reading the annotations.

    python -m benchmarks.coco_masks                        # masks only: about a minute
    python -m benchmarks.coco_masks --annotations 604907   # also reads a made-up instances file of the size of train2014's

Both versions run in this process (one core), take turns, and go from annotations to a written PNG: 640x480 pictures with as
many outlines as COCO has (7.4 on average, 1 % crowds). Prints masks a second, the ratio, and the largest memory of the reader.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO

from benchmarks.measure import machine_line, time_both
from scripts.prepare_coco import write_mask
from utils.data.classes import palette
from utils.prepare.coco import CocoImage, read_instances

# (W, H), most common size of COCO; its means: annotations an image, corners an outline.
SIZE, PER_IMAGE, CORNERS = (640, 480), 7.37, 25
CATEGORIES = 80
GOAL = 150  # masks a second and core


def make_annotations(images: int, annotations: int, seed: int = 0) -> Iterator[str]:
    """Yield the text of an instances file in pieces, so that making it takes no memory."""
    rng = np.random.default_rng(seed)
    names = [{"id": k + 1, "name": f"class {k}"} for k in range(CATEGORIES)]
    entries = [{"id": i, "file_name": f"image_{i:012d}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in range(images)]
    yield f'{{"categories": {json.dumps(names)}, "images": {json.dumps(entries)}, "annotations": ['
    owners = np.sort(rng.integers(0, images, annotations))
    for n, owner in enumerate(owners.tolist()):
        yield ("," if n else "") + json.dumps(_annotation(rng, n, owner))
    yield "]}"


def _annotation(rng: np.random.Generator, number: int, owner: int) -> dict[str, Any]:
    crowd = bool(rng.random() < 0.01)
    centre, radius = rng.uniform(0.1, 0.9, 2) * SIZE, float(np.exp(rng.normal(3.9, 0.9)))
    angles = np.sort(rng.uniform(0, 2 * np.pi, max(3, int(rng.poisson(CORNERS)))))
    circle = np.stack([np.cos(angles), np.sin(angles)], 1) * (radius * rng.uniform(0.7, 1.3, (len(angles), 1)))
    outline = np.clip(centre + circle, 0, np.array(SIZE) - 1).round(2)
    segmentation: Any = [outline.ravel().tolist()]
    if crowd:
        cuts = np.sort(rng.choice(SIZE[0] * SIZE[1], 400, replace=False)).tolist()
        segmentation = {"size": [SIZE[1], SIZE[0]], "counts": np.diff([0, *cuts, SIZE[0] * SIZE[1]]).tolist()}
    low, high = outline.min(0), outline.max(0)
    return {
        "id": number, "image_id": owner, "category_id": int(rng.integers(1, CATEGORIES + 1)), "iscrowd": int(crowd),
        "segmentation": segmentation, "area": 3.1 * radius**2, "bbox": [*low.tolist(), *(high - low).tolist()],
    }  # fmt: skip


def plain_masks(coco: COCO, images: list[int], folder: Path) -> None:
    """Write masks the way it is usually done: annToMask, an index assignment an annotation, PIL's default PNG."""
    new = Path(tempfile.mkdtemp(dir=folder))
    ranks = {category: rank for rank, category in enumerate(sorted(coco.cats))}
    for image_id in images:
        info = coco.imgs[image_id]
        canvas = np.zeros((info["height"], info["width"]), np.uint8)
        for entry in coco.imgToAnns[image_id]:
            if not entry["iscrowd"]:
                canvas[coco.annToMask(entry) == 1] = ranks[entry["category_id"]] + 1
        picture = Image.fromarray(canvas)
        picture.putpalette(palette())
        picture.save(new / f"{Path(info['file_name']).stem}.png")


def our_masks(images: list[CocoImage], folder: Path) -> None:
    """Write masks as prepare_coco does."""
    new = Path(tempfile.mkdtemp(dir=folder))  # as in a real run, no file is replaced (which some file systems flush for)
    for image in images:
        write_mask(new, "skip", image)


def measure_masks(images: int, repeat: int) -> list[str]:
    """Time both versions on the same annotations; returns the lines of the report."""
    with tempfile.TemporaryDirectory(prefix="coco_masks_") as name:
        folder = Path(name)
        path = folder / "instances.json"
        path.write_text("".join(make_annotations(images, round(images * PER_IMAGE))))
        split, coco = read_instances(path).images, COCO(path)
        folders = [folder / "plain", folder / "ours"]
        for each in folders:
            each.mkdir()
        plain, ours = partial(plain_masks, coco, sorted(coco.imgs), folders[0]), partial(our_masks, split, folders[1])
        plain()
        ours()
        written = [next(each.iterdir()) for each in folders]
        pairs = [[np.asarray(Image.open(each / f"{image.id}.png")) for each in written] for image in split]
        difference = sum(int((a != b).sum()) for a, b in pairs)
        busy = [_busy_seconds(version) for version in (plain, ours)]
        timing = time_both(plain, ours, repeat=repeat, device=torch.device("cpu"))
    return [
        f"{images} masks of {SIZE[0]}x{SIZE[1]}, {PER_IMAGE} outlines each, one core: plain {images / timing.plain:.0f}/s, "
        f"ours {images / timing.ours:.0f}/s (goal {GOAL}/s), ratio {timing.ratio:.2f}x (lowest {timing.lowest:.2f}, highest "
        f"{timing.highest:.2f}), {difference} pixels differ",
        f"by processor time, which others' work on the machine touches less: plain {images / busy[0]:.0f}/s, ours "
        f"{images / busy[1]:.0f}/s",
    ]


def _busy_seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def measure_memory(annotations: int) -> list[str]:
    """Read a made-up file in a process of its own; returns the lines of the report."""
    with tempfile.TemporaryDirectory(prefix="coco_masks_") as name:
        path = Path(name) / "instances.json"
        with path.open("w") as file:
            file.writelines(make_annotations(round(annotations / PER_IMAGE), annotations))
        size = path.stat().st_size
        command = [sys.executable, "-m", "benchmarks.coco_masks", "--read", str(path)]
        seconds, kilobytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return [
        f"reading {annotations} annotations ({size / 1e6:.0f} MB of JSON): {float(seconds):.1f} s, largest memory "
        f"{int(kilobytes) / 2**20:.2f} GiB (goal: below 4)"
    ]


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="masks of one timing (default 200)")
    parser.add_argument("--repeat", type=int, default=5, help="timings of each version (default 5)")
    parser.add_argument("--annotations", type=int, default=0, help="also read a file of so many annotations (default 0: no)")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.read:
        started = time.monotonic()
        split = read_instances(arguments.read)
        print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        assert split.images
        return
    print(machine_line(torch.device("cpu")))
    print("\n".join(measure_masks(arguments.images, arguments.repeat)), flush=True)
    if arguments.annotations:
        print("\n".join(measure_memory(arguments.annotations)))


if __name__ == "__main__":
    main(sys.argv[1:])
